"""The figures of `calico evaluate --interactive`: what each is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from calico_model.assistant import Assistant
from calico_model.data.synthetic import SceneSplit
from calico_model.predictor import Predictor
from calico_model.types import LabeledGroup

KEYS = (
    "label_accuracy_seen",
    "label_accuracy_unseen_gain",
    "out_of_set",
    "noc85_scratch",
    "noc85_preannotated",
    "click_iou_median",
    "box_iou_median",
    "exemplar_iou",
    "exemplar_gain_unseen",
    "absent_accuracy",
    "repeated_iou",
    "repeated_iou_without_memory",
    "referring_iou",
)
"""Of the JSON, in order; null where a figure was not asked for."""

OnStep = Callable[[int], None]
"""Told how many steps are finished."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Who is measured, and on what.

    Attributes:
        predictor: answers the three questions.
        assistant: the same model, asked about single places.
        draw: (split, groups, images per group) -> held-out groups; equal arguments, equal groups.
        groups: how many groups a figure uses of each split.
        seed: of everything a simulated annotator does by chance.
    """

    predictor: Predictor
    assistant: Assistant
    draw: Callable[[SceneSplit, int, int], Sequence[LabeledGroup]]
    groups: int
    seed: int


@dataclass(frozen=True)
class TableRow:
    """One line of the table people read.

    Attributes:
        what: the measurement.
        shown: its value, with unit and spread.
        goal: what it should be, or "".
    """

    what: str
    shown: str
    goal: str = ""


@dataclass(frozen=True)
class FigureResult:
    """What a figure came to.

    Attributes:
        values: by JSON key.
        rows: for people.
    """

    values: Mapping[str, float]
    rows: tuple[TableRow, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: heading of the progress bar.
        keys: of the JSON, all of which `measure` fills.
        steps: how many steps it takes on a subject.
        measure: does it.
    """

    name: str
    keys: tuple[str, ...]
    steps: Callable[[Subject], int]
    measure: Callable[[Subject, OnStep], FigureResult]
