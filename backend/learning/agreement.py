"""Several annotations of one task: which of them is valid, and how well the others agree with it.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from backend.errors import InvalidRleError
from backend.learning.correction import AnnotatorAgreement
from backend.types import Annotation, Region
from calico_model.evaluation.matching import hungarian
from calico_model.masks import mask_iou
from calico_model.types import BoolMask


def choose(annotations: Iterable[Annotation]) -> Annotation | None:
    """Returns the valid annotation of a task, or None.

    Ground truth comes first, then the newest. A skip is not valid, nor is an annotation that was
    copied in bulk from a prediction and that no person has looked at.
    """
    usable = [annotation for annotation in annotations if _is_usable(annotation)]
    return max(usable, key=_rank, default=None)


def measure_agreement(
    chosen: Annotation, annotations: Iterable[Annotation]
) -> AnnotatorAgreement | None:
    """Compares the chosen annotation with the newest one of each other annotator.

    Returns:
        Matched mean IoU: regions are paired one to one per image by largest IoU, and a region
        without a partner counts 0. None without other annotators.
    """
    others: dict[int | None, Annotation] = {}
    for annotation in sorted(annotations, key=_rank):
        if _is_usable(annotation) and annotation.annotator_id != chosen.annotator_id:
            others[annotation.annotator_id] = annotation
    if not others:
        return None
    ious = [_matched_iou(chosen.regions, other.regions) for other in others.values()]
    return AnnotatorAgreement(annotators=len(others) + 1, mean_iou=float(np.mean(ious)))


def _is_usable(annotation: Annotation) -> bool:
    return annotation.was_seen and not annotation.was_skipped


def _rank(annotation: Annotation) -> tuple[object, ...]:
    return annotation.is_ground_truth, annotation.updated_at, annotation.id


def _matched_iou(first: Sequence[Region], second: Sequence[Region]) -> float:
    total, count = 0.0, 0
    for index in sorted({region.image_index for region in (*first, *second)}):
        rows, columns = _masks(first, index), _masks(second, index)
        count += max(len(rows), len(columns))
        iou = np.array([[mask_iou(a, b) for b in columns] for a in rows])
        iou = iou.reshape(len(rows), len(columns))
        total += sum(float(iou[pair]) for pair in hungarian(iou))
    return total / count if count else 1.0


def _masks(regions: Sequence[Region], image_index: int) -> list[BoolMask]:
    """Masks of one image that can be decoded and are not empty."""
    masks = []
    for region in regions:
        if region.image_index != image_index:
            continue
        try:
            mask = region.mask
        except InvalidRleError:
            continue
        if mask.any():
            masks.append(mask)
    return masks
