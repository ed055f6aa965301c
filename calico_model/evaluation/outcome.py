"""The outcome of an evaluation as values: what report.py writes and a gate asks.

Owns names and shapes only; ledger.py fills them in. Metrics are in percent unless blocks.py says
that they are counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from calico_model.evaluation.bootstrap import Estimate, Metric
from calico_model.evaluation.calibration import Bin
from calico_model.evaluation.labels import LabelScore
from calico_model.evaluation.worst import WorstCase
from calico_model.types import RegionKind

SUBTASKS = tuple(RegionKind)
MODES = ("strict", "compat")
HEADLINE = ("mIoU", "AP50", "Recall", "SS", "S-IoU")
SS_BACKEND = "ngram"


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
        blocks: every path of blocks.py -> metric; NaN where nothing was asked or measured.
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
