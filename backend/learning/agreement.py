"""Several annotations of one task -> the one that counts, and how far the others agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from backend.errors import InvalidRleError
from backend.learning.correction import AnnotatorAgreement, mask_iou
from backend.types import Annotation, Region
from calico_model.evaluation.matching import hungarian
from calico_model.types import BoolMask


def choose(annotations: Iterable[Annotation]) -> Annotation | None:
    """Returns the annotation that counts, or None if nobody said anything about the task.

    Ground truth comes before everything else, then the newest; a skip says nothing about the task,
    nor does an annotation that was made in bulk and that nobody has looked at.
    """
    usable = [annotation for annotation in annotations if _says_something(annotation)]
    return max(usable, key=_rank, default=None)


def measure_agreement(
    chosen: Annotation, annotations: Iterable[Annotation]
) -> AnnotatorAgreement | None:
    """Compares the chosen annotation with the newest one of each other annotator.

    Returns:
        Matched mean IoU: regions are paired one to one per image by largest IoU, and a region
        without a partner counts 0. None if nobody else annotated the task.
    """
    others: dict[int | None, Annotation] = {}
    for annotation in sorted(annotations, key=_rank):
        if _says_something(annotation) and annotation.annotator_id != chosen.annotator_id:
            others[annotation.annotator_id] = annotation
    if not others:
        return None
    alike = [_matched_iou(chosen.regions, other.regions) for other in others.values()]
    return AnnotatorAgreement(annotators=len(others) + 1, mean_iou=float(np.mean(alike)))


def _says_something(annotation: Annotation) -> bool:
    return annotation.was_seen and not annotation.was_skipped


def _rank(annotation: Annotation) -> tuple[object, ...]:
    return annotation.is_ground_truth, annotation.updated_at, annotation.id


def _matched_iou(first: Sequence[Region], second: Sequence[Region]) -> float:
    total, count = 0.0, 0
    for index in sorted({region.image_index for region in (*first, *second)}):
        ours, theirs = _masks(first, index), _masks(second, index)
        count += max(len(ours), len(theirs))
        iou = np.array([[mask_iou(a, b) for b in theirs] for a in ours])
        iou = iou.reshape(len(ours), len(theirs))
        total += sum(float(iou[pair]) for pair in hungarian(iou))
    return total / count if count else 1.0


def _masks(regions: Sequence[Region], image_index: int) -> list[BoolMask]:
    """Masks of one image that can be decoded and hold something."""
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
