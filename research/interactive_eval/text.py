"""How well regions are found by name: "segment the <part>" against the truth of every image.

Every true part of a group is requested, and names of parts that no object of the group can have.
The model has to call these names absent, and parts on images that do not show them.
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
    """One requested name on one image.

    Attributes:
        is_there: whether the image truly shows the part.
        is_elsewhere: whether any image of the group shows the part.
        is_called_absent: whether the model outlines nothing there.
        iou: of the outlined mask, 0 without one.
    """

    is_there: bool
    is_elsewhere: bool
    is_called_absent: bool
    iou: float


def sought_in(
    subject: Subject, labeled: LabeledGroup, rng: np.random.Generator
) -> Iterator[Sought]:
    """Yields, for every image, every part of a group and names of parts it cannot have."""
    truth: dict[str, dict[int, BoolMask]] = {}
    for part in labeled.parts:
        if part.kind is not RegionKind.COMMON_OBJECT:
            truth.setdefault(part.label, {})[part.image_index] = part.mask
    group_prediction = subject.predictor.predict(labeled.group)
    names = (*truth, *_foreign(labeled, rng))
    things = [read_request(f"segment the {name}").things[0] for name in names]
    requests = [(thing.labels[0], thing.owner) for thing in things]
    answers = subject.assistant.refer(labeled.group, requests, group_prediction)
    for name, answer in zip(names, answers, strict=True):
        drawn = {part.image_index: part.mask for part in answer.parts}
        there = truth.get(name, {})
        for image in range(len(labeled.group)):
            is_both = image in there and image in drawn
            iou = float(iou_matrix([drawn[image]], [there[image]])[0, 0]) if is_both else 0.0
            yield Sought(image in there, bool(there), image not in drawn, iou)


def _foreign(labeled: LabeledGroup, rng: np.random.Generator) -> list[str]:
    """Names of parts that no compared object can have and that the group does not show."""
    parts = drawn_taxonomy()
    objects = {normalise(compared.label) for compared in labeled.objects}
    possible = {name for label in objects for name in parts.get(label, ())}
    possible |= {part.label for part in labeled.parts}
    others = sorted({name for names in parts.values() for name in names} - possible)
    return [str(name) for name in rng.choice(others, _FOREIGN, replace=False)]


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    requests: list[Sought] = []
    rng = np.random.default_rng((subject.seed, 5))
    for done, labeled in enumerate(
        subject.draw(SceneSplit.SEEN, subject.groups, _GROUP_SIZE), start=1
    ):
        requests.extend(sought_in(subject, labeled, rng))
        on_step(done)
    there = [request for request in requests if request.is_there]
    elsewhere = [r for r in requests if not r.is_there and r.is_elsewhere]
    nowhere = [request for request in requests if not request.is_elsewhere]
    values = {
        "referring_iou": 100 * float(np.mean([request.iou for request in there])),
        "absent_accuracy": _right(requests),
    }
    rows = (
        TableRow('"segment the <part>"', f"{values['referring_iou']:.1f} IoU"),
        TableRow("  there or absent, answered right", f"{values['absent_accuracy']:.1f} %"),
        TableRow("  where it is there", f"{_right(there):.1f} %"),
        TableRow("  where another image has it", f"{_right(elsewhere):.1f} %"),
        TableRow("  where nothing can have it", f"{_right(nowhere):.1f} %"),
    )
    return FigureResult(values, rows)


def _right(requests: Sequence[Sought]) -> float:
    """Percent of requests whose presence or absence is answered right; 100 without requests."""
    if not requests:
        return 100.0
    return 100 * float(np.mean([r.is_called_absent != r.is_there for r in requests]))


REFERRING = Figure(
    "Asking by name",
    ("referring_iou", "absent_accuracy"),
    lambda subject: subject.groups,
    _measure,
)
