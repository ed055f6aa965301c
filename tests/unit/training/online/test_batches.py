"""What weighs what: label fixes train text only, mask edits masks only."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.online.batches import (
    REHEARSED,
    QuestionBatch,
    TrainingQuestion,
    question_batch,
    question_weight,
)
from calico_model.training.online.example import Example, RegionTarget, make_example
from calico_model.types import PartMask, RegionKind, Supervision
from tests.unit.training.examples import SIZE_PX, drawn, encoded, part

COMMON, UNIQUE, OBJECT = (
    RegionKind.COMMON_PART,
    RegionKind.UNIQUE_PART,
    RegionKind.COMMON_OBJECT,
)
BOTH = Supervision.TEXT | Supervision.MASK


class School:
    """Makes examples and batches of one model."""

    def __init__(self, model: Calico, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._features = encoded(model, drawn(SceneSplit.SEEN, 0).group)

    def build(self, truth: Sequence[PartMask], targets: Sequence[RegionTarget]) -> Example:
        sizes = ((SIZE_PX, SIZE_PX),) * 2
        return make_example("task", self._features, sizes, truth, targets=targets)

    def batch(
        self, example: Example, kind: RegionKind, labels: Sequence[str] = ()
    ) -> QuestionBatch:
        speaking = self._tokenizer.with_labels(labels)
        return question_batch([TrainingQuestion(example, kind)], speaking, self._model.config, None)


@pytest.fixture
def school(model: Calico, tokenizer: Tokenizer) -> School:
    return School(model, tokenizer)


def name_weights(batch: QuestionBatch, tokenizer: Tokenizer, word: str) -> set[float]:
    ids = tokenizer.encode(f"<p> the {word} </p>")[2:-1]
    return {
        round(float(w), 4)
        for token, w in zip(batch.turns.labels[0].tolist(), batch.token_weights[0], strict=True)
        if token in ids
    }


def test_a_label_fix_trains_text_only(school: School, tokenizer: Tokenizer) -> None:
    truth = [part("wheel"), part("wheel", 1), part("door"), part("door", 1)]
    fixes = [RegionTarget(one, Supervision.TEXT) for one in truth[:2]]
    one = school.batch(school.build(truth, fixes), COMMON)
    assert name_weights(one, tokenizer, "wheel") == {1.0}
    assert name_weights(one, tokenizer, "door") == {REHEARSED}
    # No compared object is known: its two [SEG] weigh nothing.
    assert one.mask_weights.tolist() == pytest.approx([0, 0, 0, 0, REHEARSED, REHEARSED])


def test_a_mask_edit_trains_masks_only(school: School, tokenizer: Tokenizer) -> None:
    truth = [part("wheel"), part("wheel", 1)]
    one = school.batch(
        school.build(truth, [RegionTarget(p, Supervision.MASK) for p in truth]), COMMON
    )
    assert not one.token_weights.any()
    assert one.mask_weights.tolist() == [0, 0, 1, 1]


def test_what_was_drawn_from_nothing_trains_both(school: School, tokenizer: Tokenizer) -> None:
    truth = [part("wheel"), part("wheel", 1)]
    one = school.batch(school.build(truth, ()), COMMON)
    assert name_weights(one, tokenizer, "wheel") == {1.0}
    assert one.mask_weights.tolist() == [0, 0, 1, 1]


def test_a_removed_name_must_not_follow(school: School, tokenizer: Tokenizer) -> None:
    truth = [part("wheel"), part("wheel", 1)]
    gone = [RegionTarget(part("window", k), Supervision.ABSENCE) for k in (0, 1)]
    one = school.batch(school.build(truth, gone), COMMON)
    (token,) = set(one.absent_token.tolist())
    assert token == tokenizer.encode("<p> the window </p>")[2]
    following = one.turns.labels[one.absent_row, one.absent_column + 1]
    assert following.tolist() == [tokenizer.encode("<p> the wheel </p>")[2]]
    assert name_weights(one, tokenizer, "wheel") == {REHEARSED}


def test_a_removed_name_that_is_still_there_is_no_absence(school: School) -> None:
    truth = [part("wheel"), part("wheel", 1)]
    example = school.build(truth, [RegionTarget(truth[0], Supervision.ABSENCE)])
    assert not len(school.batch(example, COMMON).absent_row)


def test_a_row_replaces_the_spelling(school: School, tokenizer: Tokenizer) -> None:
    example = school.build([part("flux gizmo"), part("flux gizmo", 1)], ())
    spelled, short = school.batch(example, COMMON), school.batch(example, COMMON, ["flux gizmo"])
    assert short.turns.labels.shape[1] < spelled.turns.labels.shape[1]
    assert tokenizer.label_ids[0] in short.turns.labels[0].tolist()


def test_the_object_that_holds_the_parts_is_the_compared_one(
    school: School, tokenizer: Tokenizer
) -> None:
    whole = [part("car", k, OBJECT, box=(4, 40, 4, 40)) for k in (0, 1)]
    elsewhere = [part("tree", k, OBJECT, box=(48, 60, 48, 60)) for k in (0, 1)]
    example = school.build([*elsewhere, *whole, part("wheel"), part("wheel", 1)], ())
    assert [one.label for one in example.objects if one is not None] == ["car", "car"]
    one = school.batch(example, COMMON)
    assert one.mask_weights.tolist() == [1, 1, 1, 1]
    assert name_weights(one, tokenizer, "car") == {1.0}


def test_unique_parts_keep_their_images(school: School) -> None:
    example = school.build([part("wheel", 0, UNIQUE), part("door", 1, UNIQUE)], ())
    assert school.batch(example, UNIQUE).image.tolist() == [0, 1, 0, 1]


def test_targets_are_the_masks(school: School) -> None:
    one = school.batch(school.build([part("wheel"), part("wheel", 1)], ()), COMMON)
    cells = one.target.shape[-1]
    expected = torch.zeros(cells, cells)
    expected[cells // 8 : 3 * cells // 8, cells // 8 : 3 * cells // 8] = 1
    assert torch.equal(one.target[2], expected)
    assert bool((one.inside == 1).all())


def test_questions_without_a_change_are_asked_less(school: School) -> None:
    example = school.build(
        [part("wheel"), part("wheel", 1)], [RegionTarget(part("wheel"), Supervision.MASK)]
    )
    assert question_weight(example, COMMON) == 1.0
    assert question_weight(example, UNIQUE) == REHEARSED
