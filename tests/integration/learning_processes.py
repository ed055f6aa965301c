"""A server and a trainer as real processes, with the model that learns by counting.

A nursery: it has imported everything and forks a server or a trainer for every line it reads, so
that what is killed a thousand times starts in no time.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import threading
from pathlib import Path

from backend._wsgi import Server
from backend.app import create_app
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import SchedulePolicy
from backend.learning.session import TrainingSession
from backend.learning.training_runs import RunRepository
from backend.learning.worker import Trainer
from backend.serving.logs import start_logging
from backend.settings import load_settings
from backend.storage.store import open_store
from backend.storage.versions import Versions
from tests.integration.conftest import DrawnImages
from tests.integration.counting_model import CountingUpdater, FakeBase
from tests.integration.killing_points import install

_CHILD_SUBREAPER = 36  # prctl(2)


def serve(port, data_dir):
    """Runs a server until it is stopped."""
    settings = load_settings(port=port, data_dir=data_dir, log_level="ERROR")

    class FakeServer(Server):
        def load(self):
            return create_app(settings, load=FakeBase, images=DrawnImages())

    FakeServer(settings).run()


def train(data_dir):
    """Runs a trainer until it is stopped."""
    settings = load_settings(data_dir=data_dir)
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    repository = CorrectionRepository(store)
    derivation = Derivation(repository)
    versions = Versions(store, settings.adapters_dir)
    runs = RunRepository(store)

    def open_session():
        return TrainingSession(repository, derivation, None, versions, runs, CountingUpdater())

    policy = SchedulePolicy(every=1, age_s=0, pause_s=0, attempts=10**6)
    trainer = Trainer(
        repository, derivation, versions, runs, open_session, policy=policy, heartbeat_s=0.5
    )
    trainer.run(threading.Event(), tick_s=0.02)


def nursery(data_dir):
    """Forks a process for every {"name": ..., "port": ...} read, and collects those {"gone": ...}.

    Each is a group of its own; what it leaves behind when it is killed becomes ours, so that its
    end can be waited for.
    """
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    start_logging("ERROR")
    for line in sys.stdin:
        order = json.loads(line)
        if "gone" in order:
            answer = {"gone": _collect(order["gone"])}
        else:
            answer = {"process": _fork(order, data_dir)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork(order, data_dir):
    process = os.fork()
    # In both, so that whoever is told the number finds the group.
    os.setpgid(process, process)
    if process:
        return process
    try:
        random.seed()
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 0)
        os.dup2(quiet, 1)
        install(order["name"], Path(data_dir) / f"aim-{order['name']}")
        if order["name"] == "web":
            serve(order["port"], data_dir)
        else:
            train(data_dir)
    finally:
        os._exit(1)


def _collect(group):
    """Waits for every process of a group; returns how many there were."""
    count = 0
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return count
        count += 1


if __name__ == "__main__":
    nursery(sys.argv[1])
