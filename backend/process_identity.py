"""The name of this process among all that share a database, and whether another one has ended.

Two containers of one machine may have equal host names and equal process numbers. So a name also
holds the boot of the machine and the number of the process namespace; a process can be checked only
from within its own namespace.
"""

from __future__ import annotations

import os
import secrets
import socket
from functools import cache
from pathlib import Path

from calico_model.staging import is_alive

_SUFFIX = secrets.token_hex(4)
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def owner_name() -> str:
    """Returns the name of this process: machine, process number, random suffix."""
    return f"{machine_name()}/{os.getpid()}/{_SUFFIX}"


def is_gone(owner: str) -> bool:
    """Whether a process has certainly ended; False if it cannot be checked from here."""
    machine, _, rest = owner.partition("/")
    process = rest.partition("/")[0]
    if machine != machine_name() or not process.isdecimal():
        return False
    # Our own number under another name: in a container it is the same after every restart.
    is_reused = int(process) == os.getpid() and owner != owner_name()
    return is_reused or not is_alive(int(process))


def machine_name() -> str:
    """Returns host name, boot and process namespace; equal names can see each other's processes."""
    return f"{socket.gethostname()}:{_boot()}:{_namespace()}"


@cache
def _boot() -> str:
    try:
        return _BOOT.read_text().strip().replace("-", "")[:12]
    except OSError:  # not Linux: no containers share the host name
        return "0"


def _namespace() -> str:
    try:
        return f"{_NAMESPACE.stat().st_ino:x}"
    except OSError:
        return "0"
