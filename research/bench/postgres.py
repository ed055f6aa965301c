"""A PostgreSQL to measure and test with: from installed binaries, on loopback, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.cli.label_studio_process import free_port

UNPRIVILEGED = "postgres"
"""The server refuses to run as root."""


def find_binaries() -> Path | None:
    """Folder of initdb and pg_ctl, newest version first: Debian's places, then PATH."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    versions = sorted(debian, key=lambda path: int(path.parts[-3]), reverse=True)
    on_path = shutil.which("initdb")
    found = [*versions, *([] if on_path is None else [Path(on_path)])]
    return found[0].resolve().parent if found else None


@contextmanager
def running_postgres(binaries: Path, folder: Path) -> Iterator[str]:
    """Yields the SQLAlchemy URL of an empty database; `folder` must not exist yet.

    The server runs as another user when this process is root's, so every parent of the folder must
    be open to all.
    """
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
    data = folder / "data"
    _run(binaries / "initdb", "-D", data, "-U", "calico", "-A", "trust", "-E", "UTF8")
    port = free_port()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
    control = (binaries / "pg_ctl", "-D", data, "-w", "-t", "60")
    _run(*control, "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://calico@127.0.0.1:{port}/postgres"
    finally:
        _run(*control, "-m", "immediate", "stop")


def restart_postgres(binaries: Path, folder: Path) -> None:
    """Stops a server of `running_postgres` as a power cut would, and starts it again."""
    control = (binaries / "pg_ctl", "-D", folder / "data", "-w", "-t", "60", "-l", folder / "log")
    _run(*control, "-m", "immediate", "restart")


def _run(*command: object) -> None:
    subprocess.run(
        [str(word) for word in command],
        user=UNPRIVILEGED if os.geteuid() == 0 else None,
        group=UNPRIVILEGED if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
