"""What one outlined part is worth on the other images of its group.

The annotator outlines a part on the first of four images; the model proposes it on the others.
Beside it stands what the model proposes by itself: its prediction of that name on that image,
nothing where it has none. Parts that no other image shows count how often that is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.data.synthetic import SceneSplit
from calico_model.evaluation.matching import iou_matrix
from calico_model.types import BoolMask, GroupPrediction, LabeledGroup, PartMask, RegionKind
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

GROUP_SIZE = 4


@dataclass(frozen=True)
class Transferred:
    """One part sought on one image.

    Attributes:
        is_there: whether the truth has it there.
        exemplar: IoU of the proposal, 0 for none.
        zero_shot: IoU of what was predicted by that name, 0 for nothing.
        is_called_absent: nothing was proposed.
    """

    is_there: bool
    exemplar: float
    zero_shot: float
    is_called_absent: bool


def transfers_of(subject: Subject, labeled: LabeledGroup) -> Iterator[Transferred]:
    """Yields every part of the first image on every other image of a group."""
    group_prediction = subject.predictor.predict(labeled.group)
    parts = [part for part in labeled.parts if part.kind is not RegionKind.COMMON_OBJECT]
    for part in (part for part in parts if part.image_index == 0):
        truth = {one.image_index: one.mask for one in parts if one.label == part.label}
        for found in subject.assistant.transfer(labeled.group, part, group_prediction):
            if found.image_index == 0:
                continue
            size_hw = labeled.group.sizes_hw[found.image_index]
            wanted = truth.get(found.image_index)
            yield Transferred(
                wanted is not None,
                _iou(_union([one.mask for one in found.parts], size_hw), wanted),
                _iou(
                    _union(_predicted(group_prediction, found.image_index, part), size_hw), wanted
                ),
                found.is_absent,
            )


def _predicted(
    group_prediction: GroupPrediction, image_index: int, part: PartMask
) -> list[BoolMask]:
    return [
        one.mask
        for one in group_prediction.of_image(image_index)
        if one.label == part.label and one.kind is not RegionKind.COMMON_OBJECT
    ]


def _union(masks: Sequence[BoolMask], size_hw: tuple[int, int]) -> BoolMask:
    union: BoolMask = np.logical_or.reduce([np.zeros(size_hw, np.bool_), *masks])
    return union


def _iou(mask: BoolMask, wanted: BoolMask | None) -> float:
    return 0.0 if wanted is None else float(iou_matrix([mask], [wanted])[0, 0])


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    splits = (SceneSplit.SEEN, SceneSplit.UNSEEN_DOMAIN)
    found: dict[SceneSplit, list[Transferred]] = {split: [] for split in splits}
    done = 0
    for split in splits:
        for labeled in subject.draw(split, subject.groups, GROUP_SIZE):
            found[split].extend(transfers_of(subject, labeled))
            done += 1
            on_step(done)
    seen, unseen = (_means(found[split]) for split in splits)
    rows = (
        TableRow("one part of 4 images, the other 3", _shown(found[SceneSplit.SEEN]), "IoU >= 60"),
        TableRow("  proposed without it", f"{seen[1]:.1f} IoU"),
        TableRow("  unseen domain", _shown(found[SceneSplit.UNSEEN_DOMAIN])),
        TableRow("  proposed without it", f"{unseen[1]:.1f} IoU", "20 points less"),
        TableRow(
            "  absence noticed",
            _absence([*found[SceneSplit.SEEN], *found[SceneSplit.UNSEEN_DOMAIN]]),
        ),
    )
    absent = [one.is_called_absent for each in found.values() for one in each if not one.is_there]
    values = {
        "exemplar_iou": seen[0],
        "exemplar_gain_unseen": unseen[0] - unseen[1],
        "absent_accuracy": 100 * float(np.mean(absent)) if absent else 0.0,
    }
    return FigureResult(values, rows)


def _means(found: Sequence[Transferred]) -> tuple[float, float]:
    """Mean IoU in percent with the outline and without it, where the part is there."""
    there = [one for one in found if one.is_there]
    if not there:
        return 0.0, 0.0
    return (
        100 * float(np.mean([one.exemplar for one in there])),
        100 * float(np.mean([one.zero_shot for one in there])),
    )


def _shown(found: Sequence[Transferred]) -> str:
    there = [one for one in found if one.is_there]
    missed = sum(one.is_called_absent for one in there)
    return f"{_means(found)[0]:.1f} IoU, {missed} of {len(there)} called absent"


def _absence(found: Sequence[Transferred]) -> str:
    absent = [one for one in found if not one.is_there]
    return f"{sum(one.is_called_absent for one in absent)} of {len(absent)}"


EXEMPLAR = Figure(
    "Transferring",
    ("exemplar_iou", "exemplar_gain_unseen", "absent_accuracy"),
    lambda subject: 2 * subject.groups,
    _measure,
)
