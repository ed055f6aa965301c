"""An outlined region proposed elsewhere, and its like beside it: masks in, named masks out.

Between original pixels and the mechanisms of exemplar.py and repeated.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from calico_model.errors import InvalidMaskError
from calico_model.inference.dense_detection import detect_regions
from calico_model.inference.images import mask_shares
from calico_model.inference.mask_refinement import draw_outlines, picture_of, refine_masks
from calico_model.inference.segments import SizesHw, sizes_of
from calico_model.interactive.propagate.apart import tell_apart, without
from calico_model.interactive.propagate.exemplar import Sighting, find_elsewhere
from calico_model.interactive.propagate.photo_exemplar import PhotoSighting, find_in_photos
from calico_model.interactive.propagate.repeated import (
    MOST,
    Prompted,
    draw_next,
    draw_whole,
    middle,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_refiner import MaskRefiner
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, GroupPrediction, PartMask, RegionKind, RgbImage
from calico_model.vocabulary import normalise

_PLACES, _STRIDE = 8, 4  # places per side of an image
_LEAST_PRESENCE = 0.5


@dataclass(frozen=True, eq=False)
class Proposal:
    """What one image shows of an outlined part.

    Attributes:
        image_index: 0-based position in the group.
        parts: usually one region; several where the outline is one of several alike parts; none
            if the part is not there.
        score: chance in [0, 1] that it is there and drawn well.
    """

    image_index: int
    parts: tuple[PartMask, ...]
    score: float

    @property
    def is_absent(self) -> bool:
        """Whether the image does not show the part."""
        return not self.parts


@torch.inference_mode()
def transfer(
    model: Calico,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    part: PartMask,
    named: Tensor | None = None,
    objects: Sequence[str | None] = (),
) -> tuple[Proposal, ...]:
    """Proposes an outlined part on the other images of its group.

    Args:
        model: in evaluation mode, on the device of the features.
        features: of the group's images.
        images: (H_i, W_i, 3) uint8, the group's pixels.
        part: the outline.
        named: (n, C) [SEG] prompts of its name on every image, from `make_name_prompts`; None
            asks by its looks alone.
        objects: name of the compared object of each image where known; () for unknown.

    Returns:
        One entry per other image, in order; the outlined image comes first if it shows further
        parts of that kind. All regions carry the outline's kind, label and part_id;
        to that of single pieces their place is added, so that each keeps an identity of its own.

    Raises:
        InvalidMaskError: the outline is empty, too small to be seen, or of another size.
    """
    sizes_hw = sizes_of(images)
    shares = _shares(part.mask, part.image_index, sizes_hw, model)
    if model.photo_refiner is not None and not model.is_familiar(features):
        return _photo_proposals(model, model.photo_refiner, features, images, part, objects)
    found = find_elsewhere(model, features, part.image_index, shares, named=named)
    shown = [one for one in found if not one.is_absent]
    at, logits = [one.image for one in shown], [one.logits for one in shown]
    wholes = dict(
        zip(at, draw_outlines(model, features, sizes_hw, at, logits, images), strict=True)
    )
    memory = _Memory(model, features, images)
    proposals = [
        _proposal(part, one, memory.parts_of(wholes.get(one.image), one, part), objects)
        for one in found
    ]
    return tuple(one for one in proposals if one.parts or one.image_index != part.image_index)


def _photo_proposals(
    model: Calico,
    refiner: MaskRefiner,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    part: PartMask,
    objects: Sequence[str | None],
) -> tuple[Proposal, ...]:
    """Proposes a part of a photograph: by its name if the project has learned it, else by looks."""
    sizes_hw = sizes_of(images)
    dense = detect_regions(model, features, sizes_hw, images)
    label = normalise(part.label)
    if label in dense.known_parts:
        found = [
            PhotoSighting(part.image, part.mask, part.chance_right)
            for part in dense.detections
            if not part.is_object and part.label == label and part.mask is not None
        ]
    else:
        looked = find_in_photos(features, part.image_index, part.mask, sizes_hw)
        kept = [one for one in looked if one.presence >= _LEAST_PRESENCE and one.mask.any()]
        pictures = [picture_of(model, features, one.image, images[one.image]) for one in kept]
        masks = refine_masks(refiner, pictures, [one.mask for one in kept], [None] * len(kept))
        found = [replace(one, mask=mask) for one, mask in zip(kept, masks, strict=True)]
    by_image = {one.image: one for one in found if one.mask.any()}
    proposals = []
    for image in range(len(images)):
        if image == part.image_index:
            continue
        seen = by_image.get(image)
        if seen is None:
            proposals.append(Proposal(image, (), 0.0))
            continue
        region = replace(
            part,
            image_index=image,
            mask=seen.mask,
            object_label=(objects[image] if objects else None) or part.object_label,
            score=seen.presence,
            evidence=None,
        )
        proposals.append(Proposal(image, (region,), seen.presence))
    return tuple(proposals)


@torch.inference_mode()
def other_pieces(
    model: Calico,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    image_index: int,
    prompt: Tensor,
    *,
    approved: Sequence[BoolMask] = (),
    most: int | None = None,
    remembers: bool = True,
) -> tuple[tuple[BoolMask, float], ...]:
    """Outlines parts of one name one by one, beside those that are outlined already.

    Args:
        model, features, images: as in `transfer`.
        image_index: which image.
        prompt: (C,) [SEG] prompt of the name on that image.
        approved: (H, W) bool, parts of that name that are done.
        most: how many are wanted; None is all.
        remembers: False leaves the mask memory out.

    Returns:
        Mask (H, W) of each, without overlap, and the predicted IoU of all of them together;
        without a mask memory one mask of all of them.

    Raises:
        InvalidMaskError: an approved mask is empty, too small to be seen, or of another size.
    """
    sizes_hw = sizes_of(images)
    for mask in approved:
        _shares(mask, image_index, sizes_hw, model)  # or it is refused
    asked = Prompted(image_index, prompt[None])
    together = draw_whole(model, features, asked)
    (whole,) = draw_outlines(model, features, sizes_hw, [image_index], [together.logits], images)
    if model.mask_memory is None or not remembers:
        return ((without(whole, approved), together.iou),)
    memory = _Memory(model, features, images)
    next_part = partial(memory.next_part, asked, together.logits)
    limit = MOST - len(approved) if most is None else most
    masks = tell_apart(whole, approved, next_part, most=limit)
    return tuple((mask, together.iou) for mask in masks)


@dataclass(frozen=True, eq=False)
class _Memory:
    """The mask memory of a model on a group, asked for single parts."""

    model: Calico
    features: ImageFeatures
    images: Sequence[RgbImage]

    def parts_of(
        self, whole: BoolMask | None, found: Sighting, outlined: PartMask
    ) -> list[BoolMask]:
        """What to propose of the mask of all parts in an image; None is no mask."""
        if whole is None:
            return []
        if found.single is None:
            return [whole]
        next_part = partial(self.next_part, found.single, found.logits)
        if found.image == outlined.image_index:
            return tell_apart(whole, [outlined.mask], next_part, most=MOST - 1)
        return tell_apart(whole, [], next_part, most=MOST) or [whole]

    def next_part(
        self, asked: Prompted, whole: Tensor, done: Sequence[BoolMask]
    ) -> BoolMask | None:
        """Draws one part beside those that are done."""
        sizes_hw, at = sizes_of(self.images), asked.image
        shares = [_shares(mask, at, sizes_hw, self.model) for mask in done]
        piece = draw_next(self.model, self.features, asked, whole, shares)
        if piece is None:
            return None
        (drawn,) = draw_outlines(
            self.model, self.features, sizes_hw, [at], [piece.logits], self.images
        )
        return drawn


def object_names(group_prediction: GroupPrediction | None, images: int) -> tuple[str | None, ...]:
    """Returns what the compared object of each image is called in a prediction, None if nothing."""
    names: list[str | None] = [None] * images
    for part in group_prediction.parts if group_prediction is not None else ():
        is_object = part.kind is RegionKind.COMMON_OBJECT
        if names[part.image_index] is None:
            names[part.image_index] = part.label if is_object else part.object_label
    return tuple(names)


def _proposal(
    part: PartMask,
    found: Sighting,
    masks: Sequence[BoolMask],
    objects: Sequence[str | None],
) -> Proposal:
    owner = objects[found.image] if objects else None
    shown = [mask for mask in masks if mask.any()]
    names = [part.part_id] * len(shown)
    if found.single is not None:
        names = [f"{part.part_id or part.label}{place}" for place in _places(shown)]
    regions = tuple(
        replace(
            part,
            image_index=found.image,
            mask=mask,
            object_label=owner or part.object_label,
            part_id=name,
            score=found.score,
            evidence=None,
        )
        for mask, name in zip(shown, names, strict=True)
    )
    return Proposal(found.image, regions, found.score)


def _places(masks: Sequence[BoolMask]) -> list[str]:
    """Where masks are, each in words of its own: small ones may be in one place."""
    places = [_place(mask) for mask in masks]
    return [
        place if (before := places[:number].count(place)) == 0 else f"{place}-{before + 1}"
        for number, place in enumerate(places)
    ]


def _place(mask: BoolMask) -> str:
    """Where a mask roughly is: what tells alike parts of an image apart, request after request."""
    # Every fourth pixel of each side says as much; of a smaller part, all of them.
    coarse = mask[::_STRIDE, ::_STRIDE] if mask[::_STRIDE, ::_STRIDE].any() else mask
    row, column = middle(coarse)
    height, width = coarse.shape
    return f"@{int(_PLACES * row / height)}-{int(_PLACES * column / width)}"


def _shares(mask: BoolMask, image_index: int, sizes_hw: SizesHw, model: Calico) -> Tensor:
    if not 0 <= image_index < len(sizes_hw):
        raise InvalidMaskError(f"image_index: expected 0 to {len(sizes_hw) - 1}, got {image_index}")
    if mask.shape != tuple(sizes_hw[image_index]):
        raise InvalidMaskError(
            f"mask: expected the size of image {image_index}, {sizes_hw[image_index]}, "
            f"got {mask.shape}"
        )
    shares = mask_shares(mask, model.config.image_size, model.config.mask_side)
    if not bool(shares.any()):
        raise InvalidMaskError(f"mask: expected an outline in image {image_index}, got none")
    return shares.to(model.mask_decoder.mask_decoder.iou_token.weight.device)
