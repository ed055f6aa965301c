"""What is none of a closed set gets no label of it; what is of the set keeps its own."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.assistant import Assistant
from calico_model.data.catalogue import parts_of
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.interactive.naming.rejection import SetEvidence, chance_inside
from calico_model.predictor import Predictor, load_predictor
from calico_model.types import GroupPrediction, LabeledGroup, RegionKind
from calico_model.vocabulary import Vocabulary

Seen = tuple[LabeledGroup, GroupPrediction]
OBJECT = RegionKind.COMMON_OBJECT


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return load_predictor(threads=1)


def first_of(shipped: Predictor, category: str) -> Seen:
    """The first drawn group that compares two of a category."""
    drawn = (
        labeled_group(draw_group(group_rng(Stream.EVALUATION, 11, n), group_size=2))
        for n in range(400)
    )
    group = next(g for g in drawn if [one.label for one in g.objects] == [category] * 2)
    return group, shipped.predict(group.group)


@pytest.fixture(scope="module")
def trees(shipped: Predictor) -> Seen:
    return first_of(shipped, "tree")


@pytest.fixture(scope="module")
def cars(shipped: Predictor) -> Seen:
    return first_of(shipped, "car")


def name(
    shipped: Predictor, seen: Seen, *labels: str, is_clicked: bool = False, **known: object
) -> list[Named]:
    group, said = seen
    assert said.parts
    outlines = [
        Outline(p.image_index, p.mask, p.kind, predicted_label=None if is_clicked else p.label)
        for p in said.parts
    ]
    closed = ClosedSet(Vocabulary(labels), **known)  # type: ignore[arg-type]
    return list(Assistant(shipped).name(group.group, outlines, closed, said))


@pytest.mark.parametrize("is_clicked", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        ("dog", "cat", "bird", "cow", "horse"),
        ("ear",),
        ("wheel", "headlight"),
        ("fjord",),
        ("Ohr", "耳", "👂"),
    ],
)
def test_nothing_of_a_tree_gets_a_label_that_is_none_of_it(
    shipped: Predictor, trees: Seen, labels: tuple[str, ...], is_clicked: bool
) -> None:
    named = name(shipped, trees, *labels, is_clicked=is_clicked)
    assert {one.label for one in named} == {None}


@pytest.mark.parametrize("category", ["tree", "car", "chair"])
def test_what_is_of_the_set_keeps_its_label(shipped: Predictor, category: str) -> None:
    seen = first_of(shipped, category)
    named = name(shipped, seen, category, *parts_of(category), "ear", "keyboard")
    said = [part.label for part in seen[1].parts]
    assert [one.label for one in named] == said


def test_a_whole_object_gets_no_label_of_a_part(shipped: Predictor, cars: Seen) -> None:
    parts = cars[1].parts
    named = name(shipped, cars, *parts_of("car"))
    for part, one in zip(parts, named, strict=True):
        assert (one.label is None) == (part.kind is OBJECT)
    assert any(part.kind is OBJECT for part in parts)


def test_a_whole_object_is_not_named_after_accepted_parts(shipped: Predictor, cars: Seen) -> None:
    group, said = cars
    outlines = [Outline(p.image_index, p.mask, p.kind) for p in said.parts]
    accepted = Prototypes()
    for _ in range(8):  # the very same regions, whole objects included
        for look in Assistant(shipped).describe(group.group, outlines):
            accepted = accepted.add("back_right_door", look)
    named = name(shipped, cars, "back_right_door", accepted=accepted)
    for part, one in zip(said.parts, named, strict=True):
        assert one.label is None or part.kind is not OBJECT


def test_accepted_regions_open_a_set_of_unknown_words(shipped: Predictor, trees: Seen) -> None:
    group, said = trees
    parts = [p for p in said.parts if p.kind is not OBJECT]
    outlines = [Outline(p.image_index, p.mask, p.kind) for p in parts]
    accepted = Prototypes()
    for _ in range(4):
        for part, look in zip(
            parts, Assistant(shipped).describe(group.group, outlines), strict=True
        ):
            accepted = accepted.add(f"<{part.label}>", look)
    labels = sorted({f"<{part.label}>" for part in parts})
    named = name(shipped, (group, GroupPrediction(tuple(parts), "v")), *labels, accepted=accepted)
    assert [one.label for one in named] == [f"<{part.label}>" for part in parts]


def test_a_set_that_rejects_nothing_is_what_it_was(shipped: Predictor, trees: Seen) -> None:
    named = name(shipped, trees, "ear", rejects=False)
    assert {(one.label, one.chance, one.inside) for one in named} == {("ear", 1.0, 1.0)}
    assert [one.ranked for one in name(shipped, trees, "ear")] == [one.ranked for one in named]


def evidence(**changes: object) -> SetEvidence:
    known: dict[str, object] = {
        "own_word": np.zeros(1),
        "head": np.zeros(1),
        "known": 0.0,
        "cosine": None,
        "cells": None,
        "trust": 1.0,
        "is_object": np.zeros(1, bool),
    }
    return SetEvidence(**known | changes)  # type: ignore[arg-type]


def test_no_evidence_is_no_evidence_for_a_set_however_small() -> None:
    for labels in (("ear",), ("ear", "eye"), tuple(map(str, range(50)))):
        assert chance_inside(ClosedSet(Vocabulary(labels)), evidence())[0] < 0.5


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ({"own_word": np.full(1, -1.0)}, {"own_word": np.ones(1)}),
        ({"head": np.full(1, -3.0), "known": 1.0}, {"head": np.full(1, 3.0), "known": 1.0}),
        ({"cells": np.full(1, 0.1)}, {"cells": np.full(1, 0.9)}),
    ],
)
def test_every_classifier_counts_in_its_direction(
    weak: dict[str, object], strong: dict[str, object]
) -> None:
    closed = ClosedSet(Vocabulary(("ear",)))
    low, high = (chance_inside(closed, evidence(**one))[0] for one in (weak, strong))
    assert low < 0.5 < high


def test_what_a_project_taught_is_not_overruled_by_what_drawn_things_look_like() -> None:
    closed = ClosedSet(Vocabulary(("wheel",)))
    strange = {"head": np.full(1, -6.0), "known": 1.0}
    taught = evidence(own_word=np.ones(1), cells=np.full(1, 0.5), **strange)
    assert chance_inside(closed, taught)[0] > 0.5
    assert chance_inside(closed, evidence(own_word=np.ones(1), **strange))[0] < 0.5
    other = evidence(own_word=np.full(1, -1.0), cells=np.full(1, 0.5), **strange)
    assert chance_inside(closed, other)[0] < 0.5


def test_cells_name_a_whole_object_where_the_project_taught_objects() -> None:
    closed = ClosedSet(Vocabulary(("lorry", "wheel")))
    for share, expected in ((0.95, True), (0.1, False)):
        seen = evidence(
            own_word=np.full(1, -1.0), cells=np.full(1, share), is_object=np.ones(1, bool)
        )
        assert bool(chance_inside(closed, seen)[0] > 0.5) is expected


def test_one_thing_in_several_images_is_of_the_set_or_not() -> None:
    seen = evidence(own_word=np.array([1.0, -1.0]), head=np.zeros(2), is_object=np.zeros(2, bool))
    one, other = chance_inside(ClosedSet(Vocabulary(("ear",))), seen, ["x", "x"])
    assert one == other
