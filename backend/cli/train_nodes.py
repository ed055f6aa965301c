"""The processes of `calico train`: on one machine or on several, started here or by a job.

torchrun does the work. It runs inside this process, so that a signal reaches the workers and their
exit status is the status of the command.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

import typer

from backend.cli.train_peers import UNFINISHED, gathered
from calico_model.errors import InvalidConfigError

_JOIN_S = 600
"""How long a machine waits for the others; they may have an image to fetch."""
_STOP_S = 600
"""How long a worker that was asked to stop may take to save its state."""

_PARENT = os.getppid()
"""Of this process when it began: the launcher, where torchrun started it."""


@dataclass(frozen=True)
class Launch:
    """Where a training runs.

    Attributes:
        processes: on each machine.
        nodes: machines; each runs the same command.
        rendezvous: "HOST:PORT" where they find each other, one of them; None for one machine.
    """

    processes: int = 1
    nodes: int = 1
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if self.rendezvous is not None:
            _check_rendezvous(self.rendezvous)

    @property
    def total(self) -> int:
        """Processes on all machines together."""
        return self.nodes * self.processes

    def check(self) -> None:
        """Checks that several machines know where to meet, unless torchrun has seen to that.

        Raises:
            InvalidConfigError: they do not.
        """
        if self.nodes > 1 and self.rendezvous is None and not is_launched():
            raise InvalidConfigError(
                f"--rendezvous: expected HOST:PORT of one of the {self.nodes} machines"
            )

    def start(self) -> None:
        """Runs this very command as data-parallel processes, and ends with their exit status.

        Returns at once where there is nothing to start: in one of these processes, also of those
        that a job started with torchrun, and for a training in a single process.

        Raises:
            InvalidConfigError: the machines do not know where to meet.
            SystemExit: the processes have ended.
        """
        self.check()
        if self.total == 1 or is_launched():
            return
        if self.nodes > 1:
            wait = f"at most {_JOIN_S // 60} minutes"
            typer.echo(
                f"calico: waiting for {self.nodes} machines at {self.rendezvous}, {wait}", err=True
            )
        sys.exit(_run([*self._torchrun_options(), "--module", "backend.cli", *sys.argv[1:]]))

    def _torchrun_options(self) -> list[str]:
        options = [f"--nproc-per-node={self.processes}", f"--shutdown-timeout={_STOP_S}"]
        if self.nodes == 1:
            # Without --standalone a busy default port of another training would be fatal.
            return [*options, "--standalone"]
        return [
            *options,
            f"--nnodes={self.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.rendezvous}",
            "--rdzv-id=calico-train",
            f"--rdzv-conf=join_timeout={_JOIN_S},read_timeout={_JOIN_S}",
        ]


def is_launched() -> bool:
    """Whether torchrun started this process."""
    from torch import distributed

    return bool(distributed.is_torchelastic_launched())


def is_left() -> bool:
    """Whether the launcher of this process was killed, so that nobody waits for its end.

    It must stop then: the same command may have been given again, and writes to the same folder.
    """
    return is_launched() and os.getppid() != _PARENT


def is_first() -> bool:
    """Whether this process is the one that prints the result."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def is_first_here() -> bool:
    """Whether this process is the first one of its machine."""
    from torch import distributed

    return bool(distributed.get_node_local_rank(fallback_rank=0) == 0)


def leave(is_finished: bool, *, is_stored: bool = True) -> None:
    """Leaves the processes; the exit status says whether the same command has more to do.

    Args:
        is_finished: whether the training was not stopped. A single process that somebody stopped
            ends with 0 all the same.
        is_stored: whether the result is where it belongs.

    Raises:
        SystemExit: there is more to do, for any of the processes; or one of them is gone.
    """
    from torch import distributed

    # The first one merges and stores. A machine that leaves earlier may host the rendezvous.
    is_done = all(gathered(is_stored and (is_finished or not is_launched())))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if not is_done:
        sys.exit(UNFINISHED)


def _run(arguments: list[str]) -> int:
    """Runs torchrun; returns the exit status of the process that failed first, or 0."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status  # a signal, as a shell says it
    except SignalException as error:
        return 128 + int(error.sigval)
    except RendezvousError as error:
        reason = f"calico: --rendezvous: did not find, or lost, the other machines: {error}"
        typer.secho(reason, fg=typer.colors.RED, err=True)
        return UNFINISHED
    return 0


def _check_rendezvous(value: str) -> None:
    parts = urlsplit(f"//{value}")
    try:
        is_place = parts.hostname and parts.port and parts.netloc == value
        is_place = is_place and "@" not in value and not any(map(str.isspace, value))
    except ValueError:  # the port is no number, or too large
        is_place = False
    if not is_place:
        raise InvalidConfigError(
            f"--rendezvous: expected HOST:PORT with a port from 1 to 65535, got {value!r}"
        )
