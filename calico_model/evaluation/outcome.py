"""The outcome of an evaluation as values: what report.py writes and a gate asks.

Owns the names of all metrics and the shape of a report; ledger.py fills it in. Every report holds
every metric of `METRIC_PATHS`; one that was not asked for, or had nothing to measure, is NaN there
and null in JSON. Metrics are in percent, those of `COUNT_METRICS` are counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from calico_model.evaluation import (
    annotator,
    calibration,
    naming,
    partonomy,
    quiz,
    structure,
)
from calico_model.evaluation.bootstrap import Estimate, Metric
from calico_model.evaluation.calibration import Bin
from calico_model.types import GroupPrediction, LabeledGroup, RegionKind


@dataclass(frozen=True, eq=False)
class WorstCase:
    """A group with a low strict mIoU.

    Attributes:
        index: of the group.
        miou: strict, in percent.
        labeled: images and truth.
        prediction: the model's own answer.
    """

    index: int
    miou: float
    labeled: LabeledGroup
    prediction: GroupPrediction


@dataclass(eq=False)
class WorstCases:
    """The `most` worst groups so far; of equally bad ones the first."""

    most: int
    _heap: list[tuple[float, int, WorstCase]] = field(default_factory=list)

    def offer(self, case: WorstCase) -> None:
        """Keeps a group if it is among the worst."""
        heapq.heappush(self._heap, (-case.miou, -case.index, case))
        if len(self._heap) > self.most:
            heapq.heappop(self._heap)

    @property
    def ranked(self) -> tuple[WorstCase, ...]:
        """The worst first."""
        return tuple(
            case for _, _, case in sorted(self._heap, key=lambda kept: (-kept[0], -kept[1]))
        )


SUBTASKS = tuple(RegionKind)
MODES = ("strict", "compat")
HEADLINE = ("mIoU", "AP50", "Recall", "SS", "S-IoU")
SS_BACKEND = "ngram"


@dataclass(frozen=True)
class LabelScore:
    """How one label fares in one subtask, in percent.

    Attributes:
        support: true regions of that label.
        miou: mean IoU with the region of the same label; 0 where there is none.
        recall: found with IoU >= 0.5, whatever the name.
        named: of the found ones, those with the right name; NaN if none was found.
    """

    support: int
    miou: float
    recall: float
    named: float


@dataclass(frozen=True)
class GroupSize:
    """The headline metrics of the groups of one size.

    Attributes:
        groups: how many there were.
        tasks: subtask -> "strict" | "compat" -> metric.
        mean: "strict" | "compat" -> metric, mean of the subtasks.
    """

    groups: int
    tasks: dict[str, dict[str, dict[str, Metric]]]
    mean: dict[str, dict[str, Metric]]


@dataclass(frozen=True)
class AskedQuestion:
    """A five-choice question as it was asked.

    Attributes:
        group: position of its group.
        task: what was asked.
        choices: the five answers.
        right: 0-based position of the true one.
        chosen: position of the one the model finds likeliest, by sum.
    """

    group: int
    task: str
    choices: tuple[str, ...]
    right: int
    chosen: int


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """The outcome of one evaluation.

    Attributes:
        model_version: what was evaluated.
        data_sha256: fingerprint of images and truth, in order.
        groups: how many groups were looked at.
        images: how many images they held.
        tasks: subtask -> "strict" | "compat" -> metric.
        mean: "strict" | "compat" -> metric, plain mean of the three subtasks.
        resampled: the same means as fractions with their bootstrap copies; reports on the same
            groups with the same seed resample alike, so their copies can be compared one by one.
        parts: naming and status of parts, beside the subtasks.
        blocks: every path of `METRIC_PATHS` -> metric; NaN where nothing was asked or measured.
        reliability: the bins of the reliability diagram, as fractions.
        group_sizes: number of images -> how groups of that size fared.
        oracle: subtask -> metric, its gains with true labels and true masks, and the bottleneck.
        labels: subtask -> label -> scores, for labels with at least 5 true regions.
        answers: counts of answers, of empty ones, of malformed ones and of skipped regions.
        worst: groups of lowest strict mIoU, worst first.
        questions: the five-choice questions, in the order they were asked.
        warnings: what a reader must know before quoting a number.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """

    model_version: str
    data_sha256: str
    groups: int
    images: int
    tasks: dict[str, dict[str, dict[str, Metric]]]
    mean: dict[str, dict[str, Metric]]
    resampled: dict[str, dict[str, Estimate]]
    parts: dict[str, Metric]
    blocks: dict[tuple[str, ...], Metric]
    reliability: tuple[Bin, ...]
    group_sizes: dict[int, GroupSize]
    oracle: dict[str, dict[str, float | str]]
    labels: dict[str, dict[str, LabelScore]]
    answers: dict[str, int]
    worst: tuple[WorstCase, ...]
    questions: tuple[AskedQuestion, ...]
    warnings: tuple[str, ...]
    seed: int
    resamples: int


MetricPath = tuple[str, ...]

OBJECT_ACCURACY = ("partonomy", "whole2part", "text", "object_accuracy")
EDIT_RATIO = "edit_ratio"
CONSISTENCY_WAYS = ("wording", "order")
COUNT_METRICS = frozenset({*annotator.CLICKS, *annotator.COUNTS})


def _partonomy() -> Iterator[MetricPath]:
    for task in partonomy.TASKS:
        for mode in partonomy.MASK_MODES:
            yield from (("partonomy", task, mode, name) for name in partonomy.MASK_METRICS)
        yield from (("partonomy", task, "text", name) for name in partonomy.TEXT_METRICS)
    for task in quiz.PART_TASKS:
        yield from (("partonomy", task, "choices", n) for n in (*quiz.ACCURACIES, *quiz.CHOSEN))
    yield OBJECT_ACCURACY
    for task in quiz.OBJECT_TASKS:
        yield from (("partonomy", task, "choices", name) for name in quiz.ACCURACIES)
    yield ("partonomy", "part2whole", "choices", quiz.GAIN)


METRIC_PATHS: tuple[MetricPath, ...] = (
    *_partonomy(),
    *(("vocabulary", name) for name in naming.NAMES),
    *(("structure", name) for name in structure.COMPOSITION_METRICS),
    *(("annotator", n) for n in (*annotator.TALLIES, EDIT_RATIO, *annotator.CLICKS)),
    *(("calibration", name) for name in calibration.NAMES),
    *(
        ("consistency", way, name)
        for way in CONSISTENCY_WAYS
        for name in structure.CONSISTENCY_METRICS
    ),
)
BLOCKS = tuple(dict.fromkeys(path[0] for path in METRIC_PATHS))


def nest_block(block: str, metrics: Mapping[MetricPath, Metric]) -> dict[str, object]:
    """Returns the metrics of one block as nested tables, in the order of `METRIC_PATHS`."""
    table: dict[str, object] = {}
    for path in METRIC_PATHS:
        if path[0] != block:
            continue
        here = table
        for step in path[1:-1]:
            inner = here.setdefault(step, {})
            assert isinstance(inner, dict)
            here = inner
        here[path[-1]] = metrics[path]
    return table
