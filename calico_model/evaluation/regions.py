"""Regions of the evaluation: a name, and a mask cropped to its bounding box.

Parts are small and images are large, so two masks are compared only where their boxes overlap, and
a whole mask is read once. Knows masks and labels; not images, models or metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from calico_model.errors import InvalidMaskError
from calico_model.masks import window_of
from calico_model.types import BoolMask, GroupPrediction, LabeledGroup, PartMask, RegionKind
from calico_model.vocabulary import normalise


@dataclass(frozen=True, eq=False)
class Crop:
    """A mask cropped to its bounding box.

    Attributes:
        size_hw: (height, width) of the whole mask in pixels.
        top: first row of the box.
        left: first column of the box.
        pixels: (h, w) bool inside the box; (0, 0) for an empty mask.
    """

    size_hw: tuple[int, int]
    top: int
    left: int
    pixels: BoolMask

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.pixels))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Half-open (top, bottom, left, right) in pixels of the whole mask."""
        height, width = self.pixels.shape
        return self.top, self.top + height, self.left, self.left + width

    def window(self, box: tuple[int, int, int, int]) -> BoolMask:
        """Returns the mask inside a half-open (top, bottom, left, right) box."""
        top, bottom, left, right = box
        window = np.zeros((bottom - top, right - left), dtype=bool)
        upper, lower, first, last = meet(self.box, box)
        if upper < lower and first < last:
            window[upper - top : lower - top, first - left : last - left] = self.pixels[
                upper - self.top : lower - self.top, first - self.left : last - self.left
            ]
        return window


@dataclass(frozen=True, eq=False)
class CroppedRegion:
    """One named region of one image; fields as in `PartMask`, the mask as a crop."""

    image_index: int
    kind: RegionKind
    label: str
    mask: Crop
    object_label: str | None = None
    part_id: str | None = None
    score: float = 1.0

    @cached_property
    def name(self) -> str:
        """The normal form of the label."""
        return normalise(self.label)


def cut(mask: BoolMask | Crop) -> Crop:
    """Crops a (H, W) mask to its bounding box; a crop is returned as it is."""
    if isinstance(mask, Crop):
        return mask
    height, width = mask.shape
    window = window_of(mask)
    if window is None:
        return Crop((height, width), 0, 0, np.zeros((0, 0), dtype=bool))
    return Crop((height, width), window[0].start, window[1].start, mask[window].copy())


def as_regions(parts: Sequence[PartMask]) -> list[CroppedRegion]:
    """Crops the masks of regions; the order stays."""
    return [
        CroppedRegion(
            part.image_index,
            part.kind,
            part.label,
            cut(part.mask),
            part.object_label,
            part.part_id,
            part.score,
        )
        for part in parts
    ]


def usable_regions(
    labeled: LabeledGroup, prediction: GroupPrediction
) -> tuple[list[CroppedRegion], list[str]]:
    """Separates predicted regions that can be scored from misplaced ones.

    A region is misplaced if its image does not exist or has another size.

    Args:
        labeled: the group; regions of subtasks without known truth are dropped silently.
        prediction: of the group.

    Returns:
        The usable regions with cropped masks, in order, and a phrase for each misplaced one.
    """
    sizes = labeled.group.sizes_hw
    usable, misplaced = [], []
    for region in prediction.parts:
        if region.kind not in labeled.known:
            continue
        inside = 0 <= region.image_index < len(sizes)
        if inside and region.mask.shape == sizes[region.image_index]:
            usable.append(region)
        else:
            misplaced.append(f"region {region.label!r} of image {region.image_index}")
    return as_regions(usable), misplaced


def empty_like(mask: Crop) -> Crop:
    """Returns an empty mask of the same size."""
    return Crop(mask.size_hw, 0, 0, np.zeros((0, 0), dtype=bool))


def meet(
    ours: tuple[int, int, int, int], theirs: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Returns the (top, bottom, left, right) box two boxes share; not a box if they share none."""
    return (
        max(ours[0], theirs[0]),
        min(ours[1], theirs[1]),
        max(ours[2], theirs[2]),
        min(ours[3], theirs[3]),
    )


def shared_pixels(ours: Crop, theirs: Crop) -> int:
    """Counts the pixels two masks share."""
    top, bottom, left, right = meet(ours.box, theirs.box)
    if top >= bottom or left >= right:
        return 0
    our_pixels = ours.pixels[
        top - ours.top : bottom - ours.top, left - ours.left : right - ours.left
    ]
    their_pixels = theirs.pixels[
        top - theirs.top : bottom - theirs.top, left - theirs.left : right - theirs.left
    ]
    return int(np.count_nonzero(our_pixels & their_pixels))


def frame(crops: Sequence[Crop]) -> tuple[int, int, int, int]:
    """Returns the smallest box around all non-empty masks; (0, 0, 0, 0) without any."""
    boxes = [crop.box for crop in crops if crop.pixels.size]
    if not boxes:
        return 0, 0, 0, 0
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def unite(crops: Sequence[Crop]) -> Crop:
    """Merges masks of one image; at least one.

    Raises:
        InvalidMaskError: two masks differ in size.
    """
    for crop in crops:
        if crop.size_hw != crops[0].size_hw:
            raise InvalidMaskError(
                f"mask: expected the size {crops[0].size_hw} of its image, got {crop.size_hw}"
            )
    if len(crops) == 1:
        return crops[0]
    box = frame(crops)
    merged = np.zeros((box[1] - box[0], box[3] - box[2]), dtype=bool)
    for crop in crops:
        top, left = crop.top - box[0], crop.left - box[2]
        height, width = crop.pixels.shape
        if crop.pixels.size:
            merged[top : top + height, left : left + width] |= crop.pixels
    return Crop(crops[0].size_hw, box[0], box[2], merged)


def merge_by_label(regions: Sequence[CroppedRegion]) -> list[CroppedRegion]:
    """Unites regions of equal normalised label; the first name and the highest score stay.

    Args:
        regions: of one image.
    """
    groups: dict[str, list[CroppedRegion]] = {}
    for region in regions:
        groups.setdefault(region.name, []).append(region)
    return [
        alike[0]
        if len(alike) == 1
        else replace(
            alike[0],
            mask=unite([region.mask for region in alike]),
            score=max(region.score for region in alike),
        )
        for alike in groups.values()
    ]
