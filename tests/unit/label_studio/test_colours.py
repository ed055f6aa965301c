"""One colour per part: on all images of a task, and the same in every task where it is free."""

from __future__ import annotations

import numpy as np

from backend.label_studio.colours import colours_of
from backend.types import Region, RegionOrigin
from calico_model.types import PartMask, RegionKind

PALETTE = tuple(map(str, range(12)))


def part(label: str, image: int = 0, kind: RegionKind = RegionKind.COMMON_PART) -> PartMask:
    return PartMask(image, kind, label, np.ones((2, 2), np.bool_))


def drawn(name: str, label: str | None, colour: str) -> Region:
    return Region(
        name, 0, (2, 2), None, label, RegionOrigin.PREDICTION, None,
        load_mask=lambda: np.ones((2, 2), np.bool_), colour=colour,
    )  # fmt: skip


def colours(*parts: PartMask, canvas: tuple[Region, ...] = ()) -> list[str | None]:
    return colours_of(parts, [f"id{k}" for k in range(len(parts))], PALETTE, canvas)


def test_a_part_has_one_colour_on_all_images_whatever_its_spelling() -> None:
    leg, seat, legs = colours(part("leg"), part("seat"), part("Legs", 1))
    assert leg == legs
    assert leg != seat


def test_parts_of_one_task_differ_while_there_are_colours() -> None:
    names = [f"part {chr(97 + k)}" for k in range(12)]
    assert sorted(map(str, colours(*map(part, names)))) == sorted(PALETTE)
    assert set(colours(*map(part, [*names, "one more"]))) == set(PALETTE)


def test_the_order_of_regions_and_other_tasks_do_not_matter() -> None:
    parts = [part("leg"), part("seat"), part("lid")]
    assert colours(*parts) == colours(*parts[::-1])[::-1]
    assert colours(part("leg")) == colours(part("leg"), part("leg", 1))[:1]


def test_an_object_has_the_colour_of_its_label() -> None:
    assert colours(part("chair", kind=RegionKind.COMMON_OBJECT)) == [None]


def test_what_is_drawn_keeps_its_colour_and_its_name_too() -> None:
    (usual,) = colours(part("leg"))
    other = next(colour for colour in PALETTE if colour != usual)
    canvas = (drawn("x", "leg", other), drawn("id1", None, usual or ""))
    assert colours(part("leg"), part("", 1), canvas=canvas) == [other, usual]


def test_something_new_has_a_colour_that_nothing_else_has() -> None:
    canvas = tuple(drawn(f"x{k}", f"n{k}", colour) for k, colour in enumerate(PALETTE[:-1]))
    assert colours(part(""), part("", 1), canvas=canvas) == [PALETTE[-1]] * 2


def test_without_colours_there_is_none() -> None:
    assert colours_of([part("leg")], ["a"], ()) == [None]
