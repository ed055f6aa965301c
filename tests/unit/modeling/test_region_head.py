"""What a region looks like: pooled where it is, described whatever its size, silent untrained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.inference.images import to_pixels
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import OUTLINE, describe_regions, descriptor_widths

SIDE = 32
SEMANTIC, SEEN, EMBEDDING = range(3)


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


def shares(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    found = torch.zeros(len(boxes), SIDE, SIDE)
    for one, (top, left, bottom, right) in zip(found, boxes, strict=True):
        one[top:bottom, left:right] = 1.0
    return found


def test_blocks_have_the_widths_a_head_expects(model: Calico, features: ImageFeatures) -> None:
    blocks = describe_regions(features, torch.tensor([0, 1]), shares((4, 4, 12, 20), (0, 0, 1, 1)))
    assert tuple(block.shape[1] for block in blocks) == descriptor_widths(model.config)
    assert all(len(block) == 2 and bool(torch.isfinite(block).all()) for block in blocks)


def test_the_whole_image_is_the_mean_of_its_tokens(features: ImageFeatures) -> None:
    blocks = describe_regions(features, torch.tensor([1]), shares((0, 0, SIDE, SIDE)))
    assert torch.allclose(blocks[SEMANTIC][0], features.semantic_tokens[1].mean(0), atol=1e-5)
    patches = features.global_tokens[1, -16:]  # the first is the class token
    assert torch.allclose(blocks[SEEN][0], patches.mean(0), atol=1e-5)


def test_what_is_elsewhere_does_not_show_inside(features: ImageFeatures) -> None:
    region, image = shares((0, 0, 8, 8)), torch.tensor([0])
    before = describe_regions(features, image, region)
    changed = features.mask.embedding.clone()
    changed[0, :, 4:, 4:] += 1.0
    moved = replace(features, mask=replace(features.mask, embedding=changed))
    after = describe_regions(moved, image, region)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    changed = features.mask.embedding.clone()
    changed[0, :, 0, 0] += 1.0
    inside = replace(features, mask=replace(features.mask, embedding=changed))
    assert not torch.equal(before[EMBEDDING], describe_regions(inside, image, region)[EMBEDDING])


def test_regions_are_described_one_by_one(features: ImageFeatures) -> None:
    boxes = ((4, 4, 12, 20), (10, 2, 30, 9), (0, 0, 1, 1))
    image = torch.tensor([0, 1, 0])
    together = describe_regions(features, image, shares(*boxes))
    for n, box in enumerate(boxes):
        alone = describe_regions(features, image[n : n + 1], shares(box))
        for a, b in zip(alone, together, strict=True):
            assert torch.allclose(a[0], b[n], atol=1e-5)


def test_the_outline_is_a_thumbnail_wherever_it_lies(features: ImageFeatures) -> None:
    lower = shares((4, 4, 20, 20))
    lower[0, 4:12, 12:20] = 0.0
    there = torch.roll(lower, (6, 3), (1, 2))
    image = torch.tensor([0])
    (a, b) = (describe_regions(features, image, one)[-1] for one in (lower, there))
    assert torch.equal(a, b)
    picture = a.reshape(OUTLINE, OUTLINE)
    assert picture[:4, :4].mean() == 1.0
    assert picture[:4, 4:].mean() == 0.0


def test_an_untrained_head_says_nothing(model: Calico, features: ImageFeatures) -> None:
    model.add_on(("region_head",))
    head = model.region_head
    assert head is not None
    blocks = describe_regions(features, torch.tensor([0]), shares((4, 4, 12, 20)))
    assert not head(head.standardise(blocks), torch.randn(5, 64)).any()


def test_a_head_leaves_every_answer_as_it_is(model: Calico, images: list[np.ndarray]) -> None:
    pixels = to_pixels(images, model.config)
    with torch.no_grad():
        before = model.encode(pixels)
        model.add_on(("region_head",))
        after = model.encode(pixels)
    assert torch.equal(before.global_tokens, after.global_tokens)
    assert torch.equal(before.mask.embedding, after.mask.embedding)
    held = model.region_head
    model.add_on(("region_head",))
    assert model.region_head is held, "adding what is there must not forget what it learned"
