"""Other views of a corrected group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.training.online.example import Example, example_of
from calico_model.training.online.views import with_views
from calico_model.types import ImageGroup, LabeledGroup
from tests.unit.training.examples import drawn, encoded


@pytest.fixture
def labeled() -> LabeledGroup:
    return drawn(SceneSplit.UNSEEN_DOMAIN, 0)


def viewed(model: Calico, labeled: LabeledGroup, count: int) -> tuple[Example, list[ImageGroup]]:
    shown: list[ImageGroup] = []

    def encode(group: ImageGroup) -> ImageFeatures:
        shown.append(group)
        return encoded(model, group)

    example = example_of(labeled, encoded(model, labeled.group), "a")
    return with_views(example, labeled.group.images, count, encode), shown


def test_masks_move_with_their_pictures(model: Calico, labeled: LabeledGroup) -> None:
    white = tuple(
        np.where(
            np.logical_or.reduce([p.mask for p in labeled.parts if p.image_index == k])[..., None],
            np.uint8(255),
            np.uint8(0),
        ).repeat(3, axis=2)
        for k in range(len(labeled.group))
    )
    group = ImageGroup(white, labeled.group.ids)
    known = LabeledGroup(group, labeled.parts, labeled.objects, labeled.known)
    example, shown = viewed(model, known, 4)
    for view, pictures in zip(example.views, shown, strict=True):
        for k, picture in enumerate(pictures.images):
            mine = [part.mask for part in view.truth if part.image_index == k]
            inside = np.logical_or.reduce(mine)
            bright = picture.mean(2) > 127
            assert (inside & bright).sum() > 0.9 * inside.sum()


def test_views_differ_but_teach_the_same(model: Calico, labeled: LabeledGroup) -> None:
    example, shown = viewed(model, labeled, 3)
    assert len(example.views) == 3
    assert not np.array_equal(shown[0].images[0], shown[1].images[0])
    for view in example.views:
        assert view.labels == example.labels
        assert [one.supervision for one in view.targets] == [
            one.supervision for one in example.targets
        ]
        assert all(part.mask.any() for part in view.truth)
        assert not torch.equal(view.features.global_tokens, example.features.global_tokens)


def test_the_same_views_are_drawn_again(model: Calico, labeled: LabeledGroup) -> None:
    _, first = viewed(model, labeled, 2)
    _, again = viewed(model, labeled, 2)
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def test_left_and_right_are_never_mirrored(model: Calico, labeled: LabeledGroup) -> None:
    sided = replace(
        labeled, parts=tuple(replace(part, label=f"left {part.label}") for part in labeled.parts)
    )
    square = np.zeros((64, 64), dtype=bool)
    square[8:56, 8:24] = True
    halves = tuple(replace(part, mask=square) for part in sided.parts)
    example, _ = viewed(model, replace(sided, parts=halves), 8)
    for view in example.views:
        for part in view.truth:
            columns = np.flatnonzero(part.mask.any(0))
            assert columns.mean() < 40
