"""The table of a study: the figures of each row, and their difference to the row `full`.

All outcomes resample the same groups in the same way, so differences are taken copy by copy: their
interval is that of a paired bootstrap. The interval tells how sure the difference is over groups;
how much training varies, only several seeds tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.evaluation.bootstrap import Estimate, Metric
from calico_model.evaluation.outcome import HEADLINE, MODES
from research.ablation.plan import FULL, AblationRow
from research.ablation.trial import TrialOutcome

Figures = dict[str, dict[str, Metric]]
"""Mode -> metric of `HEADLINE` -> figure."""


@dataclass(frozen=True)
class ComparedRow:
    """One row of the finished table, in percent and percentage points.

    Attributes:
        row: the row of the study.
        seeds: number of seeds that the figures are means over.
        trained: number of trained parameters.
        figures: means over the seeds.
        behind: `full` minus this row; positive where the left-out part helps.
        spread: standard deviation of the figures over the seeds; NaN with one seed.
    """

    row: AblationRow
    seeds: int
    trained: int
    figures: Figures
    behind: Figures
    spread: dict[str, dict[str, float]]


def compare_rows(
    rows: Sequence[AblationRow],
    seeds: Sequence[int],
    outcomes: Mapping[tuple[str, int], TrialOutcome],
) -> tuple[ComparedRow, ...]:
    """Returns the table; needs an outcome of every row and seed, and the row `full`."""
    full = _means([outcomes[FULL, seed] for seed in seeds])
    lines = []
    for row in rows:
        of_row = [outcomes[row.key, seed] for seed in seeds]
        means = _means(of_row)
        lines.append(
            ComparedRow(
                row,
                len(of_row),
                of_row[0].trained,
                {mode: {n: e.metric() for n, e in means[mode].items()} for mode in MODES},
                {
                    mode: {n: _difference(full[mode][n], means[mode][n]) for n in HEADLINE}
                    for mode in MODES
                },
                {mode: {n: _spread(of_row, mode, n) for n in HEADLINE} for mode in MODES},
            )
        )
    return tuple(lines)


def _means(outcomes: Sequence[TrialOutcome]) -> dict[str, dict[str, Estimate]]:
    """Means over seeds, copy by copy: all outcomes resample the groups in the same way."""
    means: dict[str, dict[str, Estimate]] = {}
    for mode in MODES:
        means[mode] = {}
        for name in HEADLINE:
            estimates = [outcome.means[mode][name] for outcome in outcomes]
            means[mode][name] = Estimate(
                float(np.mean([e.value for e in estimates])),
                np.mean([e.copies for e in estimates], axis=0),
                estimates[0].n,
            )
    return means


def _difference(full: Estimate, row: Estimate) -> Metric:
    return Estimate(full.value - row.value, full.copies - row.copies, row.n).metric()


def _spread(outcomes: Sequence[TrialOutcome], mode: str, name: str) -> float:
    values = [100 * outcome.means[mode][name].value for outcome in outcomes]
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
