"""Views of corrected images: what moves with the picture, and what the cells are called."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.modeling.model import Calico
from calico_model.training.online.dense_images import (
    ViewCache,
    ViewChange,
    cell_codes,
    draw_change,
    group_views,
    objects_of,
    other_side,
    other_view,
    parts_of,
    plain_image,
    with_dense,
)
from calico_model.training.online.example import Example, make_example
from calico_model.types import ComparedObject, PartMask, RegionKind, RgbImage
from tests.unit.training.examples import SIZE_PX, drawn, encoded, part

OBJECT, COMMON, UNIQUE = RegionKind
PLAIN = ViewChange(0.0, 0.0, 1.0, 1.0, mirrored=False, gain=1.0, shift=0.0)
L = 32


@pytest.fixture
def model(photo_model: Calico) -> Calico:
    return photo_model


def example(model: Calico, *parts: PartMask, **changes: object) -> Example:
    group = drawn(SceneSplit.SEEN, 0).group
    return make_example("a", encoded(model, group), [(SIZE_PX, SIZE_PX)] * 2, parts, **changes)  # type: ignore[arg-type]


class Seen:
    """Encodes nothing; keeps the pictures it was shown."""

    def __init__(self) -> None:
        self.images: list[RgbImage] = []

    def __call__(self, image: RgbImage) -> tuple[torch.Tensor, ...]:
        self.images.append(image)
        return tuple(torch.zeros(1, 1, L >> level, L >> level) for level in range(4))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("left wing", "right wing"),
        ("Right front leg", "left front leg"),
        ("left of the right one", "right of the left one"),
        ("wing", "wing"),
        ("rightmost seat", "rightmost seat"),
    ],
)
def test_left_and_right_change_places(name: str, other: str) -> None:
    assert other_side(name) == other


def test_a_mirrored_view_swaps_sides_however_they_are_written() -> None:
    mirror = replace(PLAIN, mirrored=True)
    assert mirror.name("Left Wing") == mirror.name("left_wing") == "right wing"
    assert PLAIN.name("left_wing") == "left_wing"
    mask = np.zeros((4, 6), bool)
    mask[1, 0] = True
    assert np.argwhere(mirror.mask(mask)).tolist() == [[1, 5]]


def test_a_view_is_mirrored_only_where_both_sides_have_names() -> None:
    changes = [draw_change(random.Random(seed), can_mirror=True) for seed in range(40)]
    assert {one.mirrored for one in changes} == {True, False}
    kept = [draw_change(random.Random(seed), can_mirror=False) for seed in range(40)]
    assert not any(one.mirrored for one in kept)
    assert [replace(one, mirrored=False) for one in changes] == kept  # else as they were


@pytest.mark.parametrize("has_both", [True, False])
def test_a_project_with_one_side_only_never_sees_the_other(model: Calico, has_both: bool) -> None:
    seen = example(model, part("left_wing", box=(8, 56, 8, 56)), part("tail"))
    names = {"left wing", "tail", "right wing"} if has_both else {"left wing", "tail"}
    image = drawn(SceneSplit.SEEN, 0).group.images[0]
    views = [other_view(seen, 0, image, n, Seen(), names) for n in range(20)]
    shown = {name for view in views for name in view.part_names}
    assert shown == names


def test_equal_numbers_give_equal_views(model: Calico) -> None:
    seen, image = example(model, part("wing")), drawn(SceneSplit.SEEN, 0).group.images[0]
    first, second, third = (other_view(seen, 0, image, n, Seen(), {"wing"}) for n in (1, 1, 2))
    assert torch.equal(first.parts, second.parts)
    assert not torch.equal(first.parts, third.parts)


def test_names_follow_their_pixels(model: Calico) -> None:
    """The picture is white where the part is, and so is every view of it."""
    wing = part("wing", box=(16, 48, 4, 40))
    image = np.where(wing.mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    seen, encode = example(model, wing), Seen()
    for number in range(10):
        view = other_view(seen, 0, image, number, encode, {"wing"})
        shown = encode.images[-1]
        white = torch.from_numpy(shown[..., 0].astype(np.float32))
        white = (white - white.min()) / (white.max() - white.min())
        cells = torch.nn.functional.adaptive_avg_pool2d(white[None, None], L)[0, 0]
        sure = (cells < 0.1) | (cells > 0.9)
        assert torch.equal((view.parts == 1)[sure], (cells > 0.5)[sure])


def test_of_what_lies_over_each_other_the_smaller_is_told() -> None:
    body, wing = part("body", box=(0, 64, 0, 64)), part("wing", box=(16, 32, 16, 32))
    for several in ([body, wing], [wing, body]):
        codes = cell_codes(several, ("body", "wing"), L)
        assert bool((codes[8:16, 8:16] == 2).all())
        assert int((codes == 2).sum()) == 64
        assert int((codes == 1).sum()) == L * L - 64
    half = part("wing", box=(16, 33, 16, 32))  # covers half of the cells below
    assert int((cell_codes([half], ("wing",), L) > 0).sum()) == 72


def test_cells_are_parts_and_objects_and_say_what_is_known(model: Calico) -> None:
    bird = part("Birds", kind=OBJECT, box=(0, 40, 0, 40))
    seen = example(model, bird, part("the wing"), part("beak", 1, UNIQUE))
    first, second = (plain_image(seen, k) for k in range(2))
    assert (first.part_names, first.object_names) == (("wing",), ("bird",))
    assert (second.part_names, second.object_names) == (("beak",), ())
    assert int(first.objects.sum()) == 400
    assert int(first.parts.sum()) == 64
    assert [tuple(one.shape[1:]) for one in first.maps] == [(L >> k,) * 2 for k in range(4)]
    assert first.knows_parts
    assert first.knows_objects
    assert first.nbytes > 0
    half = plain_image(example(model, bird, known=frozenset({OBJECT, COMMON})), 0)
    assert not half.knows_parts  # unique parts may be anywhere
    assert half.knows_objects


def test_the_object_whose_parts_are_compared_is_an_object_too(model: Calico) -> None:
    wing = part("wing")
    seen = example(model, wing)
    assert objects_of(seen, 0) == []
    told = replace(seen, objects=(ComparedObject(0, "bird", wing.mask), None))
    assert [one.label for one in objects_of(told, 0)] == ["bird"]
    assert [one.label for one in parts_of(told, 0)] == ["wing"]
    bird = part("Bird", kind=OBJECT)
    both = replace(example(model, wing, bird), objects=told.objects)
    assert [one.label for one in objects_of(both, 0)] == ["Bird"]


def test_an_example_brings_its_images_and_their_views(model: Calico) -> None:
    seen, images = example(model, part("wing")), drawn(SceneSplit.SEEN, 0).group.images
    views = group_views(seen, images, 3, Seen(), {"wing"})
    assert [len(several) for several in views] == [3, 3]
    taught = with_dense(seen, views)
    assert [len(several) for several in taught.dense] == [4, 4]
    assert torch.equal(taught.dense[0][0].parts, plain_image(seen, 0).parts)


def test_views_that_were_not_used_for_longest_are_forgotten_first(model: Calico) -> None:
    seen, images = example(model, part("wing")), drawn(SceneSplit.SEEN, 0).group.images
    views = group_views(seen, images, 2, Seen(), {"wing"})
    size = sum(one.nbytes for several in views for one in several)
    cache = ViewCache(2 * size)
    cache.put("a", views)
    cache.put("b", views)
    assert cache.get("a", 3) is None  # so many there are not
    fewer = cache.get("a", 1)
    assert fewer is not None
    assert [len(several) for several in fewer] == [1, 1]
    cache.put("c", views)
    assert [cache.get(key, 2) is not None for key in "abc"] == [True, False, True]
