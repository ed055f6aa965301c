"""Part questions: which are asked, and what each protocol makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calico_model.errors import InvalidConfigError
from calico_model.evaluation import partonomy
from calico_model.evaluation.choices import READINGS, Taxonomy, wrong_answers, wrong_objects
from calico_model.evaluation.outcome import EvaluationReport
from calico_model.evaluation.protocol import ask_also, evaluate
from calico_model.evaluation.quiz import draw_questions, first_sentence, true_answers, true_items
from calico_model.evaluation.regions import as_regions
from calico_model.evaluation.report import write_report
from calico_model.prompts import parse_answer
from calico_model.types import (
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    Likelihood,
    PartMask,
    RegionKind,
)
from tests.unit.evaluation.labeled_chairs import (
    COMMON_OBJECT,
    COMMON_PART,
    UNIQUE_PART,
    Oracle,
    SteerableOracle,
    box,
)

Parts = Sequence[PartMask]
TAXONOMY = Taxonomy(
    {
        "chair": ("leg", "seat", "arm rest", "front wheel", "back"),
        "stool": ("leg", "seat", "ring"),
        "table": ("leg", "top"),
        "sofa": ("seat", "back", "arm rest"),
        "car": ("wheel", "door"),
        "lamp": ("shade", "pole"),
    }
)


class Forced(SteerableOracle):
    """Draws given answers from the truth, edited; finds the true answer likeliest."""

    forced: Sequence[PartMask] = ()

    def predict_forced(
        self, group: ImageGroup, answers: Mapping[RegionKind, str]
    ) -> GroupPrediction:
        self.asked = dict(answers)
        return GroupPrediction(tuple(self.edit_forced(self.truth[group.ids])), self.version)

    def edit_forced(self, parts: Parts) -> Parts:
        return parts

    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        truth = LabeledGroup(group, self.truth[group.ids], ())
        wanted = {label for label, _ in true_items(truth, kind)} | {"chair"}
        found = [{p.label for p in parse_answer(kind, answer).phrases} for answer in answers]
        return [Likelihood((-1.0,), (-float(len(labels ^ wanted)),)) for labels in found]


def value(report: EvaluationReport, *path: str) -> float:
    return report.blocks[("partonomy", *path)].value


def test_questions_follow_what_can_be_seen(chairs: list[LabeledGroup]) -> None:
    truth = as_regions(chairs[0].parts)
    asked = {
        (task, image): [r.label for r in answer]
        for task, image, answer in partonomy.questions(truth, 2)
    }
    assert asked == {
        ("identification", 0): ["leg", "seat", "arm rest"],
        ("intersection", 0): ["leg", "seat"],
        ("difference", 0): ["arm rest"],
        ("identification", 1): ["leg", "seat", "front wheel"],
        ("intersection", 1): ["leg", "seat"],
        ("difference", 1): ["front wheel"],
    }


def test_no_difference_is_asked_where_nothing_is_shared(chairs: list[LabeledGroup]) -> None:
    unique = [part for part in chairs[0].parts if part.kind is UNIQUE_PART]
    tasks = {task for task, _, _ in partonomy.questions(as_regions(unique), 2)}
    assert tasks == {"identification"}


def test_truth_scores_a_hundred_in_every_own_protocol(chairs: list[LabeledGroup]) -> None:
    report = evaluate(Oracle(chairs), chairs, resamples=10)
    for task in partonomy.TASKS:
        for mode in partonomy.OWN_MODES:
            assert value(report, task, mode, "macro_gIoU") == 100
        assert value(report, task, "text", "exact") == 100
        # Nobody forced an answer.
        assert np.isnan(value(report, task, "teacher", "micro_gIoU"))


def test_extra_parts_cost_in_end2end_x_alone(chairs: list[LabeledGroup]) -> None:
    def add(parts: Parts) -> Parts:
        return [*parts, *(PartMask(i, COMMON_PART, "lid", box(0, 2, 0, 2)) for i in range(2))]

    report = evaluate(Oracle(chairs, add), chairs, resamples=10)
    assert value(report, "intersection", "end2end", "micro_gIoU") == 100
    assert value(report, "intersection", "end2end_x", "micro_gIoU") == pytest.approx(200 / 3)
    assert value(report, "intersection", "text", "part_precision") == pytest.approx(200 / 3)
    assert value(report, "intersection", "text", "part_recall") == 100
    assert value(report, "intersection", "text", "exact") == 0
    assert value(report, "difference", "end2end_x", "micro_gIoU") == 100


def test_teacher_pairs_by_position_and_forgets_what_is_missing(chairs: list[LabeledGroup]) -> None:
    class LosesSeats(Forced):
        def edit_forced(self, parts: Parts) -> Parts:
            return [part for part in parts if part.label not in ("seat", "arm rest")]

    predictor = LosesSeats(chairs)
    extras = ask_also(predictor, forced=True)
    report = evaluate(predictor, chairs, extras=extras, resamples=10)
    assert value(report, "intersection", "teacher", "micro_gIoU") == 100
    assert value(report, "intersection", "strict", "micro_gIoU") == 50
    # Image 0 has no mask of a unique part: the released script skips the question.
    assert report.blocks["partonomy", "difference", "teacher", "macro_gIoU"].n == 6
    assert report.blocks["partonomy", "difference", "strict", "macro_gIoU"].n == 12
    assert value(report, "difference", "strict", "macro_gIoU") == 50
    # By position, the front wheel is compared with nothing, the leg with the leg.
    assert value(report, "identification", "teacher", "micro_gIoU") < 100


def test_teacher_compares_the_wrong_masks_when_order_is_lost(chairs: list[LabeledGroup]) -> None:
    class Turned(Forced):
        def edit_forced(self, parts: Parts) -> Parts:
            return parts[::-1]

    predictor = Turned(chairs)
    report = evaluate(predictor, chairs, extras=ask_also(predictor, forced=True), resamples=10)
    assert value(report, "intersection", "teacher", "micro_gIoU") < 5
    assert value(report, "intersection", "strict", "micro_gIoU") == 100


def test_teacher_does_not_mind_the_order_of_the_truth(chairs: list[LabeledGroup]) -> None:
    """Answers name common parts before unique ones, whatever order the truth is stored in."""
    turned = [replace(chair, parts=chair.parts[::-1]) for chair in chairs]

    class Ordered(Forced):
        def edit_forced(self, parts: Parts) -> Parts:
            stored = tuple(parts)
            return [part for kind in RegionKind for part in stored if part.kind is kind]

    ordered = Ordered(turned)
    report = evaluate(ordered, turned, extras=ask_also(ordered, forced=True), resamples=5)
    assert value(report, "identification", "teacher", "micro_gIoU") == 100


def test_forced_answers_are_the_true_ones(chairs: list[LabeledGroup]) -> None:
    answers = true_answers(chairs[0])
    assert list(answers) == list(RegionKind)
    items = [(p.label, p.images) for p in parse_answer(COMMON_PART, answers[COMMON_PART]).phrases]
    assert items == [("chair", (0, 1)), ("leg", (0, 1)), ("seat", (0, 1))]
    assert true_items(chairs[0], UNIQUE_PART) == [("arm rest", (0,)), ("front wheel", (1,))]
    known = replace(chairs[0], known=frozenset({COMMON_OBJECT}))
    assert list(true_answers(known)) == [COMMON_OBJECT]


def test_objects_are_read_from_part_answers(mugs: list[LabeledGroup]) -> None:
    answer = "The images show <p> the mug </p> [SEG] (IMAGE1) and <p> the cup </p> [SEG] (IMAGE2)."
    regions = as_regions([part for part in mugs[0].parts if part.kind is COMMON_OBJECT])
    named = partonomy.named_objects(
        regions, {"common_part": f"{answer} The objects share no part."}
    )
    assert named == {0: "mug", 1: "cup"}
    assert partonomy.object_tally(mugs[0], regions, {"common_part": answer}) == (1, 2)
    # Without text, the parts say whose they are.
    assert partonomy.object_tally(mugs[0], as_regions(mugs[0].parts), {}) == (0, 2)


def test_wrong_answers_differ_from_the_truth_and_each_other() -> None:
    truth = [("leg", (0, 1)), ("seat", (0, 1))]
    candidates = [("back", (0, 1)), ("ring", (0, 1))]
    for seed in range(50):
        rng = np.random.default_rng(seed)
        wrong = wrong_answers(truth, candidates, TAXONOMY, rng)
        sets = [frozenset(answer) for answer in wrong]
        assert len(wrong) == len(set(sets)) == 4
        assert frozenset(truth) not in sets
        assert all(answer and len(answer) == len(set(answer)) for answer in wrong)
        # One or two edits: at most two parts gone and two parts new.
        assert all(len(s - set(truth)) <= 2 and len(set(truth) - s) <= 2 for s in sets)


def test_wrong_objects_are_other_classes_alike_in_name_first() -> None:
    rng = np.random.default_rng(0)
    drawn = [wrong_objects("chair", ["sofa"], TAXONOMY, rng) for _ in range(20)]
    assert all(len(set(names)) == 4 and not {"chair", "sofa"} & set(names) for names in drawn)
    assert wrong_objects("chair", [], Taxonomy({"chair": ("leg",)}), rng) == []


def test_co_occurring_parts_are_drawn_more_often() -> None:
    assert TAXONOMY.affinity("back", ["seat", "arm rest"]) > TAXONOMY.affinity("door", ["seat"])


def test_choices_hold_the_truth_once_and_repeat_by_seed(mugs: list[LabeledGroup]) -> None:
    chair = replace(mugs[0], objects=tuple(replace(o, label="chair") for o in mugs[0].objects))
    first, again = (
        list(draw_questions(chair, TAXONOMY, np.random.default_rng(4))) for _ in range(2)
    )
    assert first == again
    assert [question.task for question in first] == [
        "intersection",
        "difference",
        "whole2part",
        "part2whole",
    ]
    for question in first:
        assert len(set(question.choices)) == 5
    truth = true_answers(chair)
    assert first[0].choices[first[0].right] == truth[COMMON_PART]
    assert first[1].choices[first[1].right] == truth[UNIQUE_PART]
    assert first[2].choices[first[2].right] == first_sentence(truth[COMMON_PART])
    assert first[3].choices[first[3].right] == truth[COMMON_PART]


def test_likelier_choices_are_taken(mugs: list[LabeledGroup]) -> None:
    chairs = [
        replace(mug, objects=tuple(replace(o, label="chair") for o in mug.objects)) for mug in mugs
    ]
    predictor = Forced(chairs)
    report = evaluate(
        predictor, chairs, extras=ask_also(predictor, taxonomy=TAXONOMY), resamples=10
    )
    for task in ("intersection", "difference", "part2whole"):
        for reading in READINGS:
            assert value(report, task, "choices", f"accuracy_{reading}") == 100
    assert value(report, "intersection", "choices", "chosen_precision") == 100
    assert value(report, "part2whole", "choices", "gain") == pytest.approx(
        100 - value(report, "whole2part", "choices", "accuracy_sum")
    )


def test_questions_are_kept_with_the_report(mugs: list[LabeledGroup], tmp_path: Path) -> None:
    predictor = Forced(mugs)
    extras = ask_also(predictor, taxonomy=TAXONOMY)
    outcome = evaluate(predictor, mugs, extras=extras, resamples=10)
    write_report(outcome, tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(kept) == len(outcome.questions) > 0
    shared = [question for question in kept if question["task"] == "intersection"]
    right = [question["chosen"] == question["right"] for question in shared]
    accuracy = value(outcome, "intersection", "choices", "accuracy_sum")
    assert accuracy == pytest.approx(100 * sum(right) / len(right))
    assert all(len(question["choices"]) == 5 for question in kept)


def test_predictors_are_not_asked_what_they_cannot(chairs: list[LabeledGroup]) -> None:
    oracle = Oracle(chairs)
    for wish, what in (
        ({"forced": True}, "draw given answers"),
        ({"taxonomy": TAXONOMY}, "how likely"),
        ({"consistency": 3}, "in other words"),
    ):
        with pytest.raises(InvalidConfigError, match=f"oracle-1: this predictor cannot.*{what}"):
            ask_also(oracle, **wish)  # type: ignore[arg-type]
    assert ask_also(oracle).steerable is None
