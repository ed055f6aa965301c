"""What typing a name is worth: "segment the <part>" against the truth of every image of a group.

Every part of the truth is asked for, and with it names of parts that nothing in the group can
have: those, and parts that only another image shows, have to be called absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.data.opening import drawn_taxonomy
from calico_model.data.synthetic import SceneSplit
from calico_model.evaluation.matching import iou_matrix
from calico_model.interactive.text_request import read_request
from calico_model.types import BoolMask, LabeledGroup, RegionKind
from calico_model.vocabulary import normalise
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

_GROUP_SIZE = 2
_FOREIGN = 2  # names per group that nothing in it can have


@dataclass(frozen=True)
class Sought:
    """One name on one image.

    Attributes:
        is_there: whether the truth has it there.
        is_elsewhere: whether another image of the group has it.
        is_called_absent: what the model says.
        iou: of what it outlines there, 0 for nothing.
    """

    is_there: bool
    is_elsewhere: bool
    is_called_absent: bool
    iou: float


def sought_in(
    subject: Subject, labeled: LabeledGroup, rng: np.random.Generator
) -> Iterator[Sought]:
    """Yields every part of a group, and some it cannot have, on every image."""
    truth: dict[str, dict[int, BoolMask]] = {}
    for part in labeled.parts:
        if part.kind is not RegionKind.COMMON_OBJECT:
            truth.setdefault(part.label, {})[part.image_index] = part.mask
    group_prediction = subject.predictor.predict(labeled.group)
    names = (*truth, *_foreign(labeled, rng))
    asked = [read_request(f"segment the {name}").things[0] for name in names]
    wanted = [(thing.labels[0], thing.owner) for thing in asked]
    answers = subject.assistant.refer(labeled.group, wanted, group_prediction)
    for name, found in zip(names, answers, strict=True):
        drawn = {part.image_index: part.mask for part in found.parts}
        there = truth.get(name, {})
        for image in range(len(labeled.group)):
            is_both = image in there and image in drawn
            iou = float(iou_matrix([drawn[image]], [there[image]])[0, 0]) if is_both else 0.0
            yield Sought(image in there, bool(there), image not in drawn, iou)


def _foreign(labeled: LabeledGroup, rng: np.random.Generator) -> list[str]:
    """Names of parts that no compared object can have, nor the truth of the group has."""
    parts = drawn_taxonomy()
    shown = {normalise(one.label) for one in labeled.objects}
    own = {name for label in shown for name in parts.get(label, ())}
    own |= {part.label for part in labeled.parts}
    others = sorted({name for names in parts.values() for name in names} - own)
    return [str(name) for name in rng.choice(others, _FOREIGN, replace=False)]


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    found: list[Sought] = []
    rng = np.random.default_rng((subject.seed, 5))
    for done, labeled in enumerate(
        subject.draw(SceneSplit.SEEN, subject.groups, _GROUP_SIZE), start=1
    ):
        found.extend(sought_in(subject, labeled, rng))
        on_step(done)
    there = [one for one in found if one.is_there]
    elsewhere = [one for one in found if not one.is_there and one.is_elsewhere]
    nowhere = [one for one in found if not one.is_elsewhere]
    values = {
        "referring_iou": 100 * float(np.mean([one.iou for one in there])),
        "absent_accuracy": _right(found),
    }
    rows = (
        TableRow('"segment the <part>"', f"{values['referring_iou']:.1f} IoU"),
        TableRow("  there or absent, told rightly", f"{values['absent_accuracy']:.1f} %"),
        TableRow("  where it is there", f"{_right(there):.1f} %"),
        TableRow("  where another image has it", f"{_right(elsewhere):.1f} %"),
        TableRow("  where nothing can have it", f"{_right(nowhere):.1f} %"),
    )
    return FigureResult(values, rows)


def _right(found: Sequence[Sought]) -> float:
    """How often absence is told rightly, in percent; 100 of nothing."""
    if not found:
        return 100.0
    return 100 * float(np.mean([one.is_called_absent != one.is_there for one in found]))


REFERRING = Figure(
    "Asking by name",
    ("referring_iou", "absent_accuracy"),
    lambda subject: subject.groups,
    _measure,
)
