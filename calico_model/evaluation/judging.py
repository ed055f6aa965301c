"""Which regions of a prediction an annotator would keep, by the truth of its group."""

from __future__ import annotations

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.inference.confidence import Outcome
from calico_model.types import GroupPrediction, LabeledGroup, PartMask
from calico_model.vocabulary import normalise


def judge_regions(prediction: GroupPrediction, labeled: LabeledGroup) -> tuple[Outcome, ...]:
    """Returns one outcome per region with evidence whose subtask has a known truth.

    Right is what `calico evaluate` calls right when it measures calibration: the same subtask,
    image and label, and an IoU of at least 0.5.
    """
    return tuple(
        Outcome(part.evidence, _is_right(part, labeled))
        for part in prediction.parts
        if part.evidence is not None and part.kind in labeled.known
    )


def _is_right(part: PartMask, labeled: LabeledGroup) -> bool:
    name = normalise(part.label)
    return any(
        truth.image_index == part.image_index
        and normalise(truth.label) == name
        and iou_matrix([part.mask], [truth.mask])[0, 0] >= IOU_THRESHOLD
        for truth in labeled.of_kind(part.kind)
    )
