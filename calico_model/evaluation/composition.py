"""Whether parts make sense as parts of a whole: inside it, apart from each other, covering it.

Works on one image of one group, on predicted parts, and needs truth only for the compared object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico_model.evaluation.metrics import Tally
from calico_model.evaluation.regions import (
    Crop,
    CroppedRegion,
    frame,
    merge_by_label,
    shared_pixels,
    unite,
)
from calico_model.evaluation.structure import PART_KINDS
from calico_model.types import RegionKind
from calico_model.vocabulary import normalise

NAMES = ("hierarchy_violation", "outside_object", "overlap", "coverage", "coverage_of_truth")


def composition_tallies(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion], compared: Crop | None
) -> dict[str, list[Tally]]:
    """Structure of the parts of one image.

    `hierarchy_violation` is the share of a part outside the object region the model itself drew
    under the name of the part's object (parts without such a region have no say);
    `outside_object` the share outside the true compared object; `overlap` the pixels several parts
    claim over those any part claims; `coverage` the share of the true object some part covers, and
    `coverage_of_truth` the same of the true parts, as its yardstick.

    Args:
        predicted: all regions predicted in the image.
        truth: the true regions of the image.
        compared: the true compared object, None if the data does not hold it.
    """
    parts = [region for region in predicted if region.kind in PART_KINDS and region.mask.area]
    objects = [region for region in predicted if region.kind is RegionKind.COMMON_OBJECT]
    drawn = {region.name: region.mask for region in merge_by_label(objects)}
    tallies: dict[str, list[Tally]] = {name: [] for name in NAMES}
    for part in parts:
        whole = drawn.get(normalise(part.object_label)) if part.object_label else None
        if whole is not None:
            tallies["hierarchy_violation"].append((_outside(part.mask, whole), 1.0))
        if compared is not None:
            tallies["outside_object"].append((_outside(part.mask, compared), 1.0))
    masks = [part.mask for part in parts]
    if len(masks) > 1:
        tallies["overlap"].append((_claimed_twice(masks), 1.0))
    if compared is not None and compared.area:
        true_parts = [region.mask for region in truth if region.kind in PART_KINDS]
        tallies["coverage"].append((_covered(masks, compared), 1.0))
        tallies["coverage_of_truth"].append((_covered(true_parts, compared), 1.0))
    return tallies


def _outside(part: Crop, whole: Crop) -> float:
    return 1.0 - shared_pixels(part, whole) / part.area


def _claimed_twice(masks: Sequence[Crop]) -> float:
    box = frame(masks)
    claims = np.sum([mask.window(box) for mask in masks], axis=0, dtype=np.int64)
    return float(np.count_nonzero(claims > 1) / np.count_nonzero(claims))


def _covered(masks: Sequence[Crop], whole: Crop) -> float:
    return shared_pixels(unite(masks), whole) / whole.area if masks else 0.0
