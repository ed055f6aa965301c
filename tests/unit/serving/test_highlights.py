"""Regions that are drawn already are linked to a highlight; nothing is drawn twice."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import InvalidRleError
from backend.serving.highlights import link_highlight
from backend.types import Region, RegionOrigin, TextPrompt
from calico_model.types import BoolMask, GroupPrediction, PartMask, RegionKind

ASKED = TextPrompt("h1", 0, "Lids", is_highlight=True)


def part(image: int, label: str = "lid", value: bool = True) -> PartMask:
    return PartMask(image, RegionKind.COMMON_PART, label, np.full((4, 4), value), score=0.7)


def drawn(image: int, label: str | None = "lid", **changes: object) -> Region:
    mask = np.zeros((4, 4), np.bool_)
    mask[0] = True
    fields: dict[str, object] = {
        "id": f"drawn-{image}",
        "size_hw": (4, 4),
        "kind": None,
        "origin": RegionOrigin.MANUAL,
        "score": None,
        "load_mask": lambda: mask,
    }
    return Region(image_index=image, label=label, **(fields | changes))  # type: ignore[arg-type]


def test_what_is_found_gets_ids_of_its_highlight() -> None:
    found = GroupPrediction((part(0), part(1)), "v1")

    first, again = link_highlight(found, ASKED, ()), link_highlight(found, ASKED, ())
    other = link_highlight(found, TextPrompt("h2", 0, "lids", is_highlight=True), ())

    assert first.prediction.parts == found.parts
    assert first.ids == again.ids, "the same highlight answered again replaces its suggestions"
    assert len({*first.ids, *other.ids}) == 4


def test_a_drawn_region_keeps_its_mask_and_takes_the_place_of_a_found_one() -> None:
    found = GroupPrediction((part(0), part(1)), "v1")

    linked = link_highlight(found, ASKED, (drawn(1), drawn(0, "knob")))

    assert [(p.image_index, p.label) for p in linked.prediction.parts] == [(1, "lid"), (0, "lid")]
    assert linked.ids[0] == "drawn-1"
    assert linked.prediction.parts[0].mask.sum() == 4
    assert linked.prediction.parts[0].kind is RegionKind.COMMON_PART
    assert linked.prediction.parts[1].mask.all()


def test_a_name_that_nobody_learned_links_what_is_drawn_under_it() -> None:
    linked = link_highlight(
        GroupPrediction((), "v1"),
        TextPrompt("h1", 0, "the hood", is_highlight=True),
        (drawn(0, "hood", kind=RegionKind.UNIQUE_PART, score=3.0),),
    )

    (only,) = linked.prediction.parts
    assert (only.label, only.kind, only.part_id, only.score) == (
        "hood",
        RegionKind.UNIQUE_PART,
        None,
        1.0,
    )


@pytest.mark.parametrize("unusable", ["arrow", "damaged"])
def test_what_cannot_be_given_again_is_neither_linked_nor_drawn_twice(unusable: str) -> None:
    def damaged() -> BoolMask:
        raise InvalidRleError("on purpose")

    region = drawn(0, is_linked=True) if unusable == "arrow" else drawn(0, load_mask=damaged)

    linked = link_highlight(GroupPrediction((part(0), part(1)), "v1"), ASKED, (region,))

    assert [p.image_index for p in linked.prediction.parts] == [1]
