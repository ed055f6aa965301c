"""The protocol on groups whose every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from calico_model.errors import InvalidRecordError
from calico_model.evaluation.outcome import HEADLINE, SUBTASKS
from calico_model.evaluation.protocol import evaluate
from calico_model.types import LabeledGroup, PartMask
from tests.unit.evaluation.labeled_chairs import (
    COMMON_OBJECT,
    COMMON_PART,
    UNIQUE_PART,
    Oracle,
    box,
)

Parts = Sequence[PartMask]


def test_the_truth_scores_a_hundred(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs), chairs, resamples=20)
    for mode in ("strict", "compat"):
        for name in HEADLINE:
            metric = report.mean[mode][name]
            assert (metric.value, metric.lo, metric.hi) == pytest.approx((100, 100, 100))
    assert report.parts["status_accuracy"].value == 100
    assert report.tasks["common_part"]["strict"]["pair_recall50"].value == 100
    assert report.tasks["common_part"]["strict"]["label_consistency"].value == 100
    assert (report.groups, report.images) == (6, 12)


def test_silence_scores_zero(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs, lambda parts: ()), chairs, resamples=20)
    assert all(report.mean["strict"][name].value == 0 for name in HEADLINE)
    assert report.mean["compat"]["mIoU"].value == 0
    assert report.answers["empty_wrongly"] == 18


def test_subtasks_score_their_own_regions_only(chairs: list[LabeledGroup]) -> None:
    def objects_only(parts: Parts) -> Parts:
        return [part for part in parts if part.kind is COMMON_OBJECT]

    report = evaluate(Oracle(chairs, objects_only), chairs, resamples=20)
    assert [report.tasks[kind]["strict"]["mIoU"].value for kind in SUBTASKS] == [100, 0, 0]
    assert report.mean["strict"]["mIoU"].value == pytest.approx(100 / 3)


def test_subtasks_without_known_truth_are_not_scored(chairs: list[LabeledGroup]) -> None:
    truth = [
        replace(
            labeled,
            parts=tuple(part for part in labeled.parts if part.kind is COMMON_OBJECT),
            known=frozenset({COMMON_OBJECT}),
        )
        if index % 2
        else labeled
        for index, labeled in enumerate(chairs)
    ]
    report = evaluate(Oracle(chairs), truth, resamples=20)
    assert all(report.mean["strict"][name].value == pytest.approx(100) for name in HEADLINE)
    assert report.answers["questions"] == 3 * 3 + 3
    assert report.parts["status_accuracy"].value == 100


def test_answers_where_nothing_is_to_find_cost_strict_only(chairs: list[LabeledGroup]) -> None:
    def add_unique_everywhere(parts: Parts) -> Parts:
        extra = [PartMask(0, UNIQUE_PART, "lamp", box(0, 4, 0, 4))]
        return [*parts, *extra]

    truth = [
        replace(labeled, parts=tuple(p for p in labeled.parts if p.kind is not UNIQUE_PART))
        if index % 2
        else labeled
        for index, labeled in enumerate(chairs)
    ]
    report = evaluate(Oracle(truth, add_unique_everywhere), truth, resamples=20)
    unique = report.tasks["unique_part"]
    # Strict images: 3 with the arm rest and a lamp too many (0.5), 3 right (1), 3 with a lamp only.
    assert unique["strict"]["mIoU"].value == pytest.approx(100 * (3 * 0.5 + 3) / 9)
    assert unique["strict"]["mIoU"].n == 9
    assert unique["compat"]["mIoU"].value == 100
    assert unique["compat"]["mIoU"].n == 6
    assert report.answers["answered_nothing_to_find"] == 3
    assert unique["strict"]["AP50"].value < 100


def test_same_named_regions_are_one_region_in_strict(chairs: list[LabeledGroup]) -> None:
    def split_seats(parts: Parts) -> Parts:
        halves = []
        for part in parts:
            if part.label != "seat":
                halves.append(part)
                continue
            for columns in (slice(0, 14), slice(14, 32)):
                half = np.zeros_like(part.mask)
                half[:, columns] = part.mask[:, columns]
                halves.append(replace(part, mask=half))
        return halves

    report = evaluate(Oracle(chairs, split_seats), chairs, resamples=20)
    assert report.tasks["common_part"]["strict"]["mIoU"].value == 100
    assert report.tasks["common_part"]["compat"]["mIoU"].value < 90


def test_wrong_names_are_the_bottleneck_when_masks_are_right(chairs: list[LabeledGroup]) -> None:
    def rename(parts: Parts) -> Parts:
        return [replace(part, label=f"thing {index}") for index, part in enumerate(parts)]

    report = evaluate(Oracle(chairs, rename), chairs, resamples=20)
    oracle = report.oracle["common_part"]
    assert oracle["PQ"] == 0
    assert oracle["PQ_gain_oracle_label"] == 100
    assert oracle["mIoU_cls_gain_oracle_label"] == 100
    assert oracle["PQ_gain_oracle_mask"] == 0
    assert oracle["bottleneck"] == "label"
    assert report.mean["strict"]["mIoU"].value == 100
    assert report.mean["strict"]["Recall"].value == 0


def test_wrong_masks_are_the_bottleneck_when_names_are_right(chairs: list[LabeledGroup]) -> None:
    def move(parts: Parts) -> Parts:
        return [replace(part, mask=np.roll(part.mask, 3, axis=0)) for part in parts]

    report = evaluate(Oracle(chairs, move), chairs, resamples=20)
    oracle = report.oracle["common_part"]
    assert oracle["bottleneck"] == "mask"
    assert oracle["mIoU_cls_gain_oracle_mask"] == pytest.approx(100 - oracle["mIoU_cls"])


def test_common_instead_of_unique_costs_status_only_where_labels_agree(
    chairs: list[LabeledGroup],
) -> None:
    def all_common(parts: Parts) -> Parts:
        return [replace(p, kind=COMMON_PART) if p.kind is UNIQUE_PART else p for p in parts]

    report = evaluate(Oracle(chairs, all_common), chairs, resamples=20)
    assert report.parts["part_recall"].value == 100
    assert report.parts["status_accuracy"].value == pytest.approx(100 * 4 / 6)
    # The two invented common parts lie in one image each.
    consistency = report.tasks["common_part"]["strict"]["label_consistency"]
    assert consistency.value == pytest.approx(50)


def test_pair_recall_needs_every_image(chairs: list[LabeledGroup]) -> None:
    def lose_second_leg(parts: Parts) -> Parts:
        return [part for part in parts if not (part.label == "leg" and part.image_index == 1)]

    report = evaluate(Oracle(chairs, lose_second_leg), chairs, resamples=20)
    assert report.tasks["common_part"]["strict"]["pair_recall50"].value == 50
    assert report.tasks["common_part"]["strict"]["Recall"].value == 75


def test_malformed_answers_are_counted(chairs: list[LabeledGroup]) -> None:
    answers = {"common_object": "Both show <p> the chair [SEG].", "common_part": "They share none."}
    report = evaluate(Oracle(chairs, answers=answers), chairs, resamples=20)
    assert report.answers["malformed"] == 6
    assert any("6 answers had tags outside the grammar" in note for note in report.warnings)


def test_refused_group_counts_as_empty_and_is_named(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs, refuses=("2a",)), chairs, resamples=20)
    assert report.mean["strict"]["mIoU"].value == pytest.approx(100 * 5 / 6)
    assert any("group 2: no prediction" in note and "too dark" in note for note in report.warnings)


def test_regions_outside_the_group_are_skipped_and_named(chairs: list[LabeledGroup]) -> None:
    def add_ghosts(parts: Parts) -> Parts:
        ghost = PartMask(7, COMMON_PART, "ghost", box(0, 4, 0, 4))
        small = PartMask(0, COMMON_PART, "small", np.ones((4, 4), dtype=bool))
        return [*parts, ghost, small]

    report = evaluate(Oracle(chairs, add_ghosts), chairs, resamples=20)
    assert report.answers["skipped_regions"] == 12
    assert report.mean["strict"]["mIoU"].value == 100


def test_subtask_without_truth_is_left_out_of_the_mean(chairs: list[LabeledGroup]) -> None:
    truth = [
        replace(labeled, parts=tuple(p for p in labeled.parts if p.kind is COMMON_OBJECT))
        for labeled in chairs
    ]
    report = evaluate(Oracle(truth), truth, resamples=20)
    assert np.isnan(report.tasks["common_part"]["strict"]["mIoU"].value)
    assert report.mean["strict"]["mIoU"].value == 100
    assert any(note.startswith("common_part: no truth") for note in report.warnings)


def test_labels_are_scored_one_by_one(chairs: list[LabeledGroup]) -> None:
    def misname_legs(parts: Parts) -> Parts:
        return [replace(p, label="paw") if p.label == "leg" else p for p in parts]

    labels = evaluate(Oracle(chairs, misname_legs), chairs, resamples=20).labels["common_part"]
    assert labels["leg"].support == 12
    assert (labels["leg"].recall, labels["leg"].named, labels["leg"].miou) == (100, 0, 0)
    assert (labels["seat"].recall, labels["seat"].named, labels["seat"].miou) == (100, 100, 100)


def test_rare_labels_are_left_out(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs), chairs[:4], resamples=20)
    assert "arm rest" not in report.labels["unique_part"]
    assert "leg" in report.labels["common_part"]


def test_worst_groups_come_first(chairs: list[LabeledGroup]) -> None:
    oracle = Oracle(chairs, refuses=("3a",))
    report = evaluate(oracle, chairs, resamples=20, keep_worst=2)
    assert [case.index for case in report.worst] == [3, 0]
    assert report.worst[0].miou == 0


def test_a_repetition_gives_the_same_report(chairs: list[LabeledGroup]) -> None:
    def lose_some(parts: Parts) -> Parts:
        return parts[2:]

    first, second = (evaluate(Oracle(chairs, lose_some), chairs, resamples=50) for _ in range(2))
    assert first.mean == second.mean
    assert first.data_sha256 == second.data_sha256
    other = evaluate(Oracle(chairs, lose_some), chairs[::-1], resamples=50)
    assert other.data_sha256 != first.data_sha256


def test_the_fingerprint_covers_all_that_figures_depend_on(mugs: list[LabeledGroup]) -> None:
    def fingerprint(labeled: LabeledGroup) -> str:
        return evaluate(Oracle([labeled]), [labeled], resamples=1).data_sha256

    mug = mugs[0]
    first, *others = mug.parts
    one, two = mug.objects
    changes = [
        replace(mug, parts=(replace(first, part_id="o7"), *others)),
        replace(mug, parts=(replace(first, object_label="seat"), *others)),
        replace(mug, objects=(replace(one, label="cup"), two)),
        replace(mug, objects=(replace(one, mask=~one.mask), two)),
        replace(mug, known=frozenset({COMMON_OBJECT})),
    ]
    prints = [fingerprint(labeled) for labeled in (mug, *changes)]
    assert len(set(prints)) == len(prints)


def test_no_groups_are_refused() -> None:
    with pytest.raises(InvalidRecordError, match="at least one labeled group"):
        evaluate(Oracle([]), [])


def test_progress_is_told_after_every_group(chairs: list[LabeledGroup]) -> None:
    seen: list[int] = []
    evaluate(Oracle(chairs), chairs, resamples=2, on_group=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_answers_where_no_data_has_truth_cost_strict_miou_and_are_named(
    chairs: list[LabeledGroup],
) -> None:
    truth = [
        replace(chair, parts=tuple(p for p in chair.parts if p.kind is not UNIQUE_PART))
        for chair in chairs
    ]
    report = evaluate(Oracle(chairs), truth, resamples=5)
    assert report.mean["strict"]["mIoU"].value == pytest.approx(100 * 2 / 3)
    assert report.mean["strict"]["Recall"].value == 100
    (note,) = (warning for warning in report.warnings if warning.startswith(UNIQUE_PART))
    assert note.endswith("but for strict mIoU and PQ, where what was found counts 0")
