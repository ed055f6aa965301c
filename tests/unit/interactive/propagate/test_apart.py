"""Alike parts told apart: by the gaps between them, and by the mask memory where they touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from calico_model.interactive.propagate.apart import connected_regions, tell_apart
from calico_model.types import BoolMask

SIZE = (60, 120)


def block(first: int, last: int, rows: slice = slice(10, 50)) -> BoolMask:
    mask = np.zeros(SIZE, np.bool_)
    mask[rows, first:last] = True
    return mask


LEGS = [block(10, 22), block(40, 50), block(70, 79)]
ALL_LEGS = LEGS[0] | LEGS[1] | LEGS[2]


def nobody(done: Sequence[BoolMask]) -> BoolMask | None:
    raise AssertionError("the mask memory was asked")


class Memory:
    """Draws given parts one after the other."""

    def __init__(self, *parts: BoolMask) -> None:
        self.parts, self.asked = list(parts), list[int]()

    def __call__(self, done: Sequence[BoolMask]) -> BoolMask | None:
        self.asked.append(len(done))
        return self.parts.pop(0) if self.parts else None


def same(found: Sequence[BoolMask], expected: Sequence[BoolMask]) -> bool:
    return len(found) == len(expected) and all(
        (one == other).all() for one, other in zip(found, expected, strict=True)
    )


def test_what_lies_apart_is_a_part_each_large_ones_first() -> None:
    assert same(tell_apart(ALL_LEGS, [], nobody, most=8), LEGS)
    assert same(tell_apart(ALL_LEGS, [], nobody, most=2), LEGS[:2])
    assert same(connected_regions(ALL_LEGS), LEGS)
    assert connected_regions(np.zeros(SIZE, np.bool_)) == []


def test_done_parts_are_left_out_also_where_their_outlines_differ_a_little() -> None:
    drawn = block(39, 51, slice(11, 49))  # a pixel wider and shorter than the second leg
    assert same(tell_apart(ALL_LEGS, [drawn], nobody, most=8), [LEGS[0], LEGS[2]])
    assert same(tell_apart(ALL_LEGS, LEGS[:2], nobody, most=1), [LEGS[2]])


def test_specks_are_no_parts() -> None:
    speck = block(100, 104, slice(10, 14))
    assert same(tell_apart(ALL_LEGS | speck, [], nobody, most=8), LEGS)


def test_where_parts_touch_the_memory_says_where_one_ends() -> None:
    left, right = block(10, 30), block(30, 50)
    memory = Memory(block(8, 30))
    first, *others = tell_apart(left | right, [], memory, most=8)
    assert (first == left).all()  # without what the memory drew beside the stretch
    assert memory.asked == [0]
    (second,) = others  # what is left is as large as the first
    assert (second & ~right).sum() == 0
    assert second.sum() > 0.9 * right.sum()


def test_a_stretch_much_larger_than_the_others_may_be_several() -> None:
    long = block(10, 40)
    memory = Memory(block(10, 25))
    found = tell_apart(long | LEGS[2], [], memory, most=1)
    assert same(found, [block(10, 25)])
    assert same(tell_apart(long | LEGS[2], [], Memory(), most=1), [long])


@pytest.mark.parametrize("drawn", [None, np.zeros(SIZE, np.bool_)])
def test_nothing_is_found_where_nobody_sees_anything(drawn: BoolMask | None) -> None:
    nothing = np.zeros(SIZE, np.bool_)
    assert tell_apart(nothing, [], lambda done: drawn, most=8) == []


def test_the_memory_is_asked_once_for_what_the_mask_lacks() -> None:
    memory = Memory(block(90, 100) | block(105, 108), block(1, 2))
    found = tell_apart(LEGS[0], [LEGS[0]], memory, most=8)
    assert same(found, [block(90, 100)])  # a part is connected
    assert memory.asked == [1]


def test_what_the_memory_draws_elsewhere_is_believed() -> None:
    memory = Memory(block(80, 100))
    assert same(tell_apart(LEGS[0], [], memory, most=1), [block(80, 100)])


def test_a_rim_around_what_is_done_is_no_part() -> None:
    wider = block(9, 23, slice(9, 51))
    assert tell_apart(LEGS[0], [LEGS[0]], Memory(wider), most=8) == []
    both = LEGS[0] | block(50, 90)
    (found,) = tell_apart(both, [LEGS[0]], Memory(wider), most=8)
    assert (found == block(50, 90)).all()


def test_parts_never_overlap_what_is_done() -> None:
    done, drawn = block(10, 30), block(20, 60)
    (found,) = tell_apart(block(0, 0), [done], Memory(drawn), most=1)
    assert (found == block(30, 60)).all()
