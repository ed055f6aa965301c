"""A group's prediction and truth -> the units the metrics read, in every variant.

Owns what counts as one region: strict units merge the regions of an image that carry one label
(the truth is built that way), compat units take the output as it came. The oracle variants repair
one half of the prediction with the truth (FISA's diagnostic). Parts are scored in the part subtasks
only, objects in the object subtask only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import Unit, unit
from calico_model.evaluation.regions import CroppedRegion, empty_like, merge_by_label


def strict_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """One image of one subtask, same-named predictions merged."""
    return compat_unit(group_index, merge_by_label(predicted), truth)


def compat_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """One image of one subtask, every region as the model put it out."""
    return unit(
        group_index,
        [(region.label, region.mask, region.score) for region in predicted],
        [(region.label, region.mask) for region in truth],
    )


def oracle_label_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """Predicted masks, each with the label of the truth it overlaps most, if any."""
    merged = merge_by_label(predicted)
    overlap = iou_matrix([region.mask for region in merged], [region.mask for region in truth])
    relabelled = [
        replace(region, label=truth[int(row.argmax())].label)
        if row.max(initial=0.0) > 0
        else region
        for region, row in zip(merged, overlap, strict=True)
    ]
    return strict_unit(group_index, relabelled, truth)


def oracle_mask_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """Predicted labels, each with the mask of the truth of that label, else empty."""
    masks = {region.name: region.mask for region in truth}
    redrawn = [
        replace(region, mask=masks.get(region.name, empty_like(region.mask)))
        for region in merge_by_label(predicted)
    ]
    return compat_unit(group_index, redrawn, truth)
