"""Masks of detections in photographs, drawn again by networks that see pixels.

The photo refiner draws parts, for whole objects are best as the dense head finds them. MobileSAM,
if it is installed, then draws the edges of all, and says how well its masks fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calico_model.inference.mask_refinement import picture_of, refine_masks
from calico_model.inference.sam_outline import follow_edges
from calico_model.inference.segments import Segment
from calico_model.inference.sharpening import without_fragments
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import RegionKind, RgbImage


def refine_photo_masks(
    model: Calico,
    features: ImageFeatures,
    segments: Sequence[Segment],
    images: Sequence[RgbImage] | None,
) -> list[Segment]:
    """Refines the masks of photographs, in order.

    Args:
        model, features: as in `predict_regions`.
        segments: of the group's images; those without a mask stay as they are.
        images: the group's pixels, (H_i, W_i, 3) uint8; None refines nothing.
    """
    if images is None or not segments:
        return list(segments)
    refined = _refine_parts(model, features, segments, images)
    sam = model.mobile_sam()
    if sam is None:
        return refined
    drawn = []
    for segment in refined:
        if segment.mask is None:
            drawn.append(segment)
        else:
            mask, edges = follow_edges(sam, images[segment.image], segment.mask)
            drawn.append(replace(segment, mask=mask, edges=edges))
    return drawn


def _refine_parts(
    model: Calico,
    features: ImageFeatures,
    segments: Sequence[Segment],
    images: Sequence[RgbImage],
) -> list[Segment]:
    """Refines the masks of parts, if the model has a refiner for photographs."""
    refiner = model.photo_refiner
    if refiner is None:
        return list(segments)
    masks = {
        place: (segment.image, segment.mask)
        for place, segment in enumerate(segments)
        if segment.kind is not RegionKind.COMMON_OBJECT and segment.mask is not None
    }
    pictures = {k: picture_of(model, features, k, images[k]) for k, _ in masks.values()}
    refined = refine_masks(
        refiner,
        [pictures[image] for image, _ in masks.values()],
        [mask for _, mask in masks.values()],
        [None] * len(masks),
    )
    result = list(segments)
    for place, mask in zip(masks, refined, strict=True):
        if mask.any():
            result[place] = replace(result[place], mask=without_fragments(mask))
    return result
