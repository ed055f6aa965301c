"""Units: what the metrics read of one image of one subtask, in every variant.

A unit holds the overlaps, labels and scores of P predicted and T true regions. Strict units merge
the regions of an image that carry one label, as the truth does; compat units take the output as it
came. The oracle variants repair one half of the prediction with the truth (FISA's diagnostic).
Parts are scored in the part subtasks only, objects in the object subtask only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from calico_model import vocabulary
from calico_model.evaluation import matching
from calico_model.evaluation.matching import FloatArray, iou_matrix
from calico_model.evaluation.regions import (
    Crop,
    CroppedRegion,
    cut,
    empty_like,
    merge_by_label,
)
from calico_model.types import BoolMask

normal_form = lru_cache(maxsize=1 << 16)(vocabulary.normalise)
text_similarity = lru_cache(maxsize=1 << 16)(vocabulary.similarity)
"""Cached: labels repeat by the thousand, and each pair is compared once."""


@dataclass(frozen=True, eq=False)
class Unit:
    """One image of one subtask, reduced to the input of the metrics.

    Attributes:
        group_index: position of its group in the evaluated sequence.
        intersection: (P, T) shared pixels.
        predicted_area: (P,) pixels.
        truth_area: (T,) pixels.
        predicted_labels: P labels in output order.
        truth_labels: T labels.
        scores: (P,) confidence; COMPAT does not use it.
    """

    group_index: int
    intersection: FloatArray
    predicted_area: FloatArray
    truth_area: FloatArray
    predicted_labels: tuple[str, ...]
    truth_labels: tuple[str, ...]
    scores: FloatArray

    @cached_property
    def iou(self) -> FloatArray:
        """(P, T) in [0, 1]."""
        return matching.iou_of(self.intersection, self.predicted_area, self.truth_area)

    @cached_property
    def similarity(self) -> FloatArray:
        """(P, T) text similarity in [0, 1]."""
        return self._compare(text_similarity)

    @cached_property
    def same_label(self) -> FloatArray:
        """(P, T), 1 where the normalised labels are equal, else 0."""
        return self._compare(lambda a, b: float(normal_form(a) == normal_form(b)))

    @cached_property
    def matched(self) -> matching.Pairs:
        """Hungarian pairs: the strict reading."""
        return matching.hungarian(self.iou)

    @cached_property
    def matched_greedily(self) -> matching.Pairs:
        """Greedy pairs: the compat reading."""
        return matching.greedy(self.iou)

    @cached_property
    def paired(self) -> matching.Pairs:
        """Pairs of equal normalised label, whatever the masks."""
        return matching.paired(
            [normal_form(label) for label in self.predicted_labels],
            [normal_form(label) for label in self.truth_labels],
        )

    def _compare(self, alike: Callable[[str, str], float]) -> FloatArray:
        table = [[alike(p, t) for t in self.truth_labels] for p in self.predicted_labels]
        return np.array(table, dtype=np.float64).reshape(self.intersection.shape)


def build_unit(
    group_index: int,
    predicted: Sequence[tuple[str, BoolMask | Crop, float]],
    truth: Sequence[tuple[str, BoolMask | Crop]],
) -> Unit:
    """Builds a unit from (label, mask, score) predictions and (label, mask) truths."""
    ours, theirs = [cut(mask) for _, mask, _ in predicted], [cut(mask) for _, mask in truth]
    return Unit(
        group_index,
        matching.intersections(ours, theirs),
        matching.areas(ours),
        matching.areas(theirs),
        tuple(label for label, _, _ in predicted),
        tuple(label for label, _ in truth),
        np.array([score for _, _, score in predicted], dtype=np.float64),
    )


def strict_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """One image of one subtask, same-named predictions merged."""
    return compat_unit(group_index, merge_by_label(predicted), truth)


def compat_unit(
    group_index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> Unit:
    """One image of one subtask, every region as the model put it out."""
    return build_unit(
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
