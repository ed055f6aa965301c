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
from dataclasses import dataclass

from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.training.online.example import RegionTarget
from calico_model.types import GroupPrediction, LabeledGroup, PartMask, RegionKind, Supervision
from calico_model.vocabulary import normalise

_SAME_PLACE_IOU, _ACCEPTED_IOU = 0.5, 0.9


@dataclass(frozen=True, eq=False)
class Edit:
    """What the oracle does with one region.

    Attributes:
        before: the predicted region, None if there is none in this place.
        truth: the true region, None if there is none in this place; not both are None.
        teaches: what that teaches; without TEXT the name is left as it is, without MASK the mask.
    """

    before: PartMask | None
    truth: PartMask | None
    teaches: Supervision


def oracle_edits(labeled: LabeledGroup, prediction: GroupPrediction) -> tuple[Edit, ...]:
    """Returns what turns a prediction into the truth, one edit per region of either.

    Predicted regions of a kind whose truth is not known are not among them: they stay as they are.

    Args:
        labeled: the group with its truth.
        prediction: of the same group.
    """
    found: list[Edit] = []
    for kind in RegionKind:
        for image in range(len(labeled.group)) if kind in labeled.known else ():
            ours = [p for p in prediction.of_image(image) if p.kind is kind]
            theirs = [p for p in labeled.of_kind(kind) if p.image_index == image]
            found += _image_edits(ours, theirs)
    return tuple(found)


def oracle_lessons(labeled: LabeledGroup, prediction: GroupPrediction) -> tuple[RegionTarget, ...]:
    """Returns what correcting a prediction into the truth teaches.

    Args:
        labeled: the group with its truth.
        prediction: of the same group.
    """
    shown = ((edit.truth or edit.before, edit) for edit in oracle_edits(labeled, prediction))
    return tuple(RegionTarget(part, edit.teaches) for part, edit in shown if part is not None)


def _image_edits(ours: Sequence[PartMask], theirs: Sequence[PartMask]) -> list[Edit]:
    overlap = iou_matrix([part.mask for part in ours], [part.mask for part in theirs])
    place = {t: p for p, t in hungarian(overlap) if overlap[p, t] >= _SAME_PLACE_IOU}
    edits = []
    for t, truth in enumerate(theirs):
        teaches = Supervision(0)
        before = ours[place[t]] if t in place else None
        if before is None or normalise(before.label) != normalise(truth.label):
            teaches |= Supervision.TEXT
        if before is None or overlap[place[t], t] < _ACCEPTED_IOU:
            teaches |= Supervision.MASK
        edits.append(Edit(before, truth, teaches or Supervision.REHEARSAL))
    kept = set(place.values())
    edits += [Edit(part, None, Supervision.ABSENCE) for p, part in enumerate(ours) if p not in kept]
    return edits
