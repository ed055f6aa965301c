"""From the outcomes of a study to its table: each row's figures, and how far it is behind `full`.

All outcomes resample the same groups alike, so differences are taken copy by copy: their interval
is that of a paired bootstrap. It says how sure the difference is over groups; how much training
itself varies, only several seeds can say.
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
    """One line of the finished table, in percent and percentage points.

    Attributes:
        row: which.
        seeds: how many seeds it is a mean over.
        trained: how many numbers learned.
        figures: means over the seeds.
        behind: `full` minus this row; positive where what is left out helps.
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
    """Builds the table; every row needs every seed, and `full` is among the rows."""
    full = _means([outcomes[FULL, seed] for seed in seeds])
    lines = []
    for row in rows:
        own = [outcomes[row.key, seed] for seed in seeds]
        means = _means(own)
        lines.append(
            ComparedRow(
                row,
                len(own),
                own[0].trained,
                {mode: {n: e.metric() for n, e in means[mode].items()} for mode in MODES},
                {
                    mode: {n: _difference(full[mode][n], means[mode][n]) for n in HEADLINE}
                    for mode in MODES
                },
                {mode: {n: _spread(own, mode, n) for n in HEADLINE} for mode in MODES},
            )
        )
    return tuple(lines)


def _means(outcomes: Sequence[TrialOutcome]) -> dict[str, dict[str, Estimate]]:
    """Means over seeds, copy by copy: every outcome has the groups resampled alike."""
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
