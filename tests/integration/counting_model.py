"""A model that is quick and learns by counting, for processes that are killed.

An adapter says of every task which state of its correction it has learned; every answer shows a
number made from that content, so that an answer of one version under the name of another is seen.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading

from backend.clock import to_us
from backend.learning.gate import Quality
from calico_model.errors import CheckpointError
from calico_model.staging import staged_folder
from calico_model.types import GroupPrediction
from tests.doubles import ModelDouble
from tests.integration.fake_predictor import FakePredictor

BASE = "fake-00000001"
FILES = ("learned.json", "rest.json")


def shown(content: bytes) -> float:
    """The score an adapter of this content answers with."""
    return round(0.1 + 0.8 * int(hashlib.sha256(content).hexdigest()[:4], 16) / 0xFFFF, 4)


def predict(group, version, score):
    """One region on every image; its score tells who answered."""
    found = FakePredictor().predict(group)
    parts = tuple(
        type(part)(part.image_index, part.kind, part.label, part.mask, "box", part.part_id, score)
        for part in found.parts
    )
    return GroupPrediction(parts=parts, version=version)


class FakeBase(ModelDouble):
    """The base, which takes adapters of the counting updater."""

    version = BASE

    def predict(self, group):
        return predict(group, BASE, 1.0)

    def with_adapter(self, version, folder):
        for name in FILES:
            if not (folder / name).read_bytes().endswith(b"}"):
                raise CheckpointError("half an adapter")
        return FakeAdapted(version, shown((folder / FILES[0]).read_bytes()))


class FakeAdapted(ModelDouble):
    def __init__(self, version, score):
        self.version, self.score = version, score

    def predict(self, group):
        return predict(group, self.version, self.score)


class CountingUpdater:
    """Keeps task -> time of the corrected state; one candidate in four is found to be worse."""

    base = "b" * 64
    base_version = BASE

    def update(self, new, earlier, *, start, on_progress, stop, seconds=None):
        learned = {} if start is None else json.loads((start / FILES[0]).read_text())
        learned |= {
            str(task.correction.task.id): to_us(task.correction.updated_at)
            for task in (*earlier, *new)
        }
        for done in range(10):
            if stop():
                return None
            on_progress(done / 10, 0.1)
            threading.Event().wait(0.003)

        def write(folder):
            with staged_folder(folder) as staged:
                (staged / FILES[0]).write_text(json.dumps(learned))
                half_written()
                (staged / FILES[1]).write_text("{}")

        return write

    def measure(self, adapter, tasks):
        if adapter is not None and random.random() < 0.25:
            return Quality(10, 10, len(tasks))
        learned = {} if adapter is None else json.loads((adapter / FILES[0]).read_text())
        known = sum(
            learned.get(str(task.correction.task.id)) == to_us(task.correction.updated_at)
            for task in tasks
        )
        score = 40 + 20 * known / max(1, len(tasks))
        return Quality(score, score, len(tasks))

    def probe(self, adapter, tasks):
        return Quality(70, 70, 12)

    def agreement(self, new, earlier):
        return None


def half_written():
    """Is called between the two files of an adapter."""
