"""How good a model with an adapter is on groups whose features are kept: what a gate decides by.

Strict metrics of evaluation/metrics.py, mean of the subtasks. Knows no files, clocks or images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calico_model.modeling.adapter_set import Adapter, AdapterSet
from calico_model.training.example import Example


@dataclass(frozen=True)
class GroupScore:
    """One group.

    Attributes:
        key: of the example.
        miou: strict mean IoU in percent over its images and questions.
        recall: percent of true regions found with IoU >= 0.5 and the right name; 100 without any.
    """

    key: str
    miou: float
    recall: float


@dataclass(frozen=True)
class Scores:
    """Several groups; every metric in percent.

    Attributes:
        miou, recall: strict, plain mean of the subtasks that have anything to measure.
        by_kind: subtask -> {"mIoU", "Recall"}.
        by_label: true name -> (regions found, regions there).
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
    on_group: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Asks all questions about every group and compares the answers with the truth.

    Args:
        adapters: the model; wears `adapter` afterwards. The caller holds its lock.
        adapter: what to measure, None for the base.
        examples: at least one.
        on_group: called with the number of finished groups.

    Raises:
        InvalidConfigError: no examples.
    """
    raise NotImplementedError
