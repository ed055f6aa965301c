"""Edits of an annotator who knows the truth: what turns a prediction into it, region by region.

| prediction and truth                    | supervision       |
|-----------------------------------------|-------------------|
| same place, same name, IoU >= 0.9       | rehearsal         |
| same place, same name, worse mask       | mask              |
| same place, another name, IoU >= 0.9    | text              |
| same place, another name, worse mask    | text and mask     |
| a true region nobody predicted there    | text and mask     |
| a predicted region where nothing is     | absence           |

Same place means an IoU of at least 0.5 within one image and subtask.
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
    """What the annotator does with one region.

    Attributes:
        before: the predicted region, None if there is none in this place.
        truth: the true region, None if there is none in this place; at least one is not None.
        supervision: supervision by the edit; without TEXT the label stays, without MASK the mask.
    """

    before: PartMask | None
    truth: PartMask | None
    supervision: Supervision


def oracle_edits(labeled: LabeledGroup, prediction: GroupPrediction) -> tuple[Edit, ...]:
    """Returns the edits that turn a prediction into the truth, one per predicted or true region.

    Predicted regions of a kind whose truth is not known stay as they are, without an edit.

    Args:
        labeled: the group with its truth.
        prediction: of the same group.
    """
    edits: list[Edit] = []
    for kind in RegionKind:
        for image in range(len(labeled.group)) if kind in labeled.known else ():
            predicted = [p for p in prediction.of_image(image) if p.kind is kind]
            true = [p for p in labeled.of_kind(kind) if p.image_index == image]
            edits += _image_edits(predicted, true)
    return tuple(edits)


def oracle_targets(labeled: LabeledGroup, prediction: GroupPrediction) -> tuple[RegionTarget, ...]:
    """Returns the training targets of correcting a prediction into the truth.

    Args:
        labeled: the group with its truth.
        prediction: of the same group.
    """
    pairs = ((edit.truth or edit.before, edit) for edit in oracle_edits(labeled, prediction))
    return tuple(RegionTarget(part, edit.supervision) for part, edit in pairs if part is not None)


def _image_edits(predicted: Sequence[PartMask], true: Sequence[PartMask]) -> list[Edit]:
    overlap = iou_matrix([part.mask for part in predicted], [part.mask for part in true])
    matched = {t: p for p, t in hungarian(overlap) if overlap[p, t] >= _SAME_PLACE_IOU}
    edits = []
    for t, truth in enumerate(true):
        supervision = Supervision(0)
        before = predicted[matched[t]] if t in matched else None
        if before is None or normalise(before.label) != normalise(truth.label):
            supervision |= Supervision.TEXT
        if before is None or overlap[matched[t], t] < _ACCEPTED_IOU:
            supervision |= Supervision.MASK
        edits.append(Edit(before, truth, supervision or Supervision.REHEARSAL))
    unmatched = [part for p, part in enumerate(predicted) if p not in matched.values()]
    return [*edits, *(Edit(part, None, Supervision.ABSENCE) for part in unmatched)]
