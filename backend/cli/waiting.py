"""What a person sees while a command works: a bar with the time left, on stderr."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how far a piece of work is and how long it will take; nothing stays behind.

    Args:
        what: the work, as a heading.
        total: number of steps, or None if only time passes.

    Yields:
        A function to call with the number of finished steps.
    """
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    if total is not None:
        columns += [MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TimeElapsedColumn())
    # stderr, because the last line of stdout belongs to machines.
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def training_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows the stages of a training; what was shown last stays.

    Args:
        what: the first work, as a heading.

    Yields:
        A function to call with the work, the number of finished steps and of all steps.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        # Of several processes only one is told anything, and only that one shows a bar.
        task = progress.add_task(what, total=None, visible=False)
        yield lambda now, done, total: progress.update(
            task, description=now, completed=done, total=total, visible=True
        )


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
