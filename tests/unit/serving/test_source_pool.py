"""Sources asked together: who answers, who is left out, and what is kept."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.serving import source_pool
from backend.serving.metrics import Metrics
from backend.serving.prompted_sources import outline
from backend.serving.source_pool import SourcePool
from calico_model.errors import CheckpointError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.source import (
    Ability,
    Encoding,
    SourceDescription,
    SourceMask,
)
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble, refined

SIZE = (20, 30)
CLICK = MaskPrompt((Click(3, 3),))


def mask(columns):
    drawn = np.zeros(SIZE, np.bool_)
    drawn[:, :columns] = True
    return drawn


@dataclass
class Clicked:
    """A source that outlines some columns; waits, or fails, where it is told to."""

    name: str
    columns: int = 10
    abilities: frozenset[Ability] = frozenset({Ability.CLICK})
    nbytes: int = 100
    gate: threading.Event | None = None
    error: Exception | None = None
    encoded: list[tuple[int, ...]] = field(default_factory=list)

    def describe(self):
        return SourceDescription(self.name, self.abilities, f"w-{self.name}", "MIT", 7)

    def encode(self, image):
        if self.gate is not None:
            assert self.gate.wait(60)
        self.encoded.append(image.shape)
        return Encoding(image.shape[:2], None, self.nbytes)

    def segment_prompt(self, encoding, prompt):
        if self.error is not None:
            raise self.error
        return (SourceMask(mask(self.columns), 0.7),)


class Model(ModelDouble):
    version = "v"

    def refine(self, group, image_index, prompt, group_prediction=None):
        return refined(mask(9))


@pytest.fixture
def group():
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(3))
    return ImageGroup(images, ("a", "b", "c"))


def pool(*sources, budget_s=60.0, cache_bytes=1000, metrics=None):
    made = SourcePool(
        [(source.name, lambda source=source: source) for source in sources],
        metrics or Metrics(),
        budget_s=budget_s,
        cache_bytes=cache_bytes,
    )
    made.start()
    made.wait_until_loaded(60)
    return made


def asked(sources):
    return {
        status.name: {outcome: n for outcome, n in status.asked.items() if n}
        for status in sources.status()
    }


def test_every_source_is_asked_and_the_encoding_is_kept(group):
    a, b = Clicked("a", 10), Clicked("b", 11)
    sources = pool(a, b)
    for _ in range(3):
        outlined = outline(Model(), sources, group, 0, CLICK, None)
    assert outlined.source == "a"
    assert outlined.is_complete
    assert outlined.mask.sum() == 20 * 10
    assert len(a.encoded) == len(b.encoded) == 1
    assert sources.cached_bytes == 200
    assert asked(sources) == {"a": {"answered": 3}, "b": {"answered": 3}}


def test_without_sources_the_models_mask_is_the_answer(group):
    for sources in (None, pool()):
        outlined = outline(Model(), sources, group, 0, CLICK, None)
        assert (outlined.source, outlined.is_complete) == ("calico", True)
        assert np.array_equal(outlined.mask, mask(9))


def test_the_kept_encodings_stay_below_their_ceiling(group):
    a = Clicked("a", nbytes=400)
    sources = pool(a, cache_bytes=1000)
    for index in (0, 1, 2, 2, 1, 0):
        outline(Model(), sources, group, index, CLICK, None)
        assert sources.cached_bytes <= 1000
    assert len(a.encoded) == 4  # the first image had to make room for the third


def test_a_failing_source_is_left_out_and_counted(group):
    metrics = Metrics()
    sources = pool(Clicked("bad", error=RuntimeError("on purpose")), Clicked("b"), metrics=metrics)
    outlined = outline(Model(), sources, group, 0, CLICK, None)
    assert outlined.source == "b"
    assert not outlined.is_complete
    assert asked(sources) == {"bad": {"failed": 1}, "b": {"answered": 1}}
    line = b'calico_source_requests_total{outcome="failed",source="bad"} 1.0'
    assert line in metrics.text()


def test_a_late_source_is_left_out_and_its_encoding_serves_the_next_click(group):
    gate = threading.Event()
    slow = Clicked("slow", gate=gate)
    sources = pool(slow, budget_s=0.01)
    outlined = outline(Model(), sources, group, 0, CLICK, None)
    assert (outlined.source, outlined.is_complete) == ("calico", False)
    assert asked(sources) == {"slow": {"late": 1}}
    gate.set()
    sources.encode_ahead(group, 0)  # behind the late call in the source's thread
    assert len(slow.encoded) == 1


def test_a_source_that_hangs_costs_one_click_the_budget(group):
    gate = threading.Event()
    slow = Clicked("slow", gate=gate)
    sources = pool(slow, budget_s=1.0)
    outline(Model(), sources, group, 0, CLICK, None)
    before = time.monotonic()
    for index in (1, 2) * 50:
        outlined = outline(Model(), sources, group, index, CLICK, None)
        assert (outlined.source, outlined.is_complete) == ("calico", False)
    assert time.monotonic() - before < 50.0  # and not a hundred times the budget
    assert asked(sources) == {"slow": {"late": 1, "paused": 100}}
    gate.set()
    sources.encode_ahead(group, 0)  # behind the only question that was asked meanwhile
    assert len(slow.encoded) == 2
    assert outline(Model(), sources, group, 0, CLICK, None).source == "slow"
    assert asked(sources) == {"slow": {"answered": 1, "late": 1, "paused": 100}}


def test_a_source_that_loads_is_left_out_and_one_that_cannot_is_not_asked(group):
    gate = threading.Event()

    def load_slowly():
        assert gate.wait(60)
        return Clicked("slow")

    def load_never():
        raise CheckpointError("no such folder")

    sources = SourcePool(
        [("slow", load_slowly), ("never", load_never)],
        Metrics(), budget_s=60.0, cache_bytes=1000,
    )  # fmt: skip
    sources.start()
    never = sources._workers[1]
    assert never._thread.run(lambda: never.state) == "failed"  # behind its loading
    assert [status.state for status in sources.status()] == ["loading", "failed"]
    assert not outline(Model(), sources, group, 0, CLICK, None).is_complete
    assert asked(sources) == {"slow": {"loading": 1}, "never": {}}
    assert sources.status()[1].problem == "no such folder"
    gate.set()
    sources.wait_until_loaded(60)
    assert outline(Model(), sources, group, 0, CLICK, None).is_complete


def test_only_sources_with_the_ability_are_asked(group):
    clicks, boxes = Clicked("clicks"), Clicked("boxes", abilities=frozenset({Ability.BOX}))
    sources = pool(clicks, boxes)
    outline(Model(), sources, group, 0, MaskPrompt(box=(1, 1, 5, 5)), None)
    assert (len(clicks.encoded), len(boxes.encoded)) == (0, 1)


def test_equal_images_of_two_tasks_are_encoded_once(group):
    a = Clicked("a")
    sources = pool(a)
    outline(Model(), sources, group, 1, CLICK, None)
    again = ImageGroup((group.images[1].copy(),), ("other",))
    outline(Model(), sources, again, 0, CLICK, None)
    assert len(a.encoded) == 1


def test_a_mask_that_does_not_fit_the_image_counts_as_a_failure(group):
    bad, good = Clicked("bad"), Clicked("good", columns=12)
    for drawn in (np.ones((3, 3), np.bool_), np.ones(SIZE, np.float32)):
        bad.segment_prompt = lambda _encoding, _prompt, drawn=drawn: (SourceMask(drawn, 0.7),)
        sources = pool(bad, good)
        outlined = outline(Model(), sources, group, 0, CLICK, None)
        assert (outlined.source, outlined.is_complete) == ("good", False)
        assert asked(sources) == {"bad": {"failed": 1}, "good": {"answered": 1}}


def test_a_score_that_is_no_number_counts_as_a_failure(group):
    bad = Clicked("bad")
    bad.segment_prompt = lambda _encoding, _prompt: (SourceMask(mask(3), float("nan")),)
    sources = pool(bad)
    assert outline(Model(), sources, group, 0, CLICK, None).source == "calico"
    assert asked(sources) == {"bad": {"failed": 1}}


def test_a_source_that_hangs_is_not_waited_for_until_it_comes_back(group, monkeypatch):
    gate = threading.Event()
    hanging = Clicked("hanging", gate=gate)
    sources = pool(hanging, budget_s=60.0)
    began = threading.Event()
    monkeypatch.setattr(hanging, "describe", signalling(hanging.describe, began))
    waiting = sources.begin(Ability.CLICK, lambda session: session.encode(group, 0))
    assert began.wait(60)
    monkeypatch.setattr(source_pool, "_STUCK_S", 0.0)
    before = time.monotonic()
    assert outline(Model(), sources, group, 1, CLICK, None).source == "calico"
    sources.encode_ahead(group, 2)
    assert time.monotonic() - before < 60.0
    assert asked(sources) == {"hanging": {"late": 1}}
    gate.set()
    assert [one.source for one in waiting.collect().answers] == ["hanging"]
    monkeypatch.setattr(source_pool, "_STUCK_S", 120.0)
    sources.encode_ahead(group, 2)
    assert len(hanging.encoded) == 2


def signalling(call, event):
    """The call, which signals first that it is made in the source's thread."""

    def called():
        if threading.current_thread() is not threading.main_thread():
            event.set()
        return call()

    return called


def test_the_fingerprint_names_the_weights_of_all_sources_that_answer():
    def broken():
        raise CheckpointError("model.safetensors: damaged")

    openers = [("bad", broken), ("good", lambda: Clicked("good"))]
    sources = SourcePool(openers, Metrics(), budget_s=1.0, cache_bytes=0)
    assert sources.fingerprint is None, "nobody knows yet which weights are in the folders"
    sources.start()
    sources.wait_until_loaded(60)
    assert sources.fingerprint == f"good@{Clicked('good').describe().weights}"


def test_a_source_that_is_always_slow_is_asked_in_the_background_until_it_is_in_time(group):
    slow, gates = Clicked("slow"), [threading.Event() for _ in range(4)]
    turns, answered = iter(gates), []

    def answer(_encoding, _prompt):
        gate = next(turns, None)
        if gate is not None:
            assert gate.wait(60)
        answered.append(gate)
        return (SourceMask(mask(10), 0.7),)

    slow.segment_prompt = answer
    sources = pool(slow, budget_s=0.05)
    worker = sources._workers[0]
    worker._pause._clock = lambda: 0.0  # time alone ends no pause
    for gate in gates[:2]:  # each waits for its budget
        outline(Model(), sources, group, 0, CLICK, None)
        gate.set()
        worker._thread.run(lambda: None)  # behind the late call
    for gate in gates[2:]:  # in the pause: its question is a probe, which is late as well
        before = worker._pause._time_outs
        outline(Model(), sources, group, 0, CLICK, None)
        assert not wait_until(worker._probe, 0.1)
        gate.set()
        worker._thread.run(lambda: None)
        assert worker._pause._time_outs == before + 1
    assert asked(sources) == {"slow": {"late": 2, "paused": 2}}
    sources._budget_s = 60.0
    outline(Model(), sources, group, 0, CLICK, None)  # the probe that is in time
    worker._thread.run(lambda: None)
    assert outline(Model(), sources, group, 0, CLICK, None).source == "slow"
    assert asked(sources) == {"slow": {"answered": 1, "late": 2, "paused": 3}}
    assert len(answered) == 6


def wait_until(pending, timeout_s):
    """Whether a future ends within the time."""
    return bool(futures.wait([pending], timeout_s).done)


def test_a_source_that_cannot_describe_itself_is_left_out_and_clicks_go_on(group):
    bad = Clicked("bad")
    bad.describe = lambda: (_ for _ in ()).throw(RuntimeError("on purpose"))
    sources = pool(bad, Clicked("good"))
    assert [status.state for status in sources.status()] == ["failed", "ready"]
    assert outline(Model(), sources, group, 0, CLICK, None).source == "good"


@pytest.mark.parametrize(
    "answer", [None, 5, (None,), (SourceMask(np.zeros((0, 0), np.bool_), 0.5),), "mask"]
)
def test_an_answer_that_is_no_mask_counts_as_a_failure(group, answer):
    bad = Clicked("bad")
    bad.segment_prompt = lambda _encoding, _prompt: answer
    sources = pool(bad)
    outlined = outline(Model(), sources, group, 0, CLICK, None)
    assert (outlined.source, outlined.is_complete) == ("calico", False)
    assert asked(sources) == {"bad": {"failed": 1}}


def test_a_source_that_draws_nothing_does_not_erase_the_models_mask(group):
    for masks in ((), (SourceMask(np.zeros(SIZE, np.bool_), 0.9),)):
        empty = Clicked("empty")
        empty.segment_prompt = lambda _encoding, _prompt, masks=masks: masks
        outlined = outline(Model(), pool(empty), group, 0, CLICK, None)
        assert np.array_equal(outlined.mask, mask(9))
