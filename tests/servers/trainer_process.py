"""A trainer with the model that learns by counting; it goes on learning while a file is there.

python -m tests.servers.trainer_process DATABASE_URL FOLDER
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import SchedulePolicy
from backend.learning.session import TrainingSession
from backend.learning.training_runs import RunRepository
from backend.learning.worker import Trainer
from backend.storage.store import open_store
from backend.storage.versions import Versions
from tests.integration.counting_model import CountingUpdater


class LingeringUpdater(CountingUpdater):
    """Does not end an update while the file is there."""

    def __init__(self, file):
        self._file = file

    def update(self, *arguments, stop, **options):
        while self._file.exists():
            if stop():
                return None
            threading.Event().wait(0.05)
        return super().update(*arguments, stop=stop, **options)


def train(database_url, folder):
    store = open_store(database_url, is_guest=True, commit_timeout_s=30)
    repository = CorrectionRepository(store)
    derivation = Derivation(repository)
    versions = Versions(store, folder / "adapters")
    runs = RunRepository(store)

    def open_session():
        updater = LingeringUpdater(folder / "lingering")
        return TrainingSession(repository, derivation, None, versions, runs, updater)

    policy = SchedulePolicy(every=1, age_s=0, pause_s=0, attempts=10**6)
    trainer = Trainer(repository, derivation, versions, runs, open_session, policy=policy)
    trainer.run(threading.Event(), tick_s=1.0)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
