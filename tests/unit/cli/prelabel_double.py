"""A model for workers of a large job: it notes what it begins, and waits where the test says so."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np

from calico_model.errors import InvalidImageError
from calico_model.types import GroupPrediction, PartMask, RegionKind


class NotingModel:
    """Sees one region in every group.

    Args:
        log: gets a line for every group that is begun.
        gate: its text is how many groups may be begun before all wait; everything without it.
    """

    version = "noting-1"

    def __init__(self, log: Path, gate: Path):
        self._log, self._gate = log, gate

    def begin(self):
        """Notes a group, and waits at the gate."""
        with self._log.open("ab") as file:
            file.write(b".\n")
        while lines_of(self._log) > self._most():
            time.sleep(0.005)

    def _most(self):
        try:
            return int(self._gate.read_text() or 0)
        except FileNotFoundError:  # the gate may be taken away at any moment
            return math.inf

    def predict(self, group):
        if group.sizes_hw[0][1] == 13:
            raise SystemExit(9)  # as if the memory was full
        self.begin()
        mask = np.zeros(group.sizes_hw[0], bool)
        mask[:2, :2] = True
        return GroupPrediction((PartMask(0, RegionKind.COMMON_PART, "lid", mask),), self.version)


def load_noting(log, gate):
    return NotingModel(log, gate)


def load_first(started, log, gate):
    """Loads the model of the first worker; the others wait while the gate is there."""
    with started.open("a") as file:
        file.write(f"{os.getpid()}\n")
    while lines_of(started) > 1 and gate.exists():
        time.sleep(0.005)
    return NotingModel(log, gate)


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


class TogetherModel(NotingModel):
    """Notes how many groups it is asked about at once, and refuses some of them."""

    def predict_groups(self, groups):
        with self._log.with_suffix(".together").open("a") as file:
            file.write(f"{len(groups)}\n")
        if any(group.sizes_hw[0][1] == 11 for group in groups):
            raise InvalidImageError("a picture that is refused")
        return [self.predict(group) for group in groups]

    def predict(self, group):
        if group.sizes_hw[0][1] == 11:
            raise InvalidImageError("a picture that is refused")
        return super().predict(group)


def load_together(log, gate):
    return TogetherModel(log, gate)


class GatedModel(NotingModel):
    """The shipped model, behind the gate."""

    def __init__(self, log: Path, gate: Path):
        from backend.cli.prelabel import load_model  # takes a worker with no model a second

        super().__init__(log, gate)
        self._real = load_model(None, "cpu", 1)
        self.version = self._real.version

    def predict(self, group):
        self.begin()
        return self._real.predict(group)


def load_gated(log, gate):
    return GatedModel(log, gate)
