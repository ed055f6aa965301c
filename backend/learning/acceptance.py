"""When a published version is taken back: annotators accept less of it than of the one before.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.learning.correction import Tally
from backend.learning.rows import Standing, TaskRow


@dataclass(frozen=True)
class AcceptancePolicy:
    """When to roll back.

    Attributes:
        window: newest tasks of each version that count.
        least_tasks: tasks either version needs before anything is decided.
        margin: fall of the accepted share that is one too many, in [0, 1].
    """

    window: int = 50
    least_tasks: int = 10
    margin: float = 0.15


@dataclass(frozen=True)
class LiveAcceptance:
    """What annotators made of one version's predictions.

    Attributes:
        tasks: that started from it and had anything predicted.
        tally: of their regions.
    """

    tasks: int
    tally: Tally


def live_acceptance(
    rows: Iterable[TaskRow], versions: frozenset[str], *, window: int
) -> LiveAcceptance:
    """Sums up the newest tasks that started from any of some versions."""
    mine = [
        row
        for row in rows
        if row.standing is Standing.CORRECTED and row.version in versions and row.tally.predicted
    ]
    newest = sorted(mine, key=lambda row: row.seq)[-window:]
    return LiveAcceptance(len(newest), sum((row.tally for row in newest), Tally()))


def reason_to_roll_back(
    policy: AcceptancePolicy, current: LiveAcceptance, parent: LiveAcceptance
) -> str | None:
    """Returns why the current version has to go, or None."""
    if min(current.tasks, parent.tasks) < policy.least_tasks:
        return None
    now, before = current.tally.acceptance, parent.tally.acceptance
    if now is None or before is None or before - now <= policy.margin:
        return None
    return (
        f"annotators accept {now:.0%} of its regions over {current.tasks} tasks, "
        f"{before:.0%} of its parent's over {parent.tasks}"
    )
