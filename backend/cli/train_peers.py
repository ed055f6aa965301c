"""The processes of one training, as each of them sees the others: who has come, and who is gone.

Between steps there is work that one process does while the others wait: drawing scenes, merging
weights, storing the last state. It may take an hour, so a time limit cannot tell it from a machine
that was switched off. Therefore every process reports itself in the store where torchrun has had
them meet, and those that wait look whether the reports go on.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from threading import Condition, Thread
from typing import Any, Protocol, TypeVar

import typer

from backend.errors import ProcessLostError

UNFINISHED = 75
"""Exit status of a process that did not finish: a job must not take it for the end of the run."""

_REPORT_S = 5.0
_SILENCE_S = 60.0
"""A process without a report for so long is gone. Long enough for a machine that stands still."""
_LOOK_S = 0.2
"""Between two looks of a process that waits."""

_Value = TypeVar("_Value")


class CountingStore(Protocol):
    """What is used of a store of torch.distributed; each call asks another machine."""

    def add(self, key: str, amount: int, /) -> int:
        """Adds to a counter, which begins at 0, and returns its new value."""

    def set(self, key: str, value: str, /) -> None:
        """Keeps a text."""

    def get(self, key: str, /) -> bytes:
        """Returns a text that was kept; waits for one that was not."""


class Presence:
    """Reports that this process lives, and waits for the others as long as they report.

    Only the thread in here asks the store: a store whose machine is gone may never answer.

    Args:
        store: of all processes of the training, for this thread alone.
        rank: of this process.
        processes: how many there are.
        machine: name of this machine, for messages.
        report_s: between two reports.
        silence_s: a process without a report for so long is gone.
    """

    def __init__(
        self,
        store: CountingStore,
        rank: int,
        processes: int,
        machine: str,
        *,
        report_s: float = _REPORT_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._store, self._rank, self._processes = store, rank, processes
        self._machine, self._report_s, self._silence_s = machine, report_s, silence_s
        self._changed = Condition()
        self._called = self._met = self._looks = 0
        self._problem: str | None = None
        self._is_ended = False
        self._heard: dict[int, tuple[int, float]] = {}
        Thread(target=self._run, name="presence", daemon=True).start()

    def meet(self) -> None:
        """Waits until every process has called this as often as this one.

        Raises:
            ProcessLostError: a process that has not is gone, or the store is.
        """
        with self._changed:
            self._called += 1
            self._changed.notify_all()
            looks, waited_s = self._looks, 0.0
            while self._met < self._called and self._problem is None:
                # Waits are counted, not the clock: this machine may have stood still itself.
                if not self._changed.wait(_LOOK_S):
                    waited_s += _LOOK_S
                if self._looks != looks:
                    looks, waited_s = self._looks, 0.0
                elif waited_s > self._silence_s:
                    self._problem = f"where they meet does not answer for {self._silence_s:.0f} s"
            if self._problem is not None:
                raise ProcessLostError(self._problem)

    def end(self) -> None:
        """Ends the reports: to the others, this process is gone."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._store.set(f"{self._rank}/machine", self._machine)
            reported_at = -self._report_s
            while not self._is_ended:
                if time.monotonic() - reported_at >= self._report_s:
                    reported_at = time.monotonic()
                    self._store.add(f"{self._rank}/reports", 1)
                if self._met < self._called:
                    self._look()
                with self._changed:
                    self._looks += 1
                    self._changed.notify_all()
                    self._changed.wait(_LOOK_S if self._met < self._called else self._report_s)
        except ProcessLostError as error:
            self._fail(str(error))
        except RuntimeError as error:  # every error of a store is one
            reason = str(error).partition("\n")[0]
            self._fail(f"where they meet cannot be reached any more: {reason}")

    def _look(self) -> None:
        """Looks once whether all have come; of those that have not, whether they report."""
        called = self._called
        own = self._store.add(f"{self._rank}/called", 0)
        if own < called:
            self._store.add(f"{self._rank}/called", called - own)
            self._heard = {}
        missing = [
            rank
            for rank in range(self._processes)
            if rank != self._rank and self._store.add(f"{rank}/called", 0) < called
        ]
        silent = [rank for rank in missing if self._is_silent(rank)]
        if silent:
            raise ProcessLostError(
                f"{self._name(silent[0])} gave no sign for {self._silence_s:.0f} s"
            )
        if not missing:
            self._met = called

    def _is_silent(self, rank: int) -> bool:
        reports, now = self._store.add(f"{rank}/reports", 0), time.monotonic()
        before, since = self._heard.get(rank, (-1, now))
        if reports != before:
            since = now
        self._heard[rank] = reports, since
        return now - since > self._silence_s

    def _name(self, rank: int) -> str:
        if self._store.add(f"{rank}/reports", 0) == 0:
            return f"process {rank}"
        return f"process {rank} on {self._store.get(f'{rank}/machine').decode()}"

    def _fail(self, problem: str) -> None:
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()


def report_presence() -> None:
    """Has this process report to the others of its training from now on; alone, nothing."""
    from torch import distributed

    if distributed.is_initialized():
        _presence()


def gathered(value: _Value) -> list[_Value]:
    """Returns what every process gives, by rank; waits for those that have long work to do.

    Raises:
        SystemExit: another process is gone, with status 75; one sentence per machine says so.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return [value]
    return _or_end(lambda: _gather(value))


def _gather(value: _Value) -> list[_Value]:
    from torch import distributed

    _presence().meet()
    values = [value] * distributed.get_world_size()
    try:
        # All have come, so this takes a moment.
        group = distributed.new_group(timeout=timedelta(seconds=_SILENCE_S), backend="gloo")
        distributed.all_gather_object(values, value, group=group)
    except RuntimeError as error:
        raise ProcessLostError(str(error).partition("\n")[0]) from error
    return values


def _or_end(act: Callable[[], _Value]) -> _Value:
    from torch import distributed

    try:
        return act()
    except ProcessLostError as error:
        if distributed.get_node_local_rank(fallback_rank=0) == 0:
            typer.echo(
                f"calico: lost another process of the training: {error}. Saved states stay; run "
                "the same command on all machines again to continue.",
                err=True,
            )
        sys.exit(UNFINISHED)


@cache
def _presence() -> Presence:
    """The one of this process; the processes must have met."""
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    met: Any = _get_default_store()
    store = PrefixStore("calico-presence", met.clone())  # a connection for the thread alone
    machine = socket.gethostname()
    return Presence(store, distributed.get_rank(), distributed.get_world_size(), machine)
