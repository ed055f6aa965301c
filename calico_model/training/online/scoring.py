"""Strict metrics of a model with an adapter on groups whose features are kept.

The metrics of `evaluation.metrics`, as a mean of the subtasks; a gate decides by them. Knows no
files, clocks or images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from calico_model.errors import InvalidConfigError
from calico_model.evaluation.metrics import IOU_THRESHOLD, STRICT
from calico_model.evaluation.regions import CroppedRegion, as_regions
from calico_model.evaluation.units import Unit, strict_unit
from calico_model.inference.generation import predict_regions
from calico_model.modeling.adapter import Adapter
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.training.engine import move
from calico_model.training.frozen import rounded
from calico_model.training.online.example import Example
from calico_model.types import RegionKind
from calico_model.vocabulary import normalise


@dataclass(frozen=True)
class GroupScore:
    """One group.

    Attributes:
        key: of the example.
        miou: strict mean IoU in percent over its images and questions.
        recall: percent of true regions found with IoU >= 0.5 and the right name; 100 without any.
        regions: per true region its name, and the largest IoU in [0, 1] of a prediction with that
            name; in an order that depends on the truth alone.
    """

    key: str
    miou: float
    recall: float
    regions: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Scores:
    """Several groups; every metric in percent.

    Attributes:
        miou, recall: strict, plain mean of the subtasks that have anything to measure.
        by_kind: subtask -> {"mIoU", "Recall"}.
        by_label: true name -> (regions found, regions in the truth).
        groups: per group, in order.
    """

    miou: float
    recall: float
    by_kind: dict[str, dict[str, float]]
    by_label: dict[str, tuple[int, int]]
    groups: tuple[GroupScore, ...]


def score_groups(
    adapters: AdapterSet,
    adapter: Adapter | None,
    examples: Sequence[Example],
    *,
    on_group: Callable[[int], None] = lambda _done: None,
) -> Scores:
    """Asks all questions about every group and compares the answers with the truth.

    Args:
        adapters: the model; `adapter` or none is selected afterwards. The caller holds its lock.
        adapter: the adapter to measure, None for the base.
        examples: at least one.
        on_group: called with the number of finished groups.

    Raises:
        InvalidConfigError: no examples.
    """
    if not examples:
        raise InvalidConfigError("examples: expected at least one group to measure on")
    device = next(adapters.model.parameters()).device
    tables = {kind: _Table() for kind in RegionKind}
    labels: dict[str, tuple[int, int]] = {}
    groups = []
    for index, example in enumerate(examples):
        features = move(rounded(example.features, torch.float32), device)
        tokenizer = adapters.select(adapter, features)
        prediction = predict_regions(
            adapters.model,
            tokenizer,
            features,
            example.sizes_hw,
            asks_language=adapters.uses_language_model(features),
        )
        units = _units(index, example, as_regions(prediction.parts), as_regions(example.truth))
        for kind, scored in units:
            tables[kind].add(scored)
            _count_labels(labels, scored)
        groups.append(_group_score(example.key, [scored for _, scored in units]))
        on_group(index + 1)
    by_kind = {str(k): table.values() for k, table in tables.items() if table.images}
    return Scores(
        miou=_mean([values["mIoU"] for values in by_kind.values()]),
        recall=_mean([values["Recall"] for values in by_kind.values() if "Recall" in values]),
        by_kind=by_kind,
        by_label=labels,
        groups=tuple(groups),
    )


@dataclass
class _Table:
    """Running sums of one subtask."""

    overlap: float = 0.0
    images: int = 0
    found: float = 0.0
    there: float = 0.0

    def add(self, scored: Unit) -> None:
        self.overlap += STRICT["mIoU"](scored)[0]
        self.images += 1
        found, there = STRICT["Recall"](scored)
        self.found, self.there = self.found + found, self.there + there

    def values(self) -> dict[str, float]:
        values = {"mIoU": 100 * self.overlap / self.images}
        return values | ({"Recall": 100 * self.found / self.there} if self.there else {})


def _units(
    index: int, example: Example, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> list[tuple[RegionKind, Unit]]:
    """One unit per image and known subtask that has anything, true or predicted."""
    units = []
    for kind in RegionKind:
        for image in range(len(example)) if kind in example.known else ():
            ours = [r for r in predicted if r.kind is kind and r.image_index == image]
            theirs = [r for r in truth if r.kind is kind and r.image_index == image]
            if ours or theirs:
                units.append((kind, strict_unit(index, ours, theirs)))
    return units


def _group_score(key: str, units: Sequence[Unit]) -> GroupScore:
    table = _Table()
    for scored in units:
        table.add(scored)
    values = table.values() if units else {"mIoU": 100.0}
    regions = tuple(region for scored in units for region in _regions(scored))
    return GroupScore(key, values["mIoU"], values.get("Recall", 100.0), regions)


def _regions(scored: Unit) -> list[tuple[str, float]]:
    named = np.where(scored.same_label > 0, scored.iou, 0.0)
    return [
        (normalise(label), float(column.max(initial=0.0)))
        for label, column in zip(scored.truth_labels, named.T, strict=True)
    ]


def _count_labels(labels: dict[str, tuple[int, int]], scored: Unit) -> None:
    hits = (scored.same_label > 0) & (scored.iou >= IOU_THRESHOLD)
    for column, label in enumerate(scored.truth_labels):
        found, there = labels.get(normalise(label), (0, 0))
        labels[normalise(label)] = (found + int(hits[:, column].any()), there + 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 100.0
