"""What each change teaches, and the truth of a group that comes of it."""

from __future__ import annotations

import numpy as np
import pytest
from annotated import START, box, region

from backend.errors import InvalidRleError
from backend.learning.correction import Correction, diff
from backend.learning.lesson import Teaches, lessons, true_parts
from backend.types import Task
from calico_model.types import RegionKind

MASK, SMALLER, ELSEWHERE = box(10, 10, 30, 40), box(10, 10, 30, 30), box(0, 50, 5, 60)


def correction(before, after):
    return Correction(
        task=Task(5, 7, ("a.png", "b.png")),
        annotation_id=1,
        annotator_id=1,
        updated_at=START,
        version="v1",
        outcomes=diff(before, after).outcomes,
    )


def taught(before, after):
    return {lesson.region.id: lesson.teaches for lesson in lessons(correction(before, after))}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (region("a", MASK), Teaches.REHEARSAL),
        (region("a", MASK, label="lid"), Teaches.TEXT),
        (region("a", MASK, kind=RegionKind.UNIQUE_PART), Teaches.TEXT),
        (region("a", SMALLER), Teaches.MASK),
        (region("a", SMALLER, label="lid"), Teaches.TEXT | Teaches.MASK),
    ],
)
def test_a_change_teaches_what_was_wrong(after, expected):
    assert taught([region("a", MASK)], [after]) == {"a": expected}


def test_label_fixes_and_mask_edits_are_told_apart():
    before = [region("a", MASK), region("b", MASK)]
    fix, edit = lessons(correction(before, [region("a", MASK, label="lid"), region("b", SMALLER)]))
    assert (fix.is_label_fix, fix.is_mask_edit) == (True, False)
    assert (edit.is_label_fix, edit.is_mask_edit) == (False, True)
    assert fix.before.label == "handle"


def test_an_added_region_teaches_text_and_mask():
    assert taught([], [region("a", MASK)]) == {"a": Teaches.TEXT | Teaches.MASK}


def test_a_removed_region_teaches_absence():
    assert taught([region("a", MASK)], []) == {"a": Teaches.ABSENCE}


@pytest.mark.parametrize(
    "left",
    [
        region("b", SMALLER, label="lid"),  # drawn anew under another name
        region("b", ELSEWHERE),  # the name still stands, somewhere else
    ],
)
def test_what_was_drawn_anew_is_not_absent(left):
    assert "a" not in taught([region("a", MASK)], [left])


def test_the_same_name_on_another_image_leaves_the_absence():
    assert taught([region("a", MASK)], [region("b", MASK, image=1)])["a"] is Teaches.ABSENCE


def test_same_names_of_an_image_are_one_mask_with_one_part_id():
    after = [region("a", MASK), region("b", ELSEWHERE, label="Handles"), region("c", MASK, image=1)]
    first, second = true_parts(correction([], after))
    assert np.array_equal(first.mask, MASK | ELSEWHERE)
    assert (first.label, first.part_id) == ("handle", second.part_id)
    assert first.kind is second.kind is RegionKind.COMMON_PART


def test_a_common_part_of_one_image_is_unique_there():
    (part,) = true_parts(correction([], [region("a", MASK)]))
    assert (part.kind, part.part_id) == (RegionKind.UNIQUE_PART, None)


def test_kinds_that_were_not_said_follow_from_the_images():
    after = [region(i, MASK, image=n, kind=None, label=i[0]) for n, i in ((0, "lx"), (1, "ly"))]
    after.append(region("z", MASK, kind=None, label="rim"))
    kinds = [part.kind for part in true_parts(correction([], after))]
    assert kinds == [RegionKind.COMMON_PART, RegionKind.COMMON_PART, RegionKind.UNIQUE_PART]


def test_nameless_and_unreadable_regions_are_no_truth():
    def refuse():
        raise InvalidRleError("on purpose")

    unread = region("b", MASK, label="lid", load=refuse)
    before = [region("a", MASK, label=None), unread]
    assert true_parts(correction(before, before)) == ()
