"""A model for workers that predict a project, which notes what it begins, and drawn images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.cli.prelabel_project import ProjectWork
from calico_model.types import ImageGroup
from tests.integration.counting_model import FakeAdapted, FakeBase
from tests.unit.cli.prelabel_double import NotingModel


class TaskImages:
    """Images that no two tasks share: what is predicted for equal pixels is kept."""

    def fetch_group(self, task):
        images = [np.full((8, 8, 3), task.id, np.uint8) for _ in task.image_urls]
        return ImageGroup(tuple(images), tuple(f"image {n}" for n in range(len(images))))


class NotingBase(FakeBase):
    """A base that takes adapters, notes what it begins, and waits where the test says so."""

    def __init__(self, log: Path, gate: Path):
        self._noting = NotingModel(log, gate)

    def predict(self, group):
        self._noting.predict(group)
        return super().predict(group)

    def with_adapter(self, version, folder):
        known = super().with_adapter(version, folder)
        return NotingVersion(known.version, known.score, self._noting)


class NotingVersion(FakeAdapted):
    def __init__(self, version, score, noting):
        super().__init__(version, score)
        self._noting = noting

    def predict(self, group):
        self._noting.predict(group)
        return super().predict(group)


def begin_noting(log, gate, settings, project_id, version):
    """What a worker of a project does, with a noting model and drawn images."""
    return ProjectWork(
        settings, project_id, version, load=lambda: NotingBase(log, gate), images=TaskImages()
    )
