"""A simulated annotator at a real backend: predict, correct, webhook, train, next, all over HTTP.

The loop does what Label Studio and its editor do between the backend and a person, and nothing
else: it sends the same bodies to the same routes, and waits for the version that /setup announces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from backend.errors import BackendError
from backend.label_studio.label_config import parse_label_config
from backend.learning.schedule import RunState
from backend.serving.jobs import content_key
from backend.types import Region, RegionOrigin
from calico_model.types import (
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
    Supervision,
)
from research.label_studio.editor import (
    Drawn,
    ShownPrediction,
    SimulatedProject,
    annotation_event,
    predict_request,
    read_answer,
    setup_request,
    training_event,
)
from research.label_studio.sample import local_file_url
from research.simulation.oracle import Edit, oracle_edits

_POLL_S = 0.2
_PATIENCE_S = 900.0
_ENDED = (RunState.PUBLISHED, RunState.REJECTED, RunState.FAILED)


class LiveLoopError(BackendError):
    """The backend gives no answer, or not the answer of a backend that learns."""


@dataclass(frozen=True)
class LiveTask:
    """A task of the project.

    Attributes:
        id: number of the task.
        urls: of the images.
    """

    id: int
    urls: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A prediction as the editor shows it."""

    task: LiveTask
    prediction: GroupPrediction
    regions: Mapping[int, Region]  # id() of a part -> the region behind it


class LiveLoop:
    """A `LearningLoop` over HTTP.

    Args:
        client: of the backend, credentials included.
        files: folder from which the backend reads local files.
        project: a project that only this loop uses.
        clock: monotonic seconds.
        on_training: called with the stage and the finished share of a training, and with its end.
        settle_s: seconds to wait for better versions that follow the first version of a training.

    Attributes:
        outcomes: final states of the trainings that this loop started.
    """

    def __init__(
        self,
        client: httpx.Client,
        files: Path,
        project: SimulatedProject,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_training: Callable[[str, float], None] = lambda _what, _share: None,
        settle_s: float = 0.0,
    ) -> None:
        self._client, self._files, self._project = client, files, project
        self._schema = parse_label_config(project.label_config)
        self._clock, self._on_training = clock, on_training
        self._settle_s = settle_s
        self.outcomes: list[str] = []
        self._tasks: dict[str, LiveTask] = {}
        self._canvas: _Canvas | None = None
        self._submitted = 0
        self._last: ImageGroup | None = None
        self.version = self._announced()

    def import_tasks(
        self, groups: Iterable[LabeledGroup], *, on_task: Callable[[int], None] = lambda _done: None
    ) -> None:
        """Writes the images of groups into the backend's folder; each group becomes a task."""
        for number, labeled in enumerate(groups, start=1):
            key = content_key(labeled.group)
            urls = tuple(self._write(key, n, image) for n, image in enumerate(labeled.group.images))
            self._tasks.setdefault(key, LiveTask(len(self._tasks) + 1, urls))
            on_task(number)

    @property
    def tasks(self) -> tuple[LiveTask, ...]:
        """Imported tasks, in order."""
        return tuple(self._tasks.values())

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Opens the task of a group and returns its prediction.

        Raises:
            LiveLoopError: no answer, or an answer without a prediction.
        """
        task = self._tasks[content_key(group)]
        shown = self._open(task)
        linked: dict[str, str] = {}
        for first, second in shown.same_part:
            linked[second] = linked.setdefault(first, first)
        parts = [(_part(region, linked.get(region.id)), region) for region in shown.regions]
        prediction = GroupPrediction(tuple(part for part, _ in parts), shown.version)
        self._canvas = _Canvas(task, prediction, {id(part): region for part, region in parts})
        self.version, self._last = shown.version, group
        return prediction

    def correct(self, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        """Corrects the task that was opened last, and submits it."""
        canvas = self._canvas
        if canvas is None or canvas.prediction is not prediction:
            raise LiveLoopError("expected the prediction that was opened last")
        self._submitted += 1
        edits = oracle_edits(labeled, prediction)
        body = annotation_event(
            self._project,
            canvas.task.id,
            canvas.task.urls,
            _annotation(prediction, edits, canvas.regions),
            schema=self._schema,
            annotation_id=self._submitted,
            updated_at=datetime.now(UTC),
            parent_prediction_id=self._submitted,
        )
        self._post("/webhook", body)

    def learn(self) -> float:
        """Presses the training button and waits for the outcome.

        Returns:
            Seconds from the button to the first answer of the new version, or to its rejection; 0
            if all corrected tasks are held out.

        Raises:
            LiveLoopError: the training failed, or nothing trains.
        """
        known = self._wait(lambda status: status["corrections"] >= self._submitted)
        if not known["new"]:
            return 0.0
        last_run = -1 if known["run"] is None else known["run"]["id"]
        began = self._clock()
        self._post("/webhook", training_event(self._project))
        outcome = self._wait(lambda status: _has_ended(status, last_run))["run"]
        if outcome["state"] == RunState.FAILED:
            raise LiveLoopError(f"the training failed: {outcome['error']}")
        self.version = self._announced()
        if self._last is not None:
            self.predict(self._last)
        seconds = self._clock() - began
        self._on_training(f"{outcome['state']}: {outcome['reason']}", 1.0)
        self.outcomes.append(str(outcome["state"]))
        if self._settle_s:
            self._settle()
        return seconds

    def _settle(self) -> None:
        """Waits for better versions that follow by themselves, as a person leaves time for them."""
        deadline = self._clock() + self._settle_s
        while self._clock() < deadline:
            status = self._status()
            run = status["run"]
            if not status["rising"] and run["state"] != RunState.RUNNING:
                break
            if run["state"] == RunState.RUNNING:
                self._on_training(f"better version: {run['stage']}", run["progress"])
            time.sleep(_POLL_S)
        self.version = self._announced()

    def _write(self, key: str, number: int, image: Any) -> str:
        name = f"{key[:24]}-{number}.png"
        if not (self._files / name).exists():
            Image.fromarray(image).save(self._files / name, compress_level=1)
        return local_file_url(name)

    def _open(self, task: LiveTask) -> ShownPrediction:
        deadline = self._clock() + _PATIENCE_S
        body = predict_request(self._project, task.id, task.urls)
        while self._clock() < deadline:
            answer = self._post("/predict", body)
            shown = read_answer(answer, self._schema)
            if shown is not None:
                return shown
            if b'"problem"' in answer:
                raise LiveLoopError(f"task {task.id}: {answer[:500].decode(errors='replace')}")
            time.sleep(_POLL_S)
        raise LiveLoopError(f"task {task.id}: no prediction in {_PATIENCE_S:g} s")

    def _announced(self) -> str:
        """The version that /setup announces; waits while the weights are loading."""
        deadline = self._clock() + _PATIENCE_S
        while self._clock() < deadline:
            version = json.loads(self._post("/setup", setup_request(self._project)))
            if version.get("model_version"):
                return str(version["model_version"])
            time.sleep(_POLL_S)
        raise LiveLoopError(f"/setup announced no version in {_PATIENCE_S:g} s")

    def _status(self) -> dict[str, Any]:
        """What /status tells of the project."""
        body = json.loads(self._ask("GET", f"/status/{self._project.id}"))
        return dict(body["projects"][0])

    def _wait(self, is_reached: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Asks for the project's status until `is_reached`; returns that status."""
        deadline = self._clock() + _PATIENCE_S
        while self._clock() < deadline:
            status = self._status()
            if is_reached(status):
                return status
            run = status["run"]
            if run is not None and run["state"] == RunState.RUNNING:
                self._on_training(run["stage"], run["progress"])
            time.sleep(_POLL_S)
        raise LiveLoopError(f"nothing was learned in {_PATIENCE_S:g} s; does a trainer run?")

    def _post(self, path: str, body: object) -> bytes:
        return self._ask("POST", path, json.dumps(body, separators=(",", ":")).encode())

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """Asks until the backend is not busy any more: a busy disk must not end a measurement."""
        deadline = self._clock() + _PATIENCE_S
        while True:
            try:
                reply = self._client.request(
                    method, path, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.HTTPError as error:
                raise LiveLoopError(f"{method} {path}: {type(error).__name__}: {error}") from error
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE or self._clock() > deadline:
                break
            time.sleep(_POLL_S)
        if not reply.is_success:
            raise LiveLoopError(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
        return reply.content


def _has_ended(status: Mapping[str, Any], last_run: int) -> bool:
    run = status["run"]
    return run is not None and run["id"] > last_run and run["state"] in _ENDED


def _part(region: Region, linked: str | None) -> PartMask:
    return PartMask(
        region.image_index,
        region.kind or RegionKind.COMMON_PART,
        region.label or "",
        region.mask,
        part_id=linked,
        score=min(1.0, max(0.0, region.score or 0.0)),
    )


def _annotation(
    prediction: GroupPrediction, edits: Sequence[Edit], regions: Mapping[int, Region]
) -> list[Drawn]:
    """Regions of the annotation: kept and edited regions with their ids, then added ones."""
    edited = {id(edit.before): edit for edit in edits if edit.before is not None}
    drawn = []
    for part in prediction.parts:
        edit = edited.get(id(part))
        if edit is None:
            drawn.append(Drawn(regions[id(part)].id, part, RegionOrigin.PREDICTION))
        elif edit.truth is not None:
            drawn.append(_edited(part, edit, regions[id(part)].id))
    added = [edit.truth for edit in edits if edit.before is None and edit.truth is not None]
    drawn += [
        Drawn(f"added{number:04}", part, RegionOrigin.MANUAL) for number, part in enumerate(added)
    ]
    return drawn


def _edited(part: PartMask, edit: Edit, region_id: str) -> Drawn:
    truth = edit.truth or part
    name = truth.label if Supervision.TEXT in edit.supervision else part.label
    mask = truth.mask if Supervision.MASK in edit.supervision else part.mask
    changed = edit.supervision & (Supervision.TEXT | Supervision.MASK)
    origin = RegionOrigin.PREDICTION_CHANGED if changed else RegionOrigin.PREDICTION
    return Drawn(
        region_id, PartMask(part.image_index, part.kind, name, mask, score=part.score), origin
    )
