"""Who a trainer is, to the others that share its database."""

from __future__ import annotations

import os
import secrets
import socket

_WORD = secrets.token_hex(4)


def owner_name() -> str:
    """Names this process to other trainers: machine, process number, and a word of its own."""
    return f"{_host()}/{os.getpid()}/{_WORD}"


def is_gone(owner: str) -> bool:
    """Whether a trainer has certainly ended; False where its process cannot be seen from here."""
    host, _, rest = owner.partition("/")
    process = rest.partition("/")[0]
    if host != _host() or not process.isdecimal():
        return False
    # Our own number under another name: in a container it is the same after every restart.
    is_reused = int(process) == os.getpid() and owner != owner_name()
    return is_reused or not _is_alive(int(process))


def _host() -> str:
    return socket.gethostname()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
