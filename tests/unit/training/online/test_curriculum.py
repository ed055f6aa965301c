"""Pairs made of pairs: their truth follows from the parts of each image."""

from __future__ import annotations

import random

import torch

from calico_model.data.casting import SceneSplit
from calico_model.modeling.model import Calico
from calico_model.training.online.curriculum import can_recombine, draw_pair, recombine
from calico_model.training.online.example import Example, RegionTarget, make_example
from calico_model.types import RegionKind, Supervision
from tests.unit.training.examples import SIZE_PX, drawn, encoded, part

UNIQUE, OBJECT = RegionKind.UNIQUE_PART, RegionKind.COMMON_OBJECT


def pair(model: Calico, key: str, name: str, common: str, own: str) -> Example:
    features = encoded(model, drawn(SceneSplit.SEEN, 0 if key == "a" else 1).group)
    truth = [part(name, k, OBJECT, box=(0, 50, 0, 50)) for k in (0, 1)]
    truth += [part(common, k) for k in (0, 1)]
    truth += [part(own, k, UNIQUE, box=(30, 40, 30, 40)) for k in (0, 1)]
    return make_example(key, features, ((SIZE_PX, SIZE_PX),) * 2, truth)


def test_shared_names_are_common_and_others_unique(model: Calico) -> None:
    first = pair(model, "a", "car", "wheel", "door")
    second = pair(model, "b", "truck", "wheel", "cabin")
    made = recombine([first, second], random.Random(1))
    assert made is not None
    kinds = {(p.label, p.image_index): p.kind for p in made.truth}
    assert kinds["wheel", 0] is kinds["wheel", 1] is RegionKind.COMMON_PART
    others = {label for (label, _), kind in kinds.items() if kind is UNIQUE}
    assert others == {"door", "cabin"}
    # Objects of two names: nobody has said what the two images share.
    assert OBJECT not in made.known
    assert {one.label for one in made.objects if one is not None} == {"car", "truck"}


def test_objects_of_one_name_are_common(model: Calico) -> None:
    first, second = (pair(model, key, "car", "wheel", "door") for key in "ab")
    made = recombine([first, second], random.Random(1))
    assert made is not None
    assert made.known == frozenset(RegionKind)
    assert [p.label for p in made.truth if p.kind is OBJECT] == ["car", "car"]


def test_features_follow_their_images(model: Calico) -> None:
    first, second = (pair(model, key, "car", "wheel", "door") for key in "ab")
    made = recombine([first, second], random.Random(4))
    assert made is not None
    for slot, name in enumerate(made.key.split("+")):
        key, image = name.split("/")
        source = first if key == "a" else second
        expected = source.features.global_tokens[int(image)]
        assert torch.equal(made.features.global_tokens[slot], expected)


def test_one_group_or_three_images_cannot_be_recombined(model: Calico) -> None:
    only = pair(model, "a", "car", "wheel", "door")
    assert recombine([only], random.Random(1)) is None
    three = make_example(
        "c",
        encoded(model, drawn(SceneSplit.SEEN, 0, size=3).group),
        ((SIZE_PX, SIZE_PX),) * 3,
        [part("wheel", k) for k in range(3)],
    )
    assert can_recombine(only)
    assert not can_recombine(three)


def group_of_three(model: Calico, **options: object) -> Example:
    features = encoded(model, drawn(SceneSplit.SEEN, 0, size=3).group)
    truth = [part("car", k, OBJECT, box=(0, 50, 0, 50)) for k in range(3)]
    truth += [part("wheel", k) for k in range(3)]
    truth.append(part("door", 1, UNIQUE, box=(30, 40, 30, 40)))
    return make_example("g", features, ((SIZE_PX, SIZE_PX),) * 3, truth, **options)  # type: ignore[arg-type]


def test_a_group_is_shown_in_the_pairs_it_is_asked_about(model: Calico) -> None:
    whole = group_of_three(model)
    choose = random.Random(0)
    shown = {pair.key: pair for pair in (draw_pair(whole, choose) for _ in range(60))}
    assert set(shown) == {
        f"g/{a}+g/{b}" for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)]
    }
    kinds = {(p.label, p.image_index, p.kind) for p in shown["g/0+g/1"].truth}
    assert kinds == {
        *(("car", k, OBJECT) for k in (0, 1)),
        *(("wheel", k, RegionKind.COMMON_PART) for k in (0, 1)),
        ("door", 1, UNIQUE),
    }
    # Beside itself everything is common, and nobody asks for what is unique.
    alone = shown["g/1+g/1"]
    assert {p.label for p in alone.truth if p.kind is RegionKind.COMMON_PART} == {"wheel", "door"}
    assert alone.known == {OBJECT, RegionKind.COMMON_PART}
    assert torch.equal(alone.features.global_tokens[0], alone.features.global_tokens[1])


def test_what_was_taken_away_stays_away_in_every_pair(model: Calico) -> None:
    gone = RegionTarget(part("rotor", 0, UNIQUE), Supervision.ABSENCE)
    whole = group_of_three(model, targets=(gone,))
    choose = random.Random(0)
    pairs = {pair.key: pair for pair in (draw_pair(whole, choose) for _ in range(60))}

    def absent(pair: Example) -> set[tuple[str, int]]:
        return {
            (one.region.label, one.region.image_index)
            for one in pair.targets
            if Supervision.ABSENCE in one.supervision
        }

    assert absent(pairs["g/0+g/0"]) == {("rotor", 0), ("rotor", 1)}
    assert absent(pairs["g/2+g/0"]) == {("rotor", 1)}
    assert absent(pairs["g/1+g/2"]) == set()


def test_without_common_parts_a_group_stays_whole(model: Calico) -> None:
    whole = group_of_three(model, known=frozenset({OBJECT}))
    assert draw_pair(whole, random.Random(0)) is whole
