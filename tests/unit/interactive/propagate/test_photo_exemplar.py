"""An outlined part is found by its looks in the other photographs, or called absent."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from calico_model.inference.images import to_pixels
from calico_model.interactive.propagate.photo_exemplar import find_in_photos
from calico_model.interactive.propagate.transfer import transfer
from calico_model.masks import mask_iou
from calico_model.modeling.dense_head import DenseNames, DenseRows
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, PartMask, RegionKind, RgbImage

SIZE = (160, 240)


def ball(at: tuple[int, int] | None, seed: int) -> tuple[RgbImage, BoolMask]:
    """A red ball with a white cross on striped grey ground, or the ground alone."""
    rng = np.random.default_rng(seed)
    image = np.full((*SIZE, 3), 110, np.uint8)
    image[::8] = 150
    mask = np.zeros(SIZE, np.uint8)
    if at is not None:
        cv2.circle(mask, at, 32, 1, -1)
        image[mask > 0] = (200, 30, 30)
        cv2.line(image, (at[0] - 20, at[1]), (at[0] + 20, at[1]), (250, 250, 250), 5)
        cv2.line(image, (at[0], at[1] - 20), (at[0], at[1] + 20), (250, 250, 250), 5)
    noise = rng.integers(-6, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask > 0


def seen(model: Calico, images: list[RgbImage]) -> ImageFeatures:
    with torch.inference_mode():
        return model.encode(to_pixels(images, model.config))


def test_the_like_of_an_outline_is_found_and_what_is_missing_is_less_likely(
    photo_model: Calico,
) -> None:
    drawn = [ball((70, 80), 1), ball((90, 70), 2), ball(None, 3)]
    images, masks = [one for one, _ in drawn], [one for _, one in drawn]
    features = seen(photo_model, images)
    there, gone = find_in_photos(features, 0, masks[0], [SIZE] * 3)
    assert (there.image, gone.image) == (1, 2)
    assert mask_iou(there.mask, masks[1]) > 0.4
    assert there.presence > gone.presence + 0.2


def test_a_tiny_outline_is_looked_for_too(photo_model: Calico) -> None:
    drawn = [ball((70, 80), 1), ball((90, 70), 2)]
    tiny = np.zeros(SIZE, np.bool_)
    tiny[80:83, 70:73] = True
    (found,) = find_in_photos(seen(photo_model, [one for one, _ in drawn]), 0, tiny, [SIZE] * 2)
    assert 0 <= found.presence <= 1


@pytest.fixture
def unfamiliar(photo_model: Calico) -> Calico:
    photo_model.add_on(["familiarity", "photo_refiner", "dense_head"])
    assert photo_model.familiarity is not None
    photo_model.familiarity.bias.fill_(-1.0)
    return photo_model.eval()


def test_photographs_are_asked_by_looks(unfamiliar: Calico) -> None:
    drawn = [ball((70, 80), 1), ball((90, 70), 2)]
    images, masks = [one for one, _ in drawn], [one for _, one in drawn]
    part = PartMask(0, RegionKind.COMMON_PART, "ball", masks[0], part_id="p")
    (found,) = transfer(unfamiliar, seen(unfamiliar, images), images, part, None, (None, "toy"))
    assert found.image_index == 1
    (region,) = found.parts
    assert (region.label, region.part_id, region.object_label) == ("ball", "p", "toy")
    assert mask_iou(region.mask, masks[1]) > 0.4


def test_mobile_sam_draws_the_edges_of_what_is_proposed(
    unfamiliar: Calico, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [ball((70, 80), 1), ball((150, 90), 2)]
    images, masks = [one for one, _ in drawn], [one for _, one in drawn]
    part = PartMask(0, RegionKind.COMMON_PART, "ball", masks[0])
    features = seen(unfamiliar, images)
    ((with_it,),) = (one.parts for one in transfer(unfamiliar, features, images, part))
    monkeypatch.setattr(Calico, "mobile_sam", lambda _model: None)
    ((without,),) = (one.parts for one in transfer(unfamiliar, features, images, part))
    assert mask_iou(with_it.mask, masks[1]) > max(0.95, mask_iou(without.mask, masks[1]))
    assert with_it.score == without.score


def test_a_name_that_the_project_has_learned_decides(unfamiliar: Calico) -> None:
    drawn = [ball((70, 80), 1), ball((90, 70), 2)]
    images, masks = [one for one, _ in drawn], [one for _, one in drawn]
    head = unfamiliar.dense_head
    assert head is not None
    names = DenseNames(("ball",), ())
    rows = torch.zeros(names.rows, head.first.shape[1])
    head.activate(DenseRows(names, rows, torch.eye(1), 1.0))
    part = PartMask(0, RegionKind.COMMON_PART, "Ball", masks[0])
    (found,) = transfer(unfamiliar, seen(unfamiliar, images), images, part)
    assert found.is_absent  # the head sees no ball anywhere, whatever it looks like
