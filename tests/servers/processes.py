"""Processes that tests of several servers start, in a group of their own, and end for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

IN_CONTAINER = ["unshare", "--uts", "--pid", "--fork", "--kill-child"]


@contextmanager
def running(module, *arguments, host=None, **environment):
    """Runs `python -m module` while the block runs; its standard output can be read by line.

    `host` gives it a host name and a process namespace of its own, as a container has.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if host is not None:
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', host, *command]
        command = [*IN_CONTAINER, *named]
    own = {k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_"))}
    places = [str(ROOT), *filter(None, [own.get("PYTHONPATH")])]
    own |= {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=own | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
