"""A server and a trainer as real processes, with a model that is quick and learns by counting.

An adapter is the list of the tasks it has learned; every answer shows a number made from that list,
so that an answer of one version under the name of another is seen.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from dataclasses import dataclass

from backend.label_studio.sample import PROJECT_ID
from backend.learning.schedule import SchedulePolicy
from calico_model.errors import CheckpointError
from calico_model.types import GroupPrediction

BASE = "fake-00000001"


def shown(content: bytes) -> float:
    """The score an adapter of this content answers with."""
    return round(0.1 + 0.8 * int(hashlib.sha256(content).hexdigest()[:4], 16) / 0xFFFF, 4)


def predict(group, version, score):
    """One region on every image; its score tells who answered."""
    from fake_predictor import FakePredictor

    found = FakePredictor().predict(group)
    parts = tuple(
        type(part)(part.image_index, part.kind, part.label, part.mask, "box", part.part_id, score)
        for part in found.parts
    )
    return GroupPrediction(parts=parts, version=version)


class FakeBase:
    """The base, which takes adapters of the fake updater."""

    version = BASE

    def predict(self, group):
        return predict(group, BASE, 1.0)

    def with_adapter(self, version, folder):
        content = (folder / "learned.json").read_bytes()
        if not content.endswith(b"]"):
            raise CheckpointError("half an adapter")
        return FakeAdapted(version, shown(content))


@dataclass
class FakeAdapted:
    version: str
    score: float

    def predict(self, group):
        return predict(group, self.version, self.score)


def serve(port, data_dir):
    """Runs a server until it is stopped."""
    from conftest import DrawnImages

    from backend._wsgi import Server
    from backend.serving.app import create_app
    from backend.settings import load_settings

    settings = load_settings(port=port, data_dir=data_dir, log_level="ERROR")

    class FakeServer(Server):
        def load(self):
            return create_app(settings, load=FakeBase, images=DrawnImages())

    FakeServer(settings).run()


def train(data_dir):
    """Runs a trainer until it is stopped."""
    from fake_updater import FakeUpdater

    from backend.learning.derivation import Derivation
    from backend.learning.repository import CorrectionRepository
    from backend.learning.runs import RunRepository
    from backend.learning.training import TrainingSession
    from backend.learning.worker import Trainer
    from backend.serving.logs import start_logging
    from backend.settings import load_settings
    from backend.store import open_store
    from backend.versions import Versions

    start_logging("ERROR")
    settings = load_settings(data_dir=data_dir)
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    repository = CorrectionRepository(store)
    derivation = Derivation(repository)
    versions = Versions(store, settings.adapters_dir)
    runs = RunRepository(store)

    class SlowUpdater(FakeUpdater):
        base_version = BASE

        def update(self, *arguments, **options):
            time.sleep(0.03)
            return super().update(*arguments, **options)

    def open_session():
        return TrainingSession(repository, derivation, None, versions, runs, SlowUpdater(gain=0.01))

    policy = SchedulePolicy(every=1, age_s=0, pause_s=0, attempts=10**6)
    trainer = Trainer(repository, derivation, versions, runs, open_session, policy=policy)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    trainer.run(threading.Event(), tick_s=0.02)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        train(sys.argv[2])

__all__ = ["BASE", "PROJECT_ID", "shown"]
