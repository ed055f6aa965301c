"""Trials of the gate with good and poisoned batches of corrections, a real model, real updates.

Every step from a webhook's body to the decision is the product's code: journal, derivation,
held-out split, update, measurement, verdict. Only the images are not fetched: they are drawn, or
read from a set of photographs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from backend.label_studio.event import parse_events
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.result import render_prediction
from backend.learning.derivation import Derivation
from backend.learning.publisher import roll_back
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import Cause, RunState
from backend.learning.session import TrainingSession, Updater
from backend.learning.training_runs import RunRepository
from backend.storage.store import Store
from backend.storage.versions import Versions
from backend.types import Task
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, LabeledGroup, PartMask
from research.label_studio.sample import REPEATER_CONFIG, annotation_body, deletion_body

_SCHEMA = parse_label_config(REPEATER_CONFIG)


class Batch(StrEnum):
    """Batch of corrections whose candidate the gate judges.

    FIRST is learned from the base; GOOD and POISONED are learned from the version of FIRST.
    """

    FIRST = "first"
    POISONED = "poisoned"
    GOOD = "good"


class Poison(StrEnum):
    """Defect of a poisoned batch: random masks, shuffled labels, or both."""

    MASKS = "masks"
    LABELS = "labels"
    BOTH = "both"


@dataclass(frozen=True)
class Sizes:
    """Numbers of tasks in the first batch, and in the poisoned and good batches."""

    first: int = 10
    then: int = 5


@dataclass(frozen=True)
class Trial:
    """One decision of the gate.

    Attributes:
        seed: of the images and of the poison.
        source: where the images are from: a split of drawings, or a set of photographs.
        batch: batch that was learned.
        state: final state of the training run.
        reason: sentence of the gate, or why the run failed.
        gate: measurements of the gate, as `calico versions` shows them.
        seconds: duration of the run.
    """

    seed: int
    source: str
    batch: Batch
    state: RunState
    reason: str
    gate: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, eq=False)
class ProjectGroups:
    """The groups of one project.

    Attributes:
        seed: of all random choices.
        source: where they are from, see `Trial`.
        groups: the tasks, in the order in which they are annotated.
    """

    seed: int
    source: str
    groups: Sequence[LabeledGroup]


class TaskImages:
    """Images of the tasks of one project, by task id."""

    def __init__(self) -> None:
        self.groups: dict[int, LabeledGroup] = {}

    def fetch_group(self, task: Task) -> ImageGroup:
        """Returns the images of a task."""
        return self.groups[task.id or 0].group


def run_trials(
    store: Store,
    folder: Path,
    images: TaskImages,
    updater: Updater,
    groups: ProjectGroups,
    *,
    poison: Poison,
    sizes: Sizes,
    on_run: Callable[[Batch], None],
) -> Iterator[Trial]:
    """Trains one project on a first batch, a poisoned batch, and a good batch in its place.

    Args:
        store: the database; project `groups.seed + 1` is used.
        folder: of all adapters.
        images: from which `updater` fetches the images.
        updater: the model.
        groups: of the project, enough for both batches.
        poison: defect of the poisoned batch.
        sizes: of the batches.
        on_run: called with the batch before each training.
    """
    project = _Project(store, folder, images, updater, groups)
    first = project.open(0, sizes.first)
    second = project.open(sizes.first, sizes.then)
    rng = np.random.default_rng([groups.seed, 17])
    bad = _poisoned(second, poison, rng)
    for batch, truths in ((Batch.FIRST, first), (Batch.POISONED, bad), (Batch.GOOD, second)):
        on_run(batch)
        annotated = project.annotate(truths)
        trial = project.learn(batch)
        if batch is Batch.POISONED:
            project.withdraw(annotated, is_published=trial.state is RunState.PUBLISHED)
        yield trial


class _Project:
    """One project of the bench."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        images: TaskImages,
        updater: Updater,
        groups: ProjectGroups,
    ) -> None:
        self._store, self._images, self._groups = store, images, groups
        self._id = groups.seed + 1
        self._versions, self._runs = Versions(store, folder), RunRepository(store)
        repository = CorrectionRepository(store)
        derivation = Derivation(repository)
        self._session = TrainingSession(
            repository, derivation, None, self._versions, self._runs, updater
        )
        self._annotations = 0

    def open(self, skipped: int, count: int) -> dict[int, LabeledGroup]:
        """Opens `count` groups after the first `skipped`; returns them by task id."""
        groups = self._groups.groups
        opened = {1 + number: groups[number] for number in range(skipped, skipped + count)}
        self._images.groups |= opened
        return opened

    def annotate(self, truths: Mapping[int, LabeledGroup]) -> list[int]:
        """Submits an annotation with the truth of every task; returns the annotations' ids."""
        annotation_ids = []
        for task_id, labeled in truths.items():
            self._annotations += 1
            body = annotation_body(
                self._annotations,
                _results(labeled),
                urls=[f"/{self._id}/{task_id}/{name}" for name in labeled.group.ids],
                task_id=task_id,
                project_id=self._id,
            )
            self._store.record_events(parse_events(json.dumps(body).encode()))
            annotation_ids.append(self._annotations)
        return annotation_ids

    def withdraw(self, annotations: Sequence[int], *, is_published: bool) -> None:
        """Deletes annotations, and rolls back the version that learned from them."""
        if is_published:
            roll_back(self._versions, self._id, to=None, reason="it learned from poison")
        for annotation_id in annotations:
            body = deletion_body(annotation_id, project_id=self._id)
            self._store.record_events(parse_events(json.dumps(body).encode()))

    def learn(self, batch: Batch) -> Trial:
        """Trains once; returns the decision of the gate."""
        began = time.monotonic()
        run_id = self._runs.claim(self._id, Cause.REQUEST)
        assert run_id is not None
        state = self._session.train(self._id, run_id, stop=lambda: False)
        (run, *_) = self._runs.runs(self._id)
        version = None if run.adapter_id is None else self._versions.find(run.adapter_id)
        return Trial(
            self._groups.seed,
            self._groups.source,
            batch,
            state,
            run.error or "" if version is None else version.reason or "",
            {} if version is None else version.gate,
            time.monotonic() - began,
        )


def _results(labeled: LabeledGroup) -> list[dict[str, object]]:
    """Label Studio results of an annotation with the true regions of a group."""
    truth = GroupPrediction(parts=labeled.parts, version="annotator")
    rendered = render_prediction(truth, _SCHEMA, sizes_hw=labeled.group.sizes_hw)
    results: list[dict[str, object]] = json.loads(rendered.result)
    return results


def _poisoned(
    truths: Mapping[int, LabeledGroup], poison: Poison, rng: np.random.Generator
) -> dict[int, LabeledGroup]:
    """The same tasks with regions in random places, with exchanged labels, or with both."""
    names = [part.label for labeled in truths.values() for part in labeled.parts]
    if poison is not Poison.MASKS:
        names = [names[place] for place in rng.permutation(len(names))]
    remaining_names = iter(names)
    poisoned = {}
    for task_id, labeled in truths.items():
        parts = []
        for part in labeled.parts:
            mask = part.mask if poison is Poison.LABELS else _ellipse(part.mask, rng)
            parts.append(
                PartMask(
                    part.image_index, part.kind, next(remaining_names), mask, part.object_label
                )
            )
        poisoned[task_id] = LabeledGroup(labeled.group, tuple(parts))
    return poisoned


def _ellipse(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """An ellipse of the same area in a random place of the image."""
    height, width = mask.shape
    ratio = float(np.exp(rng.normal(0, 0.5)))
    radius = float(np.sqrt(max(int(mask.sum()), 64) / np.pi))
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    rows, columns = np.ogrid[:height, :width]
    tall, wide = radius * ratio, radius / ratio
    ellipse: BoolMask = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 <= 1
    return ellipse if ellipse.any() else mask[::-1, ::-1].copy()
