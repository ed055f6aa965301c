"""A group's prediction and truth -> the units the metrics read, in every variant.

Owns what counts as one region: strict units merge the regions of an image that carry one label
(the truth is built that way), compat units take the output as it came. The oracle variants repair
one half of the prediction with the truth (FISA's diagnostic). Parts are scored in the part subtasks
only, objects in the object subtask only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import Unit, unit
from calico_model.types import BoolMask, PartMask
from calico_model.vocabulary import normalise

Named = tuple[str, BoolMask, float]
"""Label, mask (H, W) and score of one predicted region."""


def strict_unit(group_index: int, predicted: Sequence[PartMask], truth: Sequence[PartMask]) -> Unit:
    """One image of one subtask, same-named predictions merged."""
    return unit(group_index, merge_by_label(_named(predicted)), _truths(truth))


def compat_unit(group_index: int, predicted: Sequence[PartMask], truth: Sequence[PartMask]) -> Unit:
    """One image of one subtask, every region as the model put it out."""
    return unit(group_index, _named(predicted), _truths(truth))


def oracle_label_unit(
    group_index: int, predicted: Sequence[PartMask], truth: Sequence[PartMask]
) -> Unit:
    """Predicted masks, each with the label of the truth it overlaps most, if any."""
    named = merge_by_label(_named(predicted))
    overlap = iou_matrix([mask for _, mask, _ in named], [region.mask for region in truth])
    relabelled = [
        (truth[int(row.argmax())].label if row.max(initial=0.0) > 0 else label, mask, score)
        for (label, mask, score), row in zip(named, overlap, strict=True)
    ]
    return unit(group_index, merge_by_label(relabelled), _truths(truth))


def oracle_mask_unit(
    group_index: int, predicted: Sequence[PartMask], truth: Sequence[PartMask]
) -> Unit:
    """Predicted labels, each with the mask of the truth of that label, else empty."""
    masks = {normalise(region.label): region.mask for region in truth}
    redrawn = [
        (label, masks.get(normalise(label), np.zeros_like(mask)), score)
        for label, mask, score in merge_by_label(_named(predicted))
    ]
    return unit(group_index, redrawn, _truths(truth))


def merge_by_label(regions: Sequence[Named]) -> list[Named]:
    """Unites regions of equal normalised label; the first name and the highest score stay."""
    merged: dict[str, Named] = {}
    for label, mask, score in regions:
        key = normalise(label)
        if key in merged:
            first, drawn, best = merged[key]
            merged[key] = (first, drawn | mask, max(best, score))
        else:
            merged[key] = (label, mask, score)
    return list(merged.values())


def _named(regions: Sequence[PartMask]) -> list[Named]:
    return [(region.label, region.mask, region.score) for region in regions]


def _truths(regions: Sequence[PartMask]) -> list[tuple[str, BoolMask]]:
    return [(region.label, region.mask) for region in regions]
