"""The one stand-in for a model that learns: its adapter is a list of the tasks it has learned."""

from __future__ import annotations

import json
import threading

from backend.learning.gate import Quality
from calico_model.errors import CheckpointError
from calico_model.staging import staged_folder


class FakeUpdater:
    """Quality rises by `gain` points per learned task.

    Attributes:
        gain: negative for a poisoned batch.
        forgets: points of base quality lost per learned task.
        better: how many tasks a refinement is worth; 0 makes nothing better.
        agrees: what it says of how far corrections can be predicted from each other.
        broken: its adapters cannot be loaded.
        is_learning: set as soon as an update begins.
        gate: an update ends once it is set, or it is stopped.
        calls: what was asked, in order.
        seconds: of learning, per update.
    """

    base = "b" * 64
    base_version = "calico-tiny-1234"

    def __init__(self, gain=5.0, forgets=0.0, broken=False):
        self.gain, self.forgets, self.broken = gain, forgets, broken
        self.better, self.agrees = 0, None
        self.is_learning, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.calls, self.seconds = [], []

    @property
    def updates(self):
        """Per update the new tasks, the earlier ones and whether it went on from a version."""
        return [call[1:] for call in self.calls if call[0] == "update"]

    def update(self, new, earlier, *, start, on_progress, stop, seconds=None):
        ids = [[task.correction.task.id for task in tasks] for tasks in (new, earlier)]
        self.calls.append(("update", *map(tuple, ids), start is not None))
        self.seconds.append(seconds)
        self.is_learning.set()
        while not self.gate.wait(0.005):
            if stop():
                return None
        on_progress(0.5, 1.0)
        learned = [] if start is None else json.loads((start / "learned.json").read_text())
        more = [] if new else [-len(learned) - n for n in range(self.better)]

        def write(folder):
            with staged_folder(folder) as staged:
                (staged / "learned.json").write_text(json.dumps(sorted({*learned, *ids[0], *more})))

        return write

    def measure(self, adapter, tasks):
        ids = tuple(task.correction.task.id for task in tasks)
        self.calls.append(("measure", adapter is not None, ids))
        return self._quality(40 + self.gain * self._count(adapter), len(ids))

    def probe(self, adapter, tasks):
        return self._quality(70 - self.forgets * self._count(adapter), 12)

    def agreement(self, new, earlier):
        return self.agrees

    def _count(self, adapter):
        if adapter is None:
            return 0
        if self.broken:
            raise CheckpointError("adapter: cam.weight: wrong shape or values")
        return len(json.loads((adapter / "learned.json").read_text()))

    @staticmethod
    def _quality(points, groups):
        points = min(100.0, max(0.0, points))
        return Quality(points, points, groups)
