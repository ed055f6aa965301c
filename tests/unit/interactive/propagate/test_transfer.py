"""An outlined part in the other images: the promises that hold for any weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.assistant import Assistant
from calico_model.errors import InvalidMaskError
from calico_model.inference.images import to_pixels
from calico_model.inference.teacher_forcing import make_name_prompts
from calico_model.interactive.propagate.exemplar import find_in_images
from calico_model.interactive.propagate.transfer import _positions, other_pieces, transfer
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup, PartMask, RegionKind

SIDE = 32
SIZES = ((40, 60), (50, 30), (40, 60))
IMAGES = [np.zeros((*size, 3), np.uint8) for size in SIZES]


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels([*images, images[0]], model.config))


@pytest.fixture
def part() -> PartMask:
    mask = np.zeros(SIZES[0], dtype=bool)
    mask[8:24, 10:30] = True
    return PartMask(0, RegionKind.COMMON_PART, "leg", mask, "chair", "legs")


def shares() -> torch.Tensor:
    outline = torch.zeros(SIDE, SIDE)
    outline[4:14, 4:16] = 1.0
    return outline


def test_every_other_image_gets_an_answer(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures, part: PartMask
) -> None:
    named = make_name_prompts(model, tokenizer, features, [part.label])[0]
    found = transfer(model, features, IMAGES, part, named)
    assert [one.image_index for one in found] == [1, 2]
    for one in found:
        assert 0.0 <= one.score <= 1.0
        for region in one.parts:
            assert region.mask.shape == SIZES[one.image_index]
            assert (region.kind, region.label, region.part_id) == (part.kind, "leg", "legs")


@pytest.mark.parametrize("add_ons", [(), ("exemplar",)])
def test_an_absent_part_shows_nowhere(
    model: Calico, features: ImageFeatures, add_ons: tuple[str, ...]
) -> None:
    model.add_on(add_ons)
    if model.exemplar is not None:
        last = model.exemplar.presence[-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(-9.0)
        for one in find_in_images(model.eval(), features, 0, shares()):
            assert one.is_absent
            assert not bool((one.logits > 0).any())
    else:
        for one in find_in_images(model, features, 0, shares()):
            assert one.is_absent == (not bool((one.logits > 0).any()))


def test_the_same_image_again_shows_the_same_part_most_like(
    model: Calico, features: ImageFeatures
) -> None:
    """Image 2 is image 0 again: by looks alone, nothing can be more alike."""
    other, again = find_in_images(model, features, 0, shares())
    assert (other.image, again.image) == (1, 2)
    assert again.score >= other.score


def test_a_name_alone_draws_what_the_model_says_of_it(
    model: Calico, features: ImageFeatures
) -> None:
    named = torch.randn(3, model.config.mask.prompt_width)
    found = find_in_images(model, features, 0, shares(), named=named, uses_exemplar=False)
    with torch.no_grad():
        logits, _ = model.mask_decoder(features.mask, torch.arange(3), named[:, None])
    for one in found:
        assert one.is_absent or torch.allclose(one.logits, logits[one.image, 0], atol=1e-5)


def test_a_single_piece_is_all_of_them_without_a_memory(
    model: Calico, features: ImageFeatures
) -> None:
    prompt = torch.randn(model.config.mask.prompt_width)
    assert len(other_pieces(model, features, IMAGES, 1, prompt)) == 1


def test_small_parts_in_one_place_keep_identities_of_their_own() -> None:
    buttons = [np.zeros((256, 256), np.bool_) for _ in range(4)]
    for number, mask in enumerate(buttons):
        mask[100:110, 100 + 7 * number : 105 + 7 * number] = True
    elsewhere = np.zeros((256, 256), np.bool_)
    elsewhere[200:220, 10:30] = True
    places = _positions([*buttons, elsewhere])
    assert len(set(places)) == 5
    assert places[0] == "@3-3"
    assert places[4] == "@6-0"


def test_an_empty_outline_is_refused(
    model: Calico, features: ImageFeatures, part: PartMask
) -> None:
    with pytest.raises(InvalidMaskError, match="expected an outline in image 0"):
        transfer(model, features, IMAGES, replace(part, mask=np.zeros_like(part.mask)))


def test_an_outline_of_another_size_is_refused(
    model: Calico, features: ImageFeatures, part: PartMask
) -> None:
    with pytest.raises(InvalidMaskError, match="expected the size of image 1"):
        transfer(model, features, IMAGES, replace(part, image_index=1))
    with pytest.raises(InvalidMaskError, match="image_index: expected 0 to 2, got 3"):
        transfer(model, features, IMAGES, replace(part, image_index=3))


def test_a_name_called_again_needs_no_language_model(
    model: Calico, tokenizer: Tokenizer, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(model, tokenizer, version="v")
    group = ImageGroup(tuple(images), ("a", "b"))
    mask = np.zeros(SIZES[0], dtype=bool)
    mask[8:24, 10:30] = True
    outline = PartMask(0, RegionKind.COMMON_PART, "leg", mask)
    first = Assistant(predictor).transfer(group, outline)
    monkeypatch.setattr(model, "forward", None)
    again = Assistant(predictor).transfer(group, outline)
    assert [one.score for one in again] == [one.score for one in first]
    unnamed = Assistant(predictor).transfer(group, replace(outline, label=""))
    assert len(unnamed) == 1
