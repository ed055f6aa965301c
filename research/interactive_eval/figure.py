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
"""Keys of the JSON, in order; null where a figure was not measured."""

OnStep = Callable[[int], None]
"""Receives the number of finished steps."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The model that is measured, and the groups it is measured on.

    Attributes:
        predictor: answers the three questions about a group.
        assistant: the same model, which answers prompts about single regions.
        draw: (split, groups, images per group) -> held-out groups; equal arguments give equal
            groups.
        groups: number of groups of each split that a figure uses.
        seed: of the random choices of simulated annotators.
    """

    predictor: Predictor
    assistant: Assistant
    draw: Callable[[SceneSplit, int, int], Sequence[LabeledGroup]]
    groups: int
    seed: int


@dataclass(frozen=True)
class TableRow:
    """One row of the printed table.

    Attributes:
        name: of the measurement.
        value: with unit and spread.
        goal: desired value, or "".
    """

    name: str
    value: str
    goal: str = ""


@dataclass(frozen=True)
class FigureResult:
    """Result of a figure.

    Attributes:
        values: by JSON key.
        rows: of the printed table.
    """

    values: Mapping[str, float]
    rows: tuple[TableRow, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: heading of the progress bar.
        keys: JSON keys, all of which `measure` fills.
        steps: number of steps of the measurement on a subject.
        measure: measures a subject.
    """

    name: str
    keys: tuple[str, ...]
    steps: Callable[[Subject], int]
    measure: Callable[[Subject, OnStep], FigureResult]
