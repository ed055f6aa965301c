"""Regions of one image made consistent: no pixel in two parts, parts inside their object, no gaps.

Pure masks and scores. Each step has its own switch; without any step a prediction stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calico_model.types import BoolMask, GroupPrediction, PartMask, RegionKind

UNKNOWN_PART = "unknown part"
_UNKNOWN_SCORE = 0.05  # the model has no score for it; first in the order of rising score
_NESTED = 0.9  # share of the smaller part's area inside the other part
_LEAST_INSIDE = 0.5  # share of a part's area inside its object; a lower share leaves the part whole
_LEAST_GAP = 0.05  # of the object's area
_SEAM = 0.02  # of the object's side; a thinner gap is a seam between parts


@dataclass(frozen=True)
class Arrangement:
    """The steps that are switched on.

    Attributes:
        overlaps: sibling parts share no pixels, and parts stay inside their object.
        gaps: a region of an object without any part becomes an unknown part.
    """

    overlaps: bool = False
    gaps: bool = False

    def apply(self, prediction: GroupPrediction) -> GroupPrediction:
        """Returns a consistent prediction; the same prediction if no step is switched on."""
        if not (self.overlaps or self.gaps):
            return prediction
        parts = prediction.parts
        if self.overlaps:
            parts = settle_overlaps(clip_to_objects(parts))
        if self.gaps:
            parts = (*parts, *unknown_parts(parts))
        return replace(prediction, parts=parts)


def settle_overlaps(parts: Sequence[PartMask]) -> tuple[PartMask, ...]:
    """Gives every pixel that sibling parts of an image share to the part of higher score.

    A part almost wholly inside another part (a hubcap in a wheel) shares its pixels: both stay as
    they are. Of equal scores the earlier part wins. Parts without pixels are left out.
    """
    settled = []
    for index, part in enumerate(parts):
        if not part.kind.is_part:
            settled.append(part)
            continue
        mask = part.mask
        for other_index, other in enumerate(parts):
            is_rival = other_index != index and other.kind.is_part
            if is_rival and other.image_index == part.image_index:
                wins = (other.score, -other_index) > (part.score, -index)
                if wins and not _is_nested(part.mask, other.mask):
                    mask = mask & ~other.mask
        settled.append(part if mask is part.mask else replace(part, mask=mask))
    return tuple(part for part in settled if part.mask.any())


def clip_to_objects(parts: Sequence[PartMask]) -> tuple[PartMask, ...]:
    """Removes the pixels of parts outside their object.

    A part mostly outside stays as it is: then the object's mask is probably wrong. The object of a
    part is the object of its image that the part names, or else the only object of the image.
    """
    return tuple(_clipped(part, _owner(part, parts)) for part in parts)


def unknown_parts(parts: Sequence[PartMask]) -> tuple[PartMask, ...]:
    """Returns the gaps between the parts of objects that have any part.

    Returns:
        One region per gap of at least 5 % of its object's area, without the seams between parts.
    """
    found = []
    for owner in parts:
        if owner.kind.is_part:
            continue
        siblings = [p for p in parts if p.kind.is_part and p.image_index == owner.image_index]
        if not any((part.mask & owner.mask).any() for part in siblings):
            continue
        covered = np.logical_or.reduce([part.mask for part in siblings])
        found += [
            PartMask(
                image_index=owner.image_index,
                kind=RegionKind.UNIQUE_PART,
                label=UNKNOWN_PART,
                mask=gap,
                object_label=owner.label,
                score=_UNKNOWN_SCORE,
            )
            for gap in _gaps(owner.mask, owner.mask & ~covered)
        ]
    return tuple(found)


def _is_nested(first: BoolMask, second: BoolMask) -> bool:
    shared = int((first & second).sum())
    return shared >= _NESTED * min(int(first.sum()), int(second.sum()))


def _clipped(part: PartMask, owner: PartMask | None) -> PartMask:
    if owner is None:
        return part
    inside = part.mask & owner.mask
    kept, area = int(inside.sum()), int(part.mask.sum())
    return replace(part, mask=inside) if area * _LEAST_INSIDE <= kept < area else part


def _owner(part: PartMask, parts: Sequence[PartMask]) -> PartMask | None:
    if not part.kind.is_part:
        return None
    here = [p for p in parts if not p.kind.is_part and p.image_index == part.image_index]
    named = [owner for owner in here if owner.label == part.object_label]
    candidates = named or here
    return candidates[0] if len(candidates) == 1 else None


def _gaps(owner: BoolMask, rest: BoolMask) -> list[BoolMask]:
    """The large connected regions of the rest of an object, without thin seams."""
    area = int(owner.sum())
    side = max(3, round(_SEAM * area**0.5) | 1)
    opened = cv2.morphologyEx(
        rest.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)
    )
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    large = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] >= _LEAST_GAP * area]
    return [np.asarray(numbered == number) for number in large]
