"""The progress of a long command on stderr: a bar on a terminal, plain lines in a log.

Also how the user stops it, and the memory it used.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from backend.cli import DISK_ERRORS
from backend.errors import LabelStudioError, SettingsError

_SHORT_S, _LINE_S = 2.0, 15.0
_STOPPED = "Stopped. Run the same command again to continue."


@contextmanager
def progress_bar(
    what: str, total: int | None, *, unit: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows the progress and the remaining time of one piece of work; the bar is removed after it.

    Args:
        what: the work, as a heading.
        total: number of steps, or None if only time passes.
        unit: what a step is ("photographs"), to show how many are done per second.

    Yields:
        A function to call with the number of finished steps.
    """
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    if total is not None:
        columns += [MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TimeElapsedColumn())
    if unit is not None:
        columns.append(_RateColumn(unit))
    # stderr, because the last line of stdout belongs to machines.
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        yield lambda done: lines.write(what, done, total, unit)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def writing_to(option: str, place: Path) -> Iterator[None]:
    """Names the option that says where to write, when that disk is full or fails.

    Raises:
        SettingsError: it is, or does.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        reason = f"{option}: {place} cannot be written ({error.strerror})"
        raise SettingsError(reason) from error


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Says that nothing is lost when Ctrl-C, Label Studio or a full disk ends the work."""
    try:
        yield
    except (KeyboardInterrupt, LabelStudioError, OSError):
        typer.echo(_STOPPED, err=True)
        raise


def print_outcome(
    about: Mapping[str, object], *, is_finished: bool, began: float, is_stored: bool | None = None
) -> None:
    """Prints the last line of a training as JSON, and says how to go on if it was stopped.

    Args:
        about: what the training has made; None for what it has not.
        is_finished: whether it was not stopped.
        began: when it did, by `time.monotonic()`.
        is_stored: whether its last state is where it belongs; None where it belongs nowhere else.
    """
    outcome = {**about, "finished": is_finished, "seconds": round(time.monotonic() - began, 1)}
    if is_stored is not None:
        outcome["stored"] = is_stored
    if not is_finished:
        typer.echo(_STOPPED, err=True)
    typer.echo(json.dumps(outcome, default=str))


@contextmanager
def training_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows the progress of a training, stage by stage; the last state stays on the screen.

    Args:
        what: the first stage, as a heading.

    Yields:
        A function to call with the stage, the number of finished steps and of all steps.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().write
        return
    with Progress(*columns, console=console) as progress:
        # Of several processes only the first reports progress, so only the first shows a bar.
        task = progress.add_task(what, total=None, visible=False)
        yield lambda now, done, total: progress.update(
            task, description=now, completed=done, total=total, visible=True
        )


class _RateColumn(ProgressColumn):
    """How many steps are done per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Returns the text of the column; empty before the speed is known."""
        return Text("" if task.speed is None else f"{task.speed:.1f} {self._unit}/s")


class _Lines:
    """Progress as lines of a log: at the start of each stage, and every 15 seconds."""

    def __init__(self) -> None:
        self._began = self._written_at = time.monotonic()
        self._last = ""
        self._start: int | None = None

    def write(self, what: str, done: int, total: int | None, unit: str | None = None) -> None:
        """Writes a line if a new stage began or the last line is old enough."""
        now = time.monotonic()
        if self._start is None:
            self._start = done
        heading = what.partition(",")[0]
        if heading == self._last and now - self._written_at < _LINE_S:
            return
        if now - self._began < _SHORT_S:
            return  # short work needs no line
        self._written_at, self._last = now, heading
        of = "" if total is None else f" {done}/{total}"
        rate = (done - self._start) / (now - self._began)
        if unit is not None and total is not None and rate > 0:
            of += f", {rate:.1f} {unit} per second, {(total - done) / rate:.0f} s left"
        sys.stderr.write(f"[{now - self._began:6.0f} s] {what}{of}\n")
        sys.stderr.flush()


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def stop_requests() -> Callable[[], bool]:
    """Returns a function that is True once Ctrl-C or SIGTERM asked this process to stop."""
    is_stopping = False

    def request_stop(*_: object) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    return lambda: is_stopping
