"""Commands that run as several processes, and end when they are asked to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable


def launch(processes: int) -> int:
    """Runs this very command as data-parallel processes; returns their exit status."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    # Without --standalone a busy default port of another training would be fatal.
    return subprocess.call([*launcher, "--standalone", "--module", "backend.cli", *sys.argv[1:]])


def is_launched() -> bool:
    """Whether this process is one of several."""
    from torch import distributed

    return bool(distributed.is_torchelastic_launched())


def is_first() -> bool:
    """Whether this process speaks for all."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def leave() -> None:
    """Ends the bond between the processes."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def stop_requests() -> Callable[[], bool]:
    """Turns Ctrl-C and SIGTERM into an answer of True."""
    is_stopping = False

    def request_stop(*_: object) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    return lambda: is_stopping
