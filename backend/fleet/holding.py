"""Holds the processes of a fleet: waits, starts again what it is told to, and ends them.

The holding process never connects to Ray itself: a process that is connected ends with its node.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from backend.errors import FleetError
from backend.fleet.machine import FleetFolder, is_ready, restart_in_turn, wait_until
from backend.learning.supervisor import TrainerWatch

_POLL_S, _AGAIN_S = 0.5, 5.0


class HoldingEvents:
    """What the holding process is told: by signals, and by the end of the head."""

    def __init__(self) -> None:
        self.stop, self.restart_web = threading.Event(), threading.Event()
        self.redeploy = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self.restart_web.set())


def start_watch(
    command: list[str], name: str, on_death: Callable[[], None] = lambda: None
) -> TrainerWatch:
    """Starts a process, and starts it again whenever it ends; `name` is for messages."""
    watch = TrainerWatch(command, name=name, on_death=lambda _status: on_death())
    watch.start()
    return watch


def hold(
    servers: Sequence[tuple[int, TrainerWatch]],
    events: HoldingEvents,
    redeploy: Callable[[], None],
    ready_message: str,
    say: Callable[[str], None],
) -> None:
    """Waits for the end; puts replicas in place and restarts web servers when it is told to.

    What fails is tried again: the head may have died meanwhile, and comes back.

    Args:
        servers: pairs of port and watch.
        events: what it is told.
        redeploy: puts replicas and trainers in place.
        ready_message: printed once everything answers for the first time.
        say: tells people.
    """
    is_first = True
    while not events.stop.is_set():
        try:
            if events.redeploy.is_set():
                events.redeploy.clear()
                redeploy()
                if not is_first:  # web servers of the old cluster must connect to the new one
                    events.restart_web.set()
            if is_first:
                _announce(servers, events.stop, ready_message, say)
                is_first = False
            if events.restart_web.is_set():
                events.restart_web.clear()
                restart_in_turn(servers, events.stop, is_ready)
        except subprocess.CalledProcessError:  # it has said why
            events.redeploy.set()
            events.stop.wait(_AGAIN_S)
        except FleetError as error:
            if not events.stop.is_set():
                say(f"calico: {error}")
        events.stop.wait(_POLL_S)


def _announce(
    servers: Sequence[tuple[int, TrainerWatch]],
    stop: threading.Event,
    ready_message: str,
    say: Callable[[str], None],
) -> None:
    for port, _ in servers:
        wait_until(lambda port=port: is_ready(port), f"port {port}", stop)  # type: ignore[misc]
        say(f"ready at http://127.0.0.1:{port}")
    say(f"{ready_message}; Ctrl-C ends it")


def end_all(watches: Sequence[TrainerWatch], folder: FleetFolder) -> None:
    """Ends web servers before the node they ask through, then what is left."""
    for watch in reversed(watches):
        watch.close()
    folder.clear()
    folder.state_file.unlink(missing_ok=True)
