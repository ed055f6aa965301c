"""What an annotator who knows the truth does with a prediction, region by region.

| prediction and truth                    | what it teaches   |
|-----------------------------------------|-------------------|
| same place, same name, IoU >= 0.9       | rehearsal         |
| same place, same name, worse mask       | mask              |
| same place, another name, IoU >= 0.9    | text              |
| same place, another name, worse mask    | text and mask     |
| a true region nobody predicted there    | text and mask     |
| a predicted region where nothing is     | absence           |

Same place is an IoU of 0.5 within one image and subtask.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.training.example import RegionLesson, Teaches
from calico_model.types import GroupPrediction, LabeledGroup, PartMask, RegionKind
from calico_model.vocabulary import normalise

_SAME_PLACE_IOU, _ACCEPTED_IOU = 0.5, 0.9


def oracle_lessons(labeled: LabeledGroup, prediction: GroupPrediction) -> tuple[RegionLesson, ...]:
    """Returns what correcting a prediction into the truth teaches.

    Args:
        labeled: the group with its truth.
        prediction: of the same group.
    """
    found: list[RegionLesson] = []
    for kind in RegionKind:
        for image in range(len(labeled.group)) if kind in labeled.known else ():
            ours = [p for p in prediction.of_image(image) if p.kind is kind]
            theirs = [p for p in labeled.of_kind(kind) if p.image_index == image]
            found += _image_lessons(ours, theirs)
    return tuple(found)


def _image_lessons(ours: Sequence[PartMask], theirs: Sequence[PartMask]) -> list[RegionLesson]:
    overlap = iou_matrix([part.mask for part in ours], [part.mask for part in theirs])
    place = {t: p for p, t in hungarian(overlap) if overlap[p, t] >= _SAME_PLACE_IOU}
    lessons = []
    for t, truth in enumerate(theirs):
        teaches = Teaches(0)
        if t not in place or normalise(ours[place[t]].label) != normalise(truth.label):
            teaches |= Teaches.TEXT
        if t not in place or overlap[place[t], t] < _ACCEPTED_IOU:
            teaches |= Teaches.MASK
        lessons.append(RegionLesson(truth, teaches or Teaches.REHEARSAL))
    kept = set(place.values())
    lessons += [RegionLesson(part, Teaches.ABSENCE) for p, part in enumerate(ours) if p not in kept]
    return lessons
