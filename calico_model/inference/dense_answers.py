"""Answers about photographs: what the dense head detects, and nothing else.

The language model learned from drawings and is not asked. There are no votes to count then: every
region stands for itself, by its chance to be right.
"""

from __future__ import annotations

from calico_model.inference.dense_detection import DenseDetections, Detection
from calico_model.inference.pairwise import MergedAnswers, write_answers
from calico_model.inference.segments import Segment
from calico_model.types import RegionKind

LEAST_SHOWN = 0.2
"""Chance of being right from which a region is shown. With the product's own click tool a right
region saves two to three clicks, and a wrong one costs one to delete it: showing pays from a chance
of 0.25 to 0.37 on, by set. Between 0.2 and 0.45 the clicks hardly differ, and the lower line finds
more (`calico bench tool-clicks`, `calico bench photos`)."""
_LEAST_PRESENT = 0.03
"""Chance of being right from which a detection says that the part is there, although its mask may
be too rough to be shown: then the part is not unique to another image. With 0.1, 19 % of the right
parts of six sets of photographs had the wrong kind, with 0.03 14 %."""


def answers_of_detections(dense: DenseDetections, images: int) -> MergedAnswers:
    """Chooses the regions to show of a group, and whether their parts are common or unique.

    A part that two images have is common. It may be shown in one of them alone.

    Args:
        dense: detections with their chance to be right.
        images: in the group.
    """
    holders: dict[str, set[int]] = {}
    for detection in dense.detections:
        if not detection.is_object and detection.chance_right >= _LEAST_PRESENT:
            holders.setdefault(detection.label, set()).add(detection.image)
    owners = [_surest_object(dense, image) for image in range(images)]

    def kind_of(detection: Detection) -> RegionKind:
        if detection.is_object:
            return RegionKind.COMMON_OBJECT
        is_unique = images > 1 and len(holders[detection.label]) == 1
        return RegionKind.UNIQUE_PART if is_unique else RegionKind.COMMON_PART

    segments = [
        Segment(
            kind=kind_of(detection),
            label=detection.label,
            image=detection.image,
            object_label=None if detection.is_object else owners[detection.image],
            state=None,
            certainty=detection.certainty,
            logits=detection.logits,
            mask=detection.mask,
            chance=detection.chance_right,
        )
        for detection in dense.detections
        if detection.chance_right >= LEAST_SHOWN
    ]
    order = tuple(RegionKind)
    segments.sort(key=lambda segment: order.index(segment.kind))  # stable: by image within a kind
    return write_answers(segments, owners)


def _surest_object(dense: DenseDetections, image: int) -> str | None:
    """Name of the object that an image shows most surely, None without any."""
    objects = [d for d in dense.detections if d.is_object and d.image == image]
    return max(objects, key=lambda d: d.chance_right).label if objects else None
