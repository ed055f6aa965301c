"""A store, a folder of adapters, a model that learns by counting, and a trainer of them."""

from __future__ import annotations

import threading

from backend.label_studio.event import parse_events
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import AcceptancePolicy, SchedulePolicy, is_held_out
from backend.learning.session import TrainingSession
from backend.learning.training_runs import RunRepository
from backend.learning.worker import Trainer
from backend.storage.store import open_store
from backend.storage.versions import Versions
from tests.unit.learning.annotated import box, event, results
from tests.unit.learning.fake_updater import FakeUpdater

PROJECT = 7
# Tasks that are learned from, and those that are kept for testing behind the first ones.
TRAINED = [task for task in range(1, 60) if not is_held_out(PROJECT, task)]
HELD_OUT = [task for task in range(1, 60) if is_held_out(PROJECT, task)]
REGIONS = results(("a", box(10, 10, 30, 40), "lid"), ("b", box(0, 50, 5, 60), "rim"))


class School:
    """A store, a folder of adapters, a fake model and a trainer."""

    def __init__(self, folder, reconciler=None, url=None, **policy):
        self.store = open_store(
            url or f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30
        )
        self.repository = CorrectionRepository(self.store)
        self.derivation = Derivation(self.repository)
        self.versions = Versions(self.store, folder / "adapters")
        self.runs = RunRepository(self.store)
        self.updater = FakeUpdater()
        self.reconciler = reconciler
        self.stop = threading.Event()
        self.start_from = None
        usual = {"every": 3, "age_s": 1e9, "pause_s": 0.0, "refinements": 0}
        self.policy = SchedulePolicy(**usual | policy)
        self.trainer = self.new_trainer()

    def new_trainer(self, **options):
        return Trainer(
            self.repository,
            self.derivation,
            self.versions,
            self.runs,
            self.open_session,
            policy=self.policy,
            acceptance=AcceptancePolicy(window=10, least_tasks=3, margin=0.15),
            heartbeat_s=0.02,
            start_from=self.start_from,
            **options,
        )

    def open_session(self):
        return TrainingSession(
            self.repository,
            self.derivation,
            self.reconciler,
            self.versions,
            self.runs,
            self.updater,
            start_from=self.start_from,
        )

    def correct(self, *tasks, project=PROJECT, second=0, drawn=REGIONS, parent=None):
        self.store.record_events(
            [
                event(100 + t, drawn, task=t, project=project, second=second, parent=parent)
                for t in tasks
            ]
        )

    def press_button(self, project=PROJECT):
        body = b'{"action": "START_TRAINING", "project": {"id": %d}}' % project
        self.store.record_events(parse_events(body))

    def train(self):
        return self.trainer.round(self.stop)

    @property
    def current(self):
        return self.versions.current(PROJECT)

    @property
    def last(self):
        return self.runs.runs(PROJECT)[0]
