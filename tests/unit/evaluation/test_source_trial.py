"""Stand-ins have the faults they are named after, and corrected groups find them out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError, InvalidImageError
from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.source_trial import TOGETHER, OwnSource, SourceTrial, try_sources
from calico_model.evaluation.stand_in_sources import (
    Fault,
    StandInSource,
    Truth,
    read_truth,
    true_regions,
)
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
from calico_model.sources.source import (
    Ability,
    Encoding,
    PromptSource,
    SourceDescription,
    SourceMask,
    TextSource,
)
from calico_model.types import ImageGroup, LabeledGroup, RgbImage


def make_stand_ins(truth: Truth) -> tuple[StandInSource, ...]:
    """One stand-in of every fault."""
    return tuple(StandInSource(fault, truth) for fault in Fault)


@cache
def drawn() -> tuple[Sequence[LabeledGroup], Truth]:
    groups = list(DrawnGroups(SceneSplit.SEEN, 16, 3, (2, 2)))
    return groups, read_truth(groups)


@cache
def trial(*faults: Fault) -> SourceTrial:
    groups, truth = drawn()
    sources = [StandInSource(fault, truth) for fault in faults]
    return try_sources(groups, sources, truth.labels)


@pytest.fixture(params=list(Fault))
def stand_in(request: pytest.FixtureRequest) -> StandInSource:
    return StandInSource(request.param, drawn()[1])


def test_stand_ins_keep_the_promise_of_sources(stand_in: StandInSource) -> None:
    assert isinstance(stand_in, TextSource)
    assert isinstance(stand_in, PromptSource)
    groups, truth = drawn()
    image = groups[0].group.images[0]
    encoding = stand_in.encode(image)
    masks = stand_in.segment_names(encoding, truth.labels)
    assert masks
    clicked = stand_in.segment_prompt(encoding, MaskPrompt((Click(30.0, 40.0),)))
    for one in [*masks, *clicked]:
        assert one.mask.shape == image.shape[:2]
        assert one.mask.dtype == np.bool_
    assert all(one.label in truth.labels for one in masks)
    again = stand_in.segment_names(stand_in.encode(image), truth.labels)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(masks, again, strict=True))


def test_the_faults_are_as_named() -> None:
    groups, truth = drawn()
    shifted = []
    for group in groups[:6]:
        regions = {one.label: one.mask for one in true_regions(group, 0)}
        given = {}
        for source in make_stand_ins(truth):
            encoding = source.encode(group.group.images[0])
            given[source.describe().name] = source.segment_names(encoding, list(regions))
        exact = {one.label: one.mask for one in given["exact"]}
        assert exact.keys() == regions.keys()
        assert all(np.array_equal(exact[name], regions[name]) for name in regions)
        shifted += [
            float(iou_matrix([one.mask], [regions[str(one.label)]])[0, 0])
            for one in given["shifted"]
        ]
        for one in given["renames"]:
            assert not np.array_equal(one.mask, regions[str(one.label)])
            assert any(np.array_equal(one.mask, mask) for mask in regions.values())
    assert 0.6 < np.mean(shifted) < 0.7
    assert max(shifted) < 1


def test_an_unlabeled_image_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="labeled groups"):
        StandInSource(Fault.EXACT, drawn()[1]).encode(np.zeros((9, 9, 3), np.uint8))


def test_ten_corrected_groups_order_the_sources_and_silence_the_random_one() -> None:
    result = trial(*Fault)
    assert result.corrected == 10
    assert len(result.ordered_labels()) >= 0.95 * len(result.labels) > 10
    assert result.lost <= 1.0
    assert Fault.RANDOM not in result.spoken
    by_name = {one.name: one for one in result.sources}
    assert by_name["random"].silent == len(result.labels)
    assert by_name["exact"].silent == 0
    assert by_name["exact"].names_pq == pytest.approx(100)
    assert result.sources[-1].name == TOGETHER


def test_the_order_in_which_sources_are_added_does_not_matter() -> None:
    result = trial(*reversed(Fault))
    assert len(result.ordered_labels()) >= 0.95 * len(result.labels)
    assert result.lost <= 1.0
    assert Fault.RANDOM not in result.spoken


def test_without_an_exact_source_all_together_are_as_good_as_the_best() -> None:
    assert trial(Fault.RANDOM, Fault.SHIFTED, Fault.RENAMES).lost <= 1.0


class Specialist:
    """Knows half of the labels exactly, and guesses the others."""

    def __init__(self, name: str, truth: Truth, known: Sequence[str]) -> None:
        self._name, self._known = name, frozenset(known)
        self._exact, self._guess = (
            StandInSource(fault, truth) for fault in (Fault.EXACT, Fault.RANDOM)
        )

    def describe(self) -> SourceDescription:
        return SourceDescription(self._name, frozenset({Ability.TEXT}), self._name, "none", 0)

    def encode(self, image: RgbImage) -> Encoding:
        return self._exact.encode(image)

    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        known = [name for name in names if name in self._known]
        others = [name for name in names if name not in self._known]
        return [
            *self._exact.segment_names(encoding, known),
            *self._guess.segment_names(encoding, others),
        ]


def test_two_specialists_are_each_believed_about_what_they_know() -> None:
    groups, truth = drawn()
    halves = truth.labels[::2], truth.labels[1::2]
    sources = [Specialist(f"half {k}", truth, half) for k, half in enumerate(halves)]
    result = try_sources(groups, sources, truth.labels)
    *alone, together = [one.names_pq for one in result.sources]
    assert together is not None
    assert all(one is not None and together > one + 20 for one in alone)
    for label in result.labels:
        knows = [label in half for half in halves]
        silent = [result.table.of(f"half {k}", Ability.TEXT, label).is_silent for k in range(2)]
        assert not silent[knows.index(True)]


def test_renaming_costs_the_trust_in_names_and_none_in_outlines() -> None:
    table = trial(*Fault).table
    names = table.of(Fault.RENAMES, Ability.TEXT, None)
    clicks = table.of(Fault.RENAMES, Ability.CLICK, None)
    assert names.is_silent
    assert clicks.trust == table.of(Fault.EXACT, Ability.CLICK, None).trust > 0.9


def test_too_few_groups_are_refused() -> None:
    groups, truth = drawn()
    with pytest.raises(InvalidConfigError, match="more than 16 groups"):
        try_sources(groups, make_stand_ins(truth), truth.labels, corrected=16)


def test_the_model_itself_answers_clicks_and_boxes_as_a_source() -> None:
    assistant = Assistant(load_predictor(DEFAULT_WEIGHTS, threads=1))
    source = OwnSource(assistant)
    assert isinstance(source, PromptSource)
    description = source.describe()
    assert description.abilities == {Ability.CLICK, Ability.BOX}
    assert description.parameters > 1_000_000
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    encoding = source.encode(image)
    for prompt in (MaskPrompt((Click(40, 50),)), MaskPrompt((), (10, 10, 60, 80))):
        (mask,) = source.segment_prompt(encoding, prompt)
        alone = assistant.refine(ImageGroup((image,), ("x",)), 0, prompt)
        assert np.array_equal(mask.mask, alone.mask)
        assert mask.score == alone.iou
