"""Names and exemplars asked of sources beside the model: what is joined, left out and recorded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.serving.metrics import Metrics
from backend.serving.named_sources import find_unasked
from backend.serving.propagation import propagate
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import NOBODY_JUDGED, TaskTrust
from backend.serving.text_prompts import answer_question
from backend.types import Task, TextPrompt
from calico_model.interactive.naming.closed_set import ClosedSet
from calico_model.sources.source import OWN_SOURCE, Ability, Encoding, SourceDescription, SourceMask
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary
from tests.doubles import ModelDouble, proposal, reference

SIZE = (20, 40)
COMMON = RegionKind.COMMON_PART
GROUP = ImageGroup(tuple(np.full((*SIZE, 3), k, np.uint8) for k in range(3)), ("a", "b", "c"))
NOTHING = GroupPrediction((), "v1")
LABELS = Vocabulary(("Handle", "Spout", "Lid"), aliases={"grip": "Handle"})


def columns(start, end):
    drawn = np.zeros(SIZE, np.bool_)
    drawn[:, start:end] = True
    return drawn


@dataclass
class Wordy:
    """Gives, by image and name, some columns; an exemplar is answered with `alike`, by image."""

    name: str = "wordy"
    found: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=dict)
    alike: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    gate: threading.Event | None = None
    error: Exception | None = None
    names: list[tuple[str, ...]] = field(default_factory=list)

    def describe(self):
        abilities = frozenset({Ability.TEXT, Ability.EXEMPLAR})
        return SourceDescription(self.name, abilities, self.name, "MIT", 1)

    def encode(self, image):
        if self.gate is not None:
            assert self.gate.wait(60)
        return Encoding(image.shape[:2], int(image[0, 0, 0]), 1)

    def segment_names(self, encoding, names):
        if self.error is not None:
            raise self.error
        self.names.append(tuple(names))
        return [
            SourceMask(columns(*place), 0.8, name)
            for name in names
            for place in self.found.get((encoding.state, name), [])
        ]

    def segment_alike(self, encoding, exemplar, mask):
        if self.error is not None:
            raise self.error
        assert exemplar.state != encoding.state
        assert mask.any()
        return [SourceMask(columns(*place), 0.8) for place in self.alike.get(encoding.state, [])]


class Silent(ModelDouble):
    """Knows no name."""

    def refer(self, group, names, group_prediction):
        return [reference(name, (), (), is_known=False) for name, _ in names]


class Outlining(ModelDouble):
    """Gives columns of the first image for every name, and knows it."""

    def __init__(self, start, end, score=0.8):
        self._mask, self._score = columns(start, end), score

    def refer(self, group, names, group_prediction):
        return [
            reference(name, (PartMask(0, COMMON, name, self._mask, score=self._score),), (1, 2))
            for name, _ in names
        ]

    def transfer(self, group, part, group_prediction):
        own = PartMask(1, COMMON, part.label, self._mask, part_id="p", score=self._score)
        return [proposal(1, own), proposal(2)]


@pytest.fixture
def pool():
    def build(*sources, budget_s=60.0):
        openers = [(source.name, lambda source=source: source) for source in sources]
        built = SourcePool(openers, Metrics(), budget_s=budget_s, cache_bytes=1000)
        built.start()
        built.wait_until_loaded(60)
        return built

    return build


def ask(text, model, sources, trust=NOBODY_JUDGED, closed=None):
    question = TextPrompt("q", 0, text)
    return answer_question(question, GROUP, NOTHING, model, closed, sources=sources, trust=trust)


def test_a_word_that_only_a_source_knows_is_answered_on_every_image(pool):
    source = Wordy(found={(0, "handle"): [(0, 5)], (2, "handle"): [(8, 12), (20, 26)]})
    reply = ask("segment the handle", Silent(), pool(source))
    shown = [(part.image_index, part.label) for part in reply.prediction.parts]
    assert shown == [(0, "handle"), (2, "handle"), (2, "handle")]
    assert reply.sentence == "handle: on images 1 (60%), 3 (2: 60% and 60%), absent on 2"


def test_instances_of_one_name_have_an_id_each_and_the_same_when_asked_again(pool):
    source = Wordy(found={(1, "leg"): [(30, 35), (2, 6), (12, 18)]})
    sources = pool(source)
    ids = [part.part_id for part in ask("leg", Silent(), sources).prediction.parts]
    assert ids == ["leg@2.1", "leg@2.2", "leg@2.3"]
    masks = [part.mask for part in ask("leg", Silent(), sources).prediction.parts]
    assert [int(np.argmax(mask[0])) for mask in masks] == [2, 12, 30]


@pytest.mark.parametrize("legs", [[(0, 10), (11, 20)], [(0, 4), (6, 10), (12, 18)]])
def test_the_model_s_mask_of_all_instances_speaks_for_each_of_them(pool, legs):
    source = Wordy(found={(0, "leg"): legs})
    parts = ask("leg", Outlining(0, 20), pool(source)).prediction.parts
    assert [int(part.mask[0].sum()) for part in parts] == [end - start for start, end in legs]
    assert all(part.score > 0.6 for part in parts)
    assert len({part.part_id for part in parts}) == len(legs)


def test_agreement_makes_a_region_surer_and_silence_less_sure(pool):
    agreed = ask("leg", Outlining(0, 10), pool(Wordy(found={(0, "leg"): [(0, 11)]})))
    doubted = ask("leg", Outlining(0, 10), pool(Wordy()))
    (sure,), (unsure,) = agreed.prediction.parts, doubted.prediction.parts
    assert sure.score > 0.6 > unsure.score


def test_without_sources_or_words_the_model_answers_alone(pool):
    alone = ask("leg", Outlining(0, 10), None)
    failing = ask("leg", Outlining(0, 10), pool(Wordy(error=RuntimeError("on purpose"))))
    for reply in (alone, failing):
        (part,) = reply.prediction.parts
        assert part.score == 0.8
    clicks_only = Wordy()
    clicks_only.describe = lambda: SourceDescription(
        "wordy", frozenset({Ability.CLICK}), "w", "MIT", 1
    )
    ask("leg", Outlining(0, 10), pool(clicks_only))
    assert clicks_only.names == []


def test_a_source_that_is_too_slow_is_left_out_and_counted(pool):
    gate = threading.Event()
    sources = pool(Wordy(gate=gate), budget_s=0.01)
    try:
        reply = ask("leg", Outlining(0, 10), sources)
    finally:
        gate.set()
    assert len(reply.prediction.parts) == 1
    assert sources.status()[0].asked["late"] == 1


def test_a_label_is_asked_by_its_name_and_aliases_and_answered_under_the_label(pool):
    source = Wordy(found={(1, "grip"): [(0, 9)]})
    reply = ask("the grip", Silent(), pool(source), closed=ClosedSet(LABELS))
    assert source.names == [("handle", "grip")] * 3
    assert [part.label for part in reply.prediction.parts] == ["Handle"]


def test_a_source_that_was_wrong_is_silent(pool):
    source = Wordy(found={(0, "leg"): [(0, 5)]})
    wrong = TrustTable({TrustKey("wordy", Ability.TEXT, "leg"): TrustCounts(20, 0, 0.0, 20)})
    reply = ask("leg", Silent(), pool(source), TaskTrust(wrong))
    assert reply.prediction.parts == ()


class Recorder:
    def __init__(self):
        self.answers = []

    def record(self, answer):
        self.answers.append(answer)


def task_trust(recorder):
    return TaskTrust(TrustTable(), Task(4, 2, ()), LABELS, recorder)


def test_answers_are_left_for_learning(pool):
    recorder = Recorder()
    source = Wordy(found={(1, "spout"): [(0, 9)]})
    closed = ClosedSet(LABELS)
    ask("spout", Outlining(0, 10), pool(source), task_trust(recorder), closed)
    assert [answer.image_index for answer in recorder.answers] == [0, 1, 2]
    first, second, _ = recorder.answers
    assert first.asked == (OWN_SOURCE, "wordy")
    assert [one.source for one in first.proposals] == [OWN_SOURCE]
    assert [(one.source, one.label) for one in second.proposals] == [("wordy", "spout")]
    assert (second.ability, second.labels) == (Ability.TEXT, ("Spout",))


def outlined():
    return PartMask(0, COMMON, "Handle", columns(3, 9), part_id="p")


def test_the_same_part_is_sought_by_exemplar_on_the_other_images(pool):
    recorder = Recorder()
    sources = pool(Wordy(alike={1: [(0, 10)], 2: [(4, 8), (20, 30)]}))
    found = propagate(
        outlined(),
        GROUP,
        None,
        Outlining(0, 10),
        LABELS,
        sources=sources,
        trust=task_trust(recorder),
    )
    shown = [(part.image_index, part.label, part.part_id) for part in found.parts]
    assert shown == [
        (0, "Handle", "p"),
        (1, "Handle", "p"),
        (2, "Handle", "Handle@3.1"),
        (2, "Handle", "Handle@3.2"),
    ]
    assert found.absent == ()
    assert found.parts[1].score > found.parts[2].score
    assert {answer.ability for answer in recorder.answers} == {Ability.EXEMPLAR}
    assert [answer.image_index for answer in recorder.answers] == [1, 2]


def test_where_no_source_answers_an_exemplar_the_model_s_proposals_stay(pool):
    sources = pool(Wordy(error=RuntimeError("on purpose")))
    found = propagate(outlined(), GROUP, None, Outlining(0, 10), LABELS, sources=sources)
    alone = propagate(outlined(), GROUP, None, Outlining(0, 10), LABELS)
    assert [part.score for part in found.parts] == [part.score for part in alone.parts]
    assert found.absent == alone.absent == (2,)


def test_labels_that_the_model_does_not_show_are_looked_for_unasked(pool):
    source = Wordy(found={(0, "spout"): [(0, 5)], (1, "handle"): [(0, 5)]})
    shown = PartMask(0, COMMON, "Handle", columns(20, 30), score=0.9)
    prediction = GroupPrediction((shown,), "v1")
    found, is_complete = find_unasked(
        pool(source), GROUP, prediction, LABELS, NOBODY_JUDGED, budget_s=60
    )
    assert source.names == [("spout", "lid")] * 3
    assert [(part.label, part.image_index) for part in found.parts] == [("Handle", 0), ("Spout", 0)]
    assert is_complete


def test_unasked_only_what_is_likely_is_shown(pool):
    source = Wordy(found={(0, "spout"): [(0, 5)]})
    doubtful = TrustTable({TrustKey("wordy", Ability.TEXT, "spout"): TrustCounts(10, 4, 3.0, 10)})
    found, _ = find_unasked(pool(source), GROUP, NOTHING, LABELS, TaskTrust(doubtful), budget_s=60)
    assert found.parts == ()


def test_an_answer_without_a_slow_source_is_not_complete(pool):
    gate = threading.Event()
    try:
        found, is_complete = find_unasked(
            pool(Wordy(gate=gate)), GROUP, NOTHING, LABELS, NOBODY_JUDGED, budget_s=0.01
        )
    finally:
        gate.set()
    assert found.parts == ()
    assert not is_complete
