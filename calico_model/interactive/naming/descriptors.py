"""What regions look like, as unit rows: the descriptors that prototypes of labels are made of.

Drawings are described by CALICO's own encoders. Photographs are described by the photo trunk, and
so is every picture where a backbone of transformers stands in its place.
Legend: R regions, L logit side, d width of a descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calico_model.errors import InvalidMaskError
from calico_model.inference.images import mask_shares, whole_shares
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import (
    PHOTO_FAMILIAR,
    PHOTO_TEMPERATURE,
    RegionHead,
    describe_photo_regions,
    describe_regions,
    descriptor_widths,
)


@torch.inference_mode()
def describe_outlines(
    model: Calico, features: ImageFeatures, outlines: Sequence[Outline]
) -> NDArray[np.float32]:
    """Returns the (R, d) descriptors of regions, to store under their labels.

    They are unit rows made of frozen features alone, so they hold for every adapter of one base.
    Photographs are described by the photo trunk's maps, and so is every picture where a backbone
    stands in the trunk's place; d is another then, so that the two are never compared.

    Raises:
        InvalidMaskError: an empty mask.
    """
    _check(outlines)
    if reads_photos(model, features):
        return _describe_photos(model, features, outlines)
    blocks = describe_regions(features, *frames_of(model, outlines))
    return _on_cpu(unit_rows(blocks, model.region_head))


def reads_photos(model: Calico, features: ImageFeatures) -> bool:
    """Whether the prototypes of a group's labels read the photo trunk's maps."""
    trunk = model.config.photo_trunk
    if trunk is None or not features.photo:
        return False
    return trunk.is_backbone or not model.is_familiar(features)


def descriptors_of(
    model: Calico,
    features: ImageFeatures,
    outlines: Sequence[Outline],
    blocks: list[Tensor],
) -> NDArray[np.float32]:
    """Returns the same as `describe_outlines`, where `describe_regions` has run already."""
    if reads_photos(model, features):
        return _describe_photos(model, features, outlines)
    return _on_cpu(unit_rows(blocks, model.region_head))


def _describe_photos(
    model: Calico, features: ImageFeatures, outlines: Sequence[Outline]
) -> NDArray[np.float32]:
    maps = features.photo
    shares = torch.stack([whole_shares(one.mask, maps[0].shape[-1]) for one in outlines])
    image = torch.tensor([outline.image_index for outline in outlines])
    rows = describe_photo_regions(features, image.to(maps[0].device), shares.to(maps[0].device))
    if rows.shape[1] == sum(descriptor_widths(model.config)):
        rows = functional.pad(rows, (0, 1))  # another width for another network
    return _on_cpu(rows)


def _on_cpu(rows: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = rows.cpu().numpy()
    return values


def in_space(model: Calico, features: ImageFeatures, closed: ClosedSet, width: int) -> ClosedSet:
    """Returns a closed set with the prototypes that a group's descriptors are compared with.

    Args:
        model, features: of the group.
        closed: with all prototypes of the project.
        width: d of the group's descriptors.
    """
    accepted = closed.accepted.of_width(width)
    if not reads_photos(model, features):
        return replace(closed, accepted=accepted)
    weights = replace(closed.weights, temperature=PHOTO_TEMPERATURE, familiar=PHOTO_FAMILIAR)
    return replace(closed, accepted=accepted, weights=weights)


def frames_of(model: Calico, outlines: Sequence[Outline]) -> tuple[Tensor, Tensor]:
    """Returns images (R,) and shares (R, L, L) of regions, on the model's device.

    Raises:
        InvalidMaskError: an empty mask.
    """
    _check(outlines)
    side, logit_side = model.config.image_size, model.config.mask_side
    device = model.mask_decoder.mask_decoder.iou_token.weight.device
    shares = torch.stack([mask_shares(outline.mask, side, logit_side) for outline in outlines])
    image = torch.tensor([outline.image_index for outline in outlines])
    return image.to(device), shares.to(device)


def unit_rows(blocks: list[Tensor], head: RegionHead | None) -> Tensor:
    """Joins blocks of descriptors (R, d_b), each with the same weight, to (R, d) unit rows.

    A region head, if there is one, standardises each number first.
    """
    if head is not None:
        blocks = list(torch.split(head.standardise(blocks), list(head.widths), 1))
    unit_blocks = [functional.normalize(block, dim=1) for block in blocks]
    return functional.normalize(torch.cat(unit_blocks, 1), dim=1).float()


def _check(outlines: Sequence[Outline]) -> None:
    for number, outline in enumerate(outlines):
        if not outline.mask.any():
            raise InvalidMaskError(f"outlines[{number}].mask: expected a region, got an empty mask")
