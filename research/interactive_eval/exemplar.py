"""How well a part that is outlined on one image is found on the other images of its group.

The annotator outlines a part on the first of four images; the model proposes it on the others. The
baseline is what the model proposes without the outline: its predicted region of that label on that
image, or nothing. For parts that another image does not show, the measure is how often the model
proposes nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.data.synthetic import SceneSplit
from calico_model.masks import mask_iou
from calico_model.types import BoolMask, GroupPrediction, LabeledGroup, PartMask, RegionKind
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

GROUP_SIZE = 4


@dataclass(frozen=True)
class Transferred:
    """One part transferred to one image.

    Attributes:
        is_there: whether the image truly shows the part.
        exemplar: IoU of the proposal, 0 without one.
        zero_shot: IoU of the predicted regions of that label, 0 without any.
        is_called_absent: the model proposed nothing.
    """

    is_there: bool
    exemplar: float
    zero_shot: float
    is_called_absent: bool


def transfers_of(subject: Subject, labeled: LabeledGroup) -> Iterator[Transferred]:
    """Yields every part of the first image, for every other image of a group."""
    group_prediction = subject.predictor.predict(labeled.group)
    parts = [part for part in labeled.parts if part.kind is not RegionKind.COMMON_OBJECT]
    for part in (part for part in parts if part.image_index == 0):
        truth = {same.image_index: same.mask for same in parts if same.label == part.label}
        for answer in subject.assistant.transfer(labeled.group, part, group_prediction):
            if answer.image_index == 0:
                continue
            size_hw = labeled.group.sizes_hw[answer.image_index]
            true_mask = truth.get(answer.image_index)
            proposed = _union([proposal.mask for proposal in answer.parts], size_hw)
            predicted = _union(_predicted(group_prediction, answer.image_index, part), size_hw)
            exemplar_iou, predicted_iou = (
                0.0 if true_mask is None else mask_iou(mask, true_mask)
                for mask in (proposed, predicted)
            )
            yield Transferred(true_mask is not None, exemplar_iou, predicted_iou, answer.is_absent)


def _predicted(
    group_prediction: GroupPrediction, image_index: int, part: PartMask
) -> list[BoolMask]:
    """Masks of the predicted parts of one image with the label of `part`."""
    return [
        predicted.mask
        for predicted in group_prediction.of_image(image_index)
        if predicted.label == part.label and predicted.kind is not RegionKind.COMMON_OBJECT
    ]


def _union(masks: Sequence[BoolMask], size_hw: tuple[int, int]) -> BoolMask:
    union: BoolMask = np.logical_or.reduce([np.zeros(size_hw, np.bool_), *masks])
    return union


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    splits = (SceneSplit.SEEN, SceneSplit.UNSEEN_DOMAIN)
    transfers: dict[SceneSplit, list[Transferred]] = {split: [] for split in splits}
    done = 0
    for split in splits:
        for labeled in subject.draw(split, subject.groups, GROUP_SIZE):
            transfers[split].extend(transfers_of(subject, labeled))
            done += 1
            on_step(done)
    seen, unseen = (_means(transfers[split]) for split in splits)
    rows = (
        TableRow(
            "one part of 4 images, the other 3",
            _shown(transfers[SceneSplit.SEEN]),
            "IoU >= 60",
        ),
        TableRow("  proposed without it", f"{seen[1]:.1f} IoU"),
        TableRow("  unseen domain", _shown(transfers[SceneSplit.UNSEEN_DOMAIN])),
        TableRow("  proposed without it", f"{unseen[1]:.1f} IoU", "20 points less"),
        TableRow("  absence noticed", _absence([t for split in splits for t in transfers[split]])),
    )
    absent = [
        each.is_called_absent for split in splits for each in transfers[split] if not each.is_there
    ]
    values = {
        "exemplar_iou": seen[0],
        "exemplar_gain_unseen": unseen[0] - unseen[1],
        "absent_accuracy": 100 * float(np.mean(absent)) if absent else 0.0,
    }
    return FigureResult(values, rows)


def _means(transfers: Sequence[Transferred]) -> tuple[float, float]:
    """Mean IoU in percent, with the outline and without, over images that show the part."""
    there = [each for each in transfers if each.is_there]
    if not there:
        return 0.0, 0.0
    return (
        100 * float(np.mean([each.exemplar for each in there])),
        100 * float(np.mean([each.zero_shot for each in there])),
    )


def _shown(transfers: Sequence[Transferred]) -> str:
    there = [each for each in transfers if each.is_there]
    missed = sum(each.is_called_absent for each in there)
    return f"{_means(transfers)[0]:.1f} IoU, {missed} of {len(there)} called absent"


def _absence(transfers: Sequence[Transferred]) -> str:
    absent = [each for each in transfers if not each.is_there]
    return f"{sum(each.is_called_absent for each in absent)} of {len(absent)}"


EXEMPLAR = Figure(
    "Transferring",
    ("exemplar_iou", "exemplar_gain_unseen", "absent_accuracy"),
    lambda subject: 2 * subject.groups,
    _measure,
)
