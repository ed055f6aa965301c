"""What a correction teaches: text or mask or absence or only that all was well.

| the annotator ...     | text | mask | absence | rehearsal |
|-----------------------|------|------|---------|-----------|
| accepted the region   |      |      |         | yes       |
| changed name or kind  | yes  |      |         |           |
| edited the mask       |      | yes  |         |           |
| added a region        | yes  | yes  |         |           |
| removed a region      |      |      | yes     |           |

A removed region that was drawn anew, or whose name still stands on the same image, is no absence.
Values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Flag, auto

import numpy as np

from backend.errors import InvalidRleError
from backend.learning.correction import ACCEPTED, Change, Correction, RegionOutcome
from backend.types import Region
from calico_model.types import PartMask, RegionKind
from calico_model.vocabulary import normalise


class Teaches(Flag):
    """Which losses a region takes part in."""

    TEXT = auto()
    MASK = auto()
    ABSENCE = auto()
    REHEARSAL = auto()


@dataclass(frozen=True, eq=False)
class Lesson:
    """One region to learn from.

    Attributes:
        teaches: which losses it takes part in; never none.
        region: the annotator's region, for an ABSENCE the removed one.
        before: the predicted region, None if there was none.
    """

    teaches: Teaches
    region: Region
    before: Region | None

    @property
    def is_label_fix(self) -> bool:
        """Name or kind were wrong, the mask was right."""
        return self.teaches is Teaches.TEXT

    @property
    def is_mask_edit(self) -> bool:
        """The mask was wrong, name and kind were right."""
        return self.teaches is Teaches.MASK


def lessons(correction: Correction) -> tuple[Lesson, ...]:
    """Returns what each region of a correction teaches, in the order of its outcomes."""
    named = {
        (outcome.after.image_index, _name(outcome.after))
        for outcome in correction.outcomes
        if outcome.after is not None
    }
    found = []
    for outcome in correction.outcomes:
        teaches = _teaches(outcome, named)
        if teaches:
            found.append(Lesson(teaches, outcome.region, outcome.before))
    return tuple(found)


def true_parts(correction: Correction) -> tuple[PartMask, ...]:
    """Returns the annotated regions as the truth of a group.

    Same-named regions of one kind in an image are one union mask. A common name found in a single
    image is a unique part there, and a region without kind is common if its name is in several
    images. Regions without a name, and masks that cannot be decoded, are left out.

    Returns:
        Per image at most one mask of each kind and name; `part_id` is equal for a common name.
    """
    kept = [o.after for o in correction.outcomes if o.after is not None and _name(o.after)]
    images: dict[tuple[RegionKind | None, str], set[int]] = {}
    for region in kept:
        images.setdefault((region.kind, _name(region)), set()).add(region.image_index)
    merged: dict[tuple[int, RegionKind, str], list[Region]] = {}
    for region in kept:
        name = _name(region)
        kind = _settled(region.kind, len(images[region.kind, name]))
        merged.setdefault((region.image_index, kind, name), []).append(region)
    parts = (_part(place, regions) for place, regions in merged.items())
    return tuple(part for part in parts if part is not None)


def _teaches(outcome: RegionOutcome, named: set[tuple[int, str]]) -> Teaches:
    if outcome.change is ACCEPTED:
        return Teaches.REHEARSAL
    if outcome.change is Change.ADDED:
        return Teaches.TEXT | Teaches.MASK
    if outcome.change is Change.REMOVED:
        region = outcome.region
        is_there = (region.image_index, _name(region)) in named
        return Teaches(0) if outcome.replaced_by or is_there else Teaches.ABSENCE
    teaches = Teaches(0)
    if outcome.change & (Change.RELABELLED | Change.KIND_CHANGED):
        teaches |= Teaches.TEXT
    if Change.RESHAPED in outcome.change:
        teaches |= Teaches.MASK
    return teaches


def _name(region: Region) -> str:
    return normalise(region.label or "")


def _settled(kind: RegionKind | None, image_count: int) -> RegionKind:
    if kind is RegionKind.COMMON_OBJECT:
        return kind
    if kind is RegionKind.UNIQUE_PART or image_count == 1:
        return RegionKind.UNIQUE_PART
    return RegionKind.COMMON_PART


def _part(place: tuple[int, RegionKind, str], regions: Sequence[Region]) -> PartMask | None:
    image_index, kind, name = place
    masks = []
    for region in regions:
        try:
            masks.append(region.mask)
        except InvalidRleError:
            continue
    if not masks or len({mask.shape for mask in masks}) > 1:
        return None
    union = np.logical_or.reduce(masks)
    part_id = None if kind is RegionKind.UNIQUE_PART else f"{kind}/{name}"
    return PartMask(image_index, kind, name, union, part_id=part_id) if union.any() else None
