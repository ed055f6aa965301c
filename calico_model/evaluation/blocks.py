"""Which figures stand beside the three subtasks: the table of contents of a report.

Every report holds every name; what was not asked for, or had nothing to measure, is NaN there and
null in JSON. A path is (block, ..., metric). Values are percent; `PLAIN` ones are counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from calico_model.evaluation import (
    annotator,
    calibration,
    composition,
    consistency,
    naming,
    partonomy,
    quiz,
)
from calico_model.evaluation.bootstrap import Metric

Path = tuple[str, ...]

OBJECT_ACCURACY = ("partonomy", "whole2part", "text", "object_accuracy")
EDIT_RATIO = "edit_ratio"
CONSISTENCY_WAYS = ("wording", "order")
PLAIN = frozenset({*annotator.CLICKS, *annotator.COUNTS})


def _partonomy() -> Iterator[Path]:
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


PATHS: tuple[Path, ...] = (
    *_partonomy(),
    *(("vocabulary", name) for name in naming.NAMES),
    *(("structure", name) for name in composition.NAMES),
    *(("annotator", n) for n in (*annotator.TALLIES, EDIT_RATIO, *annotator.CLICKS)),
    *(("calibration", name) for name in calibration.NAMES),
    *(("consistency", way, name) for way in CONSISTENCY_WAYS for name in consistency.NAMES),
)
BLOCKS = tuple(dict.fromkeys(path[0] for path in PATHS))


def nest(block: str, metrics: Mapping[Path, Metric]) -> dict[str, object]:
    """Returns the metrics of one block as nested tables, in the order of `PATHS`."""
    table: dict[str, object] = {}
    for path in PATHS:
        if path[0] != block:
            continue
        here = table
        for step in path[1:-1]:
            inner = here.setdefault(step, {})
            assert isinstance(inner, dict)
            here = inner
        here[path[-1]] = metrics[path]
    return table
