"""Naming, structure, consistency and group sizes on groups whose every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from calico_model.evaluation.outcome import METRIC_PATHS, EvaluationReport, nest_block
from calico_model.evaluation.protocol import WORDINGS, Extras, ask_also, evaluate
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask
from calico_model.vocabulary import Vocabulary
from tests.unit.evaluation.labeled_chairs import (
    COMMON_OBJECT,
    COMMON_PART,
    UNIQUE_PART,
    Oracle,
    SteerableOracle,
    box,
)

Parts = Sequence[PartMask]


def block(report: EvaluationReport, *path: str) -> dict[str, float]:
    return {p[-1]: m.value for p, m in report.blocks.items() if p[:-1] == path}


def test_truth_is_named_right(chairs: list[LabeledGroup]) -> None:
    figures = block(evaluate(Oracle(chairs), chairs, resamples=5), "vocabulary")
    assert figures.pop("out_of_vocabulary") == 0
    assert set(figures.values()) == {100}


def test_kind_does_not_matter_to_names(chairs: list[LabeledGroup]) -> None:
    def all_unique(parts: Parts) -> Parts:
        return [replace(p, kind=UNIQUE_PART) if p.kind is COMMON_PART else p for p in parts]

    figures = block(evaluate(Oracle(chairs, all_unique), chairs, resamples=5), "vocabulary")
    assert figures["pixel_mIoU"] == figures["PQ"] == 100


def test_wrong_names_cost_by_label_and_may_come_second(chairs: list[LabeledGroup]) -> None:
    def add_paws(parts: Parts) -> Parts:
        legs = [part for part in parts if part.label == "leg"]
        others = [part for part in parts if part.label != "leg"]
        # The better mask is misnamed, a worse one has the right name.
        paws = [replace(leg, label="paw") for leg in legs]
        worse = [replace(leg, mask=np.roll(leg.mask, 2, axis=1)) for leg in legs]
        return [*others, *paws, *worse]

    figures = block(evaluate(Oracle(chairs, add_paws), chairs, resamples=5), "vocabulary")
    # Per group: chair, seat, arm rest, wheel 1; leg 8 of 14 columns' pixels each way; paw 0.
    assert figures["pixel_mIoU"] == pytest.approx(100 * (4 + 0.5) / 6)
    assert figures["top1"] == pytest.approx(100 * 6 / 8)
    assert figures["top3"] == 100
    assert figures["out_of_vocabulary"] == pytest.approx(100 * 2 / 10)


def test_predictions_are_put_into_the_words_of_a_vocabulary(chairs: list[LabeledGroup]) -> None:
    def rename(parts: Parts) -> Parts:
        words = {"leg": "Legs", "seat": "seatt", "arm rest": "balloon"}
        return [replace(part, label=words.get(part.label, part.label)) for part in parts]

    words = Vocabulary(("chair", "leg", "seat", "arm rest", "front wheel"))
    report = evaluate(Oracle(chairs, rename), chairs, extras=Extras(vocabulary=words), resamples=5)
    figures = block(report, "vocabulary")
    assert figures["out_of_vocabulary"] == pytest.approx(100 / 8)
    # The arm rest is lost, its place is not claimed by anything else.
    assert figures["pixel_mIoU"] == pytest.approx(100 * 4 / 5)
    assert figures["SQ"] == 100


def test_parts_belong_inside_apart_and_all_over(mugs: list[LabeledGroup]) -> None:
    figures = block(evaluate(Oracle(mugs), mugs, resamples=5), "structure")
    assert figures["hierarchy_violation"] == figures["outside_object"] == 0
    assert figures["overlap"] == 0
    assert figures["coverage"] == figures["coverage_of_truth"] > 0


def test_parts_outside_their_object_violate_the_hierarchy(mugs: list[LabeledGroup]) -> None:
    def half_out(parts: Parts) -> Parts:
        legs = [part for part in parts if part.kind is COMMON_OBJECT]
        return [*legs, PartMask(0, COMMON_PART, "leg", box(0, 4, 4, 8), "chair")]

    figures = block(evaluate(Oracle(mugs, half_out), mugs, resamples=5), "structure")
    assert figures["hierarchy_violation"] == 50
    assert figures["outside_object"] == 50
    assert np.isnan(figures["overlap"])
    assert figures["coverage"] == pytest.approx(100 * (8 / 28**2 + 0) / 2)


def test_pixels_of_two_parts_overlap(chairs: list[LabeledGroup]) -> None:
    def twice(parts: Parts) -> Parts:
        return [
            PartMask(0, COMMON_PART, "a", box(0, 4, 0, 4)),
            PartMask(0, COMMON_PART, "b", box(0, 4, 2, 6)),
        ]

    report = evaluate(Oracle(chairs, twice), chairs, resamples=5)
    assert block(report, "structure")["overlap"] == pytest.approx(100 * 8 / 24)


class Moody(SteerableOracle):
    """Answers other wordings and other orders with an edit of its answer."""

    def __init__(self, groups: list[LabeledGroup], words: object, order: object) -> None:
        super().__init__(groups)
        self.words, self.order = words, order
        self.wordings: list[int] = []

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        self.wordings.append(wording)
        if group.ids in self.truth:
            parts = self.words(self.truth[group.ids])  # type: ignore[operator]
            return GroupPrediction(tuple(parts), self.version)
        last = len(group) - 1
        parts = self.order(self.truth[group.ids[::-1]])  # type: ignore[operator]
        turned = [replace(part, image_index=last - part.image_index) for part in parts]
        return GroupPrediction(tuple(turned), self.version)


def test_steady_answers_are_consistent(chairs: list[LabeledGroup]) -> None:
    moody = Moody(chairs, lambda parts: parts, lambda parts: parts)
    report = evaluate(moody, chairs, extras=ask_also(moody, consistency=4), resamples=5)
    for way in ("wording", "order"):
        assert set(block(report, "consistency", way).values()) == {100}
    assert moody.wordings == [*range(1, WORDINGS), 0] * 4
    assert report.blocks["consistency", "order", "same_answer"].n == 4


def test_every_way_to_waver_shows_in_its_own_figure(chairs: list[LabeledGroup]) -> None:
    def rename(parts: Parts) -> Parts:
        return [replace(p, label="paw") if p.label == "leg" else p for p in parts]

    def change_kind(parts: Parts) -> Parts:
        return [replace(p, kind=UNIQUE_PART) if p.label == "leg" else p for p in parts]

    moody = Moody(chairs, rename, change_kind)
    report = evaluate(moody, chairs, extras=ask_also(moody, consistency=6), resamples=5)
    words, order = block(report, "consistency", "wording"), block(report, "consistency", "order")
    assert words["mask_agreement"] == 100
    assert words["label_agreement"] == pytest.approx(100 * 6 / 8)
    assert words["kind_agreement"] == 100
    assert order["kind_agreement"] == pytest.approx(100 * 6 / 8)
    assert order["mask_agreement"] == pytest.approx(100 * (2 * 1 + 2 * 0.5 + 2 * 0.5) / 6)
    assert words["same_answer"] == order["same_answer"] == 0


def test_a_misplaced_region_is_counted_once_however_often_the_group_is_asked(
    chairs: list[LabeledGroup],
) -> None:
    class Astray(Moody):
        """Its first answer has a region in an image there is not."""

        def predict(self, group: ImageGroup) -> GroupPrediction:
            found = super().predict(group)
            return replace(found, parts=(*found.parts, replace(found.parts[0], image_index=5)))

    astray = Astray(chairs, lambda parts: parts, lambda parts: parts)
    report = evaluate(astray, chairs, extras=ask_also(astray, consistency=2), resamples=5)
    assert report.answers["skipped_regions"] == len(chairs)
    assert sum("skipped region" in warning for warning in report.warnings) == len(chairs)


def test_truth_outside_the_vocabulary_is_named(chairs: list[LabeledGroup]) -> None:
    words = Vocabulary(("chair", "leg", "seat", "arm rest"))
    report = evaluate(Oracle(chairs), chairs, extras=ask_also(Oracle(chairs), vocabulary=words))
    assert "front wheel" not in words.labels
    (note,) = (warning for warning in report.warnings if "vocabulary" in warning)
    assert f"{len(chairs)} true regions" in note
    assert "front wheel" in note


def test_objects_drawn_in_pieces_hold_their_parts(chairs: list[LabeledGroup]) -> None:
    def split_chair(parts: Parts) -> Parts:
        halves = [box(2, 16, 2, 30), box(16, 30, 2, 30)]
        return [
            replace(part, mask=mask)
            for part in parts
            for mask in (halves if part.kind is COMMON_OBJECT else [part.mask])
        ]

    figures = block(evaluate(Oracle(chairs, split_chair), chairs, resamples=5), "structure")
    assert figures["hierarchy_violation"] == 0


def test_a_part_drawn_in_pieces_is_one_region_in_pair_recall(chairs: list[LabeledGroup]) -> None:
    thirds = [box(0, 32, 0, 6), box(0, 32, 6, 8), box(0, 32, 8, 32)]

    def split_legs(parts: Parts) -> Parts:
        return [
            replace(part, mask=part.mask & half)
            for part in parts
            for half in (thirds if part.label == "leg" else [part.mask])
        ]

    report = evaluate(Oracle(chairs, split_legs), chairs, resamples=5)
    strict = report.tasks["common_part"]["strict"]
    assert strict["mIoU"].value == 100
    assert strict["pair_recall50"].value == 100


def test_group_sizes_are_reported_apart(chairs: list[LabeledGroup]) -> None:
    def third(labeled: LabeledGroup) -> LabeledGroup:
        group = labeled.group
        images = (*group.images, group.images[0].copy())
        return replace(labeled, group=ImageGroup(images, (*group.ids, "more")))

    mixed = [third(labeled) if index >= 4 else labeled for index, labeled in enumerate(chairs)]
    oracle = Oracle(mixed, refuses=("4a",))
    report = evaluate(oracle, mixed, resamples=20)
    assert [(size, own.groups) for size, own in report.group_sizes.items()] == [(2, 4), (3, 2)]
    assert report.group_sizes[2].mean["strict"]["mIoU"].value == 100
    assert report.group_sizes[3].mean["strict"]["mIoU"].value == 50
    assert report.group_sizes[3].tasks["unique_part"]["compat"]["Recall"].value == 50
    alone = evaluate(oracle, mixed[4:], resamples=20)
    assert report.group_sizes[3].mean == alone.group_sizes[3].mean


def test_every_report_holds_every_path(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs), chairs, resamples=5)
    assert tuple(report.blocks) == METRIC_PATHS
    table = nest_block("consistency", report.blocks)
    assert list(table) == ["wording", "order"]
