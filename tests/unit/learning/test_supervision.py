"""What each change teaches, and the truth of a group that comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import InvalidRleError
from backend.learning.correction import Correction, diff
from backend.learning.supervision import training_targets, true_parts
from backend.types import Task, UnreadRegion
from calico_model.types import RegionKind, Supervision
from tests.unit.learning.annotated import START, box, region

MASK, SMALLER, ELSEWHERE = box(10, 10, 30, 40), box(10, 10, 30, 30), box(0, 50, 5, 60)


def correction(before, after, unread=()):
    difference = diff(before, after, unread)
    return Correction(
        task=Task(5, 7, ("a.png", "b.png")),
        annotation_id=1,
        annotator_id=1,
        updated_at=START,
        version="v1",
        outcomes=difference.outcomes,
        unreadable=difference.unreadable,
        unknown=difference.unknown,
    )


def taught(before, after, unread=()):
    found = training_targets(correction(before, after, unread))
    return {target.region.id: target.supervision for target in found}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (region("a", MASK), Supervision.REHEARSAL),
        (region("a", MASK, label="lid"), Supervision.TEXT),
        (region("a", MASK, kind=RegionKind.UNIQUE_PART), Supervision.TEXT),
        (region("a", SMALLER), Supervision.MASK),
        (region("a", SMALLER, label="lid"), Supervision.TEXT | Supervision.MASK),
    ],
)
def test_a_change_teaches_what_was_wrong(after, expected):
    assert taught([region("a", MASK)], [after]) == {"a": expected}


def test_label_fixes_and_mask_edits_are_told_apart():
    before = [region("a", MASK), region("b", MASK)]
    fix, edit = training_targets(
        correction(before, [region("a", MASK, label="lid"), region("b", SMALLER)])
    )
    assert (fix.supervision, edit.supervision) == (Supervision.TEXT, Supervision.MASK)
    assert fix.before.label == "handle"


def test_an_added_region_teaches_text_and_mask():
    assert taught([], [region("a", MASK)]) == {"a": Supervision.TEXT | Supervision.MASK}


def test_a_removed_region_teaches_absence():
    assert taught([region("a", MASK)], []) == {"a": Supervision.ABSENCE}


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
    assert taught([region("a", MASK)], [region("b", MASK, image=1)])["a"] is Supervision.ABSENCE


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


def undecodable(id_, **said):
    def refuse():
        raise InvalidRleError("on purpose")

    return region(id_, MASK, encoding=b"other", load=refuse, **said)


@pytest.mark.parametrize(
    ("after", "unread"),
    [
        ([], [UnreadRegion("k", 0, "handle")]),  # a click stands for the mask
        ([], [UnreadRegion("a", 0, "Handles")]),  # the region itself, another spelling
        ([], [UnreadRegion("k", 0, None)]),  # something without a name
        ([undecodable("b")], []),
        ([undecodable("b", label=None)], []),
        ([undecodable("a")], []),
    ],
)
def test_what_cannot_be_read_is_unknown_and_not_absent(after, unread):
    before = [region("a", MASK), region("c", MASK, image=1)]
    assert taught(before, after, unread) == {"c": Supervision.ABSENCE}


def test_a_name_is_unknown_only_where_it_was_drawn():
    before = [region("a", MASK), region("b", ELSEWHERE, label="lid")]
    assert taught(before, [], [UnreadRegion("k", 0, "lid")]) == {"a": Supervision.ABSENCE}


def test_half_of_a_name_is_no_truth():
    after = [region("a", MASK), region("b", MASK, label="lid"), region("c", MASK, image=1)]
    unread = [UnreadRegion("k", 0, "handle")]
    assert [
        (part.image_index, part.label) for part in true_parts(correction([], after, unread))
    ] == [
        (0, "lid"),
        (1, "handle"),
    ]
    assert len(true_parts(correction([], [*after, undecodable("d", label="lid")]))) == 2


def test_a_region_with_two_labels_teaches_both():
    both = region("a", MASK, label="leg", more=("wood",))
    assert [
        (one.region.label, one.supervision) for one in training_targets(correction([], [both]))
    ] == [
        ("leg", Supervision.TEXT | Supervision.MASK),
        ("wood", Supervision.TEXT | Supervision.MASK),
    ]
    assert [part.label for part in true_parts(correction([], [both]))] == ["leg", "wood"]
    added = training_targets(correction([region("a", MASK, label="leg")], [both]))
    assert {one.region.label: one.supervision for one in added} == {
        "leg": Supervision.TEXT,
        "wood": Supervision.TEXT,
    }
    assert "b" not in taught([region("b", ELSEWHERE, label="wood")], [both])
    assert taught([both], [both]) == {"a": Supervision.REHEARSAL}
