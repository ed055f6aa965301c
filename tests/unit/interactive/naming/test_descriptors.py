"""Drawings are described by CALICO's own encoders, photographs by the photo trunk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.errors import InvalidMaskError
from calico_model.inference.images import to_pixels
from calico_model.interactive.naming.closed_set import ClosedSet, Fusion, Outline
from calico_model.interactive.naming.descriptors import (
    describe_outlines,
    frames_of,
    reads_photos,
    unit_rows,
)
from calico_model.interactive.naming.name_regions import name_regions
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.photo_trunk import PhotoTrunk
from calico_model.modeling.region_head import describe_photo_regions, describe_regions
from calico_model.tokenizer import Tokenizer
from calico_model.vocabulary import Vocabulary

LABELS = ("lid", "rim", "leg")
SIZES = ((40, 60), (50, 30))


@pytest.fixture
def features(photo_model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return photo_model.encode(to_pixels(images, photo_model.config))


@pytest.fixture
def outlines() -> list[Outline]:
    drawn = []
    for image, top, left in ((0, 2, 2), (1, 20, 6), (0, 20, 30)):
        mask = np.zeros(SIZES[image], np.bool_)
        mask[top : top + 12, left : left + 12] = True
        drawn.append(Outline(image, mask))
    return drawn


def take_for_photographs(model: Calico) -> None:
    """Makes every picture an unfamiliar one."""
    model.add_on(["familiarity"])
    assert model.familiarity is not None
    with torch.no_grad():
        model.familiarity.weight.zero_()
        model.familiarity.bias.fill_(-1.0)


def accepted(descriptors: np.ndarray) -> Prototypes:
    known = Prototypes()
    for label, descriptor in zip(LABELS, descriptors, strict=True):
        known = known.add(label, descriptor)
    return known


def test_drawings_are_described_as_before(
    photo_model: Calico, features: ImageFeatures, outlines: list[Outline]
) -> None:
    assert not reads_photos(photo_model, features)
    described = describe_outlines(photo_model, features, outlines)
    with torch.inference_mode():
        blocks = describe_regions(features, *frames_of(photo_model, outlines))
    assert np.array_equal(described, unit_rows(blocks, None).numpy())
    without = replace(features, photo=())
    assert np.array_equal(described, describe_outlines(photo_model, without, outlines))


def test_photographs_are_described_by_the_photo_trunk_alone(
    photo_model: Calico,
    photo_trunk: PhotoTrunk,
    features: ImageFeatures,
    outlines: list[Outline],
) -> None:
    own = describe_outlines(photo_model, features, outlines)
    take_for_photographs(photo_model)
    described = describe_outlines(photo_model, features, outlines)
    assert described.shape == (3, 2 * sum(photo_trunk.widths[1:]))
    assert described.shape[1] != own.shape[1]
    assert np.linalg.norm(described, axis=1) == pytest.approx(1.0, abs=1e-5)
    blind = replace(
        features,
        global_tokens=torch.zeros_like(features.global_tokens),
        semantic_tokens=torch.zeros_like(features.semantic_tokens),
    )
    assert np.array_equal(described, describe_outlines(photo_model, blind, outlines))
    other = replace(features, photo=tuple(level.flip(-1) for level in features.photo))
    assert not np.allclose(described, describe_outlines(photo_model, other, outlines), atol=0.05)


def test_an_accepted_photograph_is_recognised_and_drawings_do_not_mix_in(
    photo_model: Calico, tokenizer: Tokenizer, features: ImageFeatures, outlines: list[Outline]
) -> None:
    drawn = describe_outlines(photo_model, features, outlines)
    take_for_photographs(photo_model)
    photographed = accepted(describe_outlines(photo_model, features, outlines))
    both = photographed
    for descriptor in drawn:  # drawings of the project, all under one label
        both = both.add("leg", descriptor)
    for known in (photographed, both):
        closed = ClosedSet(Vocabulary(LABELS), known, Fusion(trusted_after=0.0))
        named = name_regions(photo_model, tokenizer, features, outlines, closed)
        assert [one.ranked[0][0] for one in named] == list(LABELS)
    with_both = name_regions(
        photo_model, tokenizer, features, outlines, ClosedSet(Vocabulary(LABELS), both)
    )
    alone = name_regions(
        photo_model, tokenizer, features, outlines, ClosedSet(Vocabulary(LABELS), photographed)
    )
    assert with_both == alone


def test_names_of_drawings_do_not_change_by_accepted_photographs(
    photo_model: Calico, tokenizer: Tokenizer, features: ImageFeatures, outlines: list[Outline]
) -> None:
    known = accepted(describe_outlines(photo_model, features, outlines))
    mixed = known
    for seed in range(4):
        vector = np.random.default_rng(seed).normal(size=77).astype(np.float32)
        mixed = mixed.add("rim", vector)
    alone, both = (
        name_regions(photo_model, tokenizer, features, outlines, ClosedSet(Vocabulary(LABELS), one))
        for one in (known, mixed)
    )
    assert alone == both


def test_a_region_of_the_whole_image_has_a_descriptor(features: ImageFeatures) -> None:
    shares = torch.ones(2, 32, 32)
    rows = describe_photo_regions(features, torch.tensor([0, 1]), shares)
    assert torch.isfinite(rows).all()
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    flat = replace(features, photo=tuple(torch.ones_like(level) for level in features.photo))
    assert torch.isfinite(describe_photo_regions(flat, torch.tensor([0, 1]), shares)).all()


def test_an_empty_mask_of_a_photograph_is_refused(
    photo_model: Calico, features: ImageFeatures
) -> None:
    take_for_photographs(photo_model)
    with pytest.raises(InvalidMaskError, match=r"outlines\[0\]"):
        describe_outlines(photo_model, features, [Outline(0, np.zeros(SIZES[0], np.bool_))])
