"""An outlined region proposed on other images, and further parts of its name: masks to masks.

Between original pixels and the mechanisms of exemplar.py, photo_exemplar.py and repeated.py.
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
from calico_model.inference.sam_outline import follow_edges
from calico_model.inference.segments import SizesHw, sizes_of
from calico_model.interactive.propagate.apart import tell_apart, without
from calico_model.interactive.propagate.exemplar import LogitProposal, find_in_images
from calico_model.interactive.propagate.photo_exemplar import PhotoProposal, find_in_photos
from calico_model.interactive.propagate.repeated import (
    MOST_PARTS,
    PartPrompt,
    draw_all_parts,
    draw_next_part,
    middle,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_refiner import MaskRefiner
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, GroupPrediction, PartMask, RegionKind, RgbImage
from calico_model.vocabulary import normalise

_POSITIONS = 8  # per side of an image, in the part_id of single parts
_STRIDE = 4  # pixels
_LEAST_PRESENCE = 0.5


@dataclass(frozen=True, eq=False)
class Proposal:
    """An outlined part as another image of the group shows it.

    Attributes:
        image_index: 0-based position in the group.
        parts: usually one region; several if the outline is one of several alike parts; none if
            the image does not show the part.
        score: chance in [0, 1] that the image shows the part and the masks are right.
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
        part: the outlined region.
        named: (n, C) [SEG] prompts of its name on every image, from `make_name_prompts`; None
            finds the part by its appearance alone.
        objects: name of the compared object of each image, None where unknown; () for all unknown.

    Returns:
        One proposal per other image, in order; the outlined image comes first if it shows further
        parts of that kind. All regions have the outline's kind, label and part_id; the part_id of
        single parts ends with their position, so that each has an id of its own.

    Raises:
        InvalidMaskError: the outline is empty, too small to be seen, or of another size.
    """
    sizes_hw = sizes_of(images)
    shares = _shares(part.mask, part.image_index, sizes_hw, model)
    if model.photo_refiner is not None and not model.is_familiar(features):
        return _photo_proposals(model, model.photo_refiner, features, images, part, objects)
    drawn = find_in_images(model, features, part.image_index, shares, named=named)
    shown = [proposal for proposal in drawn if not proposal.is_absent]
    shown_images = [proposal.image for proposal in shown]
    logits = [proposal.logits for proposal in shown]
    masks = draw_outlines(model, features, sizes_hw, shown_images, logits, images)
    wholes = dict(zip(shown_images, masks, strict=True))
    memory = _MemoryOfGroup(model, features, images)
    proposals = []
    for drawn_part in drawn:
        regions = memory.parts_of(wholes.get(drawn_part.image), drawn_part, part)
        proposal = _proposal(part, drawn_part, regions, objects)
        if proposal.parts or proposal.image_index != part.image_index:
            proposals.append(proposal)
    return tuple(proposals)


def _photo_proposals(
    model: Calico,
    refiner: MaskRefiner,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    part: PartMask,
    objects: Sequence[str | None],
) -> tuple[Proposal, ...]:
    """Proposes a part of a photograph: by a name that the project has learned, or by appearance.

    MobileSAM, if it is installed, draws the edges of what is proposed, as it does for predictions.
    """
    sizes_hw = sizes_of(images)
    dense = detect_regions(model, features, sizes_hw, images)
    label = normalise(part.label)
    if label in dense.known_parts:
        proposed = [
            PhotoProposal(detection.image, detection.mask, detection.chance_right)
            for detection in dense.detections
            if not detection.is_object and detection.label == label and detection.mask is not None
        ]
    else:
        rough = find_in_photos(features, part.image_index, part.mask, sizes_hw)
        rough = tuple(p for p in rough if p.presence >= _LEAST_PRESENCE and p.mask.any())
        pictures = [picture_of(model, features, p.image, images[p.image]) for p in rough]
        masks = refine_masks(refiner, pictures, [p.mask for p in rough], [None] * len(rough))
        proposed = [replace(p, mask=mask) for p, mask in zip(rough, masks, strict=True)]
    others = [p for p in proposed if p.mask.any() and p.image != part.image_index]
    by_image = {proposal.image: proposal for proposal in others}
    sam = model.mobile_sam()
    proposals = []
    for image in range(len(images)):
        if image == part.image_index:
            continue
        proposal = by_image.get(image)
        if proposal is None:
            proposals.append(Proposal(image, (), 0.0))
            continue
        mask = proposal.mask
        if sam is not None:
            mask, _ = follow_edges(sam, images[image], mask)
        region = replace(
            part,
            image_index=image,
            mask=mask,
            object_label=(objects[image] if objects else None) or part.object_label,
            score=proposal.presence,
            evidence=None,
        )
        proposals.append(Proposal(image, (region,), proposal.presence))
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
    """Outlines the parts of one name one by one, beside those that are outlined already.

    Args:
        model, features, images: as in `transfer`.
        image_index: 0-based position in the group.
        prompt: (C,) [SEG] prompt of the name on that image.
        approved: (H, W) bool, parts of that name that are outlined already.
        most: number of further parts at most; None is all.
        remembers: False leaves the mask memory out.

    Returns:
        Mask (H, W) of each part, without overlap, and the predicted IoU of all parts together;
        without a mask memory one mask of all parts.

    Raises:
        InvalidMaskError: an approved mask is empty, too small to be seen, or of another size.
    """
    sizes_hw = sizes_of(images)
    for mask in approved:
        _shares(mask, image_index, sizes_hw, model)  # raises for a mask that cannot be used
    part_prompt = PartPrompt(image_index, prompt[None])
    together = draw_all_parts(model, features, part_prompt)
    (whole,) = draw_outlines(model, features, sizes_hw, [image_index], [together.logits], images)
    if model.mask_memory is None or not remembers:
        return ((without(whole, approved), together.iou),)
    memory = _MemoryOfGroup(model, features, images)
    next_part = partial(memory.next_part, part_prompt, together.logits)
    limit = MOST_PARTS - len(approved) if most is None else most
    masks = tell_apart(whole, approved, next_part, most=limit)
    return tuple((mask, together.iou) for mask in masks)


@dataclass(frozen=True, eq=False)
class _MemoryOfGroup:
    """The mask memory of a model on a group: draws single parts."""

    model: Calico
    features: ImageFeatures
    images: Sequence[RgbImage]

    def parts_of(
        self, whole: BoolMask | None, proposal: LogitProposal, outlined: PartMask
    ) -> list[BoolMask]:
        """The masks to propose in one image.

        Args:
            whole: (H, W) bool, all parts in the image; None is no mask.
            proposal: for the image.
            outlined: the region that is proposed on other images.
        """
        if whole is None:
            return []
        if proposal.single is None:
            return [whole]
        next_part = partial(self.next_part, proposal.single, proposal.logits)
        if proposal.image == outlined.image_index:
            return tell_apart(whole, [outlined.mask], next_part, most=MOST_PARTS - 1)
        return tell_apart(whole, [], next_part, most=MOST_PARTS) or [whole]

    def next_part(
        self, prompt: PartPrompt, whole: Tensor, done: Sequence[BoolMask]
    ) -> BoolMask | None:
        """Draws one part beside those that are outlined already; see `draw_next_part`."""
        sizes_hw = sizes_of(self.images)
        shares = [_shares(mask, prompt.image, sizes_hw, self.model) for mask in done]
        part = draw_next_part(self.model, self.features, prompt, whole, shares)
        if part is None:
            return None
        (mask,) = draw_outlines(
            self.model, self.features, sizes_hw, [prompt.image], [part.logits], self.images
        )
        return mask


def object_names(group_prediction: GroupPrediction | None, images: int) -> tuple[str | None, ...]:
    """Returns the name of the compared object of each image in a prediction, None if unknown."""
    names: list[str | None] = [None] * images
    for part in group_prediction.parts if group_prediction is not None else ():
        is_object = part.kind is RegionKind.COMMON_OBJECT
        if names[part.image_index] is None:
            names[part.image_index] = part.label if is_object else part.object_label
    return tuple(names)


def _proposal(
    part: PartMask,
    proposal: LogitProposal,
    masks: Sequence[BoolMask],
    objects: Sequence[str | None],
) -> Proposal:
    """The regions to propose in one image, named like the outlined part."""
    owner = objects[proposal.image] if objects else None
    shown = [mask for mask in masks if mask.any()]
    part_ids = [part.part_id] * len(shown)
    if proposal.single is not None:
        part_ids = [f"{part.part_id or part.label}{position}" for position in _positions(shown)]
    regions = tuple(
        replace(
            part,
            image_index=proposal.image,
            mask=mask,
            object_label=owner or part.object_label,
            part_id=part_id,
            score=proposal.score,
            evidence=None,
        )
        for mask, part_id in zip(shown, part_ids, strict=True)
    )
    return Proposal(proposal.image, regions, proposal.score)


def _positions(masks: Sequence[BoolMask]) -> list[str]:
    """The rough positions of masks as texts; masks at one position are numbered."""
    positions = [_position(mask) for mask in masks]
    before = [positions[:number].count(position) for number, position in enumerate(positions)]
    return [
        position if count == 0 else f"{position}-{count + 1}"
        for position, count in zip(positions, before, strict=True)
    ]


def _position(mask: BoolMask) -> str:
    """The rough position of a mask: the same part has the same position in every request."""
    # Every fourth pixel of each side is enough, except for very small parts.
    coarse = mask[::_STRIDE, ::_STRIDE] if mask[::_STRIDE, ::_STRIDE].any() else mask
    row, column = middle(coarse)
    height, width = coarse.shape
    return f"@{int(_POSITIONS * row / height)}-{int(_POSITIONS * column / width)}"


def _shares(mask: BoolMask, image_index: int, sizes_hw: SizesHw, model: Calico) -> Tensor:
    """(L, L) share of each cell of the decoder's frame inside a mask, on the model's device.

    Raises:
        InvalidMaskError: the mask is empty, too small to be seen, or of another size.
    """
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
