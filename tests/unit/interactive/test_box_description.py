"""A box as the whole picture: what is outside is not there, and no box changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.inference.images import to_pixels
from calico_model.interactive.box_description import crop_tokens, describe_box
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import PartMask, RegionKind, RgbImage

SIZE_HW = (40, 60)


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    assert images[0].shape[:2] == SIZE_HW
    with torch.no_grad():
        return model.encode(to_pixels(images[:1], model.config))


def test_a_box_around_everything_is_no_box(model: Calico, features: ImageFeatures) -> None:
    whole = crop_tokens(features, (-5.0, 0.0, 60.0, 41.0), SIZE_HW, model.config)

    assert torch.equal(whole.global_tokens, features.global_tokens)
    assert torch.equal(whole.semantic_tokens, features.semantic_tokens)
    assert torch.equal(model.image_rows(whole), model.image_rows(features))


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0.0, 0.0, 15.0, 10.0), [0]),
        ((45.0, 30.0, 60.0, 40.0), [15]),  # the right and lower edge are the last cells
        ((14.0, 9.0, 16.0, 11.0), [0, 1, 4, 5]),
        ((60.0, 40.0, 50.0, 35.0), [15]),  # drawn the other way round
        ((20.0, 15.0, 20.0, 15.0), [5]),  # a point is a cell
        ((900.0, -50.0, 990.0, -20.0), [3]),  # nothing is outside
    ],
)
def test_the_cells_a_box_touches_are_kept(
    model: Calico, features: ImageFeatures, box: tuple[float, float, float, float], cells: list[int]
) -> None:
    inside = crop_tokens(features, box, SIZE_HW, model.config)

    assert model.config.eva.input_size // model.config.eva.patch_size == 4
    assert torch.equal(inside.global_tokens, features.global_tokens[:, [1 + c for c in cells]])


def test_it_is_attention_masked_to_the_box(model: Calico, features: ImageFeatures) -> None:
    box, cells = (14.0, 9.0, 31.0, 21.0), [0, 1, 2, 4, 5, 6, 8, 9, 10]
    mask = torch.zeros(1, features.global_tokens.shape[1])
    mask[:, [1 + cell for cell in cells]] = 1.0
    masked = model.qformer(
        query_embeds=model.query_tokens[None],
        encoder_hidden_states=features.global_tokens,
        encoder_attention_mask=mask,
    ).last_hidden_state

    rows = model.image_rows(crop_tokens(features, box, SIZE_HW, model.config))

    assert torch.allclose(rows, model.image_projection(masked), atol=1e-5)
    assert not torch.allclose(rows, model.image_rows(features), atol=1e-3)


def test_what_is_outside_changes_nothing(model: Calico, features: ImageFeatures) -> None:
    box = (0.0, 0.0, 15.0, 10.0)
    other = features.global_tokens.clone()
    other[:, 2:] += 1.0

    first, second = (
        crop_tokens(one, box, SIZE_HW, model.config)
        for one in (features, replace(features, global_tokens=other))
    )

    assert torch.equal(model.image_rows(first), model.image_rows(second))


def test_a_box_has_the_name_of_what_fills_it(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures, images: list[RgbImage]
) -> None:
    box = (10.0, 10.0, 40.0, 30.0)
    nameless = describe_box(model, tokenizer, features, images[0], box)
    assert (nameless.image_index, nameless.mask.shape) == (0, SIZE_HW)

    known = PartMask(2, RegionKind.COMMON_PART, "leg", nameless.mask, score=1.0)
    found = describe_box(model, tokenizer, features, images[0], box, (known,))

    assert nameless.mask.any()
    assert (found.label, found.kind, found.image_index) == ("leg", RegionKind.COMMON_PART, 0)
    assert np.array_equal(found.mask, nameless.mask)
