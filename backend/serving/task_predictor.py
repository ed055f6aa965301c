"""One task through the model: fetch, look, render, remember.

Does not know HTTP, nor who waits. One lock lets a single prediction use the model at a time; images
of the next task arrive meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from backend.errors import (
    ForbiddenAddressError,
    MediaError,
    MediaUnavailableError,
    StoppedError,
    StoreError,
)
from backend.inference_priority import InferencePriority
from backend.label_studio.label_set import vocabulary_in
from backend.served_model import GroupSource, ServedModel
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.caches import OpenedGroups, RecentPredictions
from backend.serving.interactive import InteractiveSegmenter
from backend.serving.jobs import (
    PredictionJob,
    PredictionResult,
    Problem,
    Render,
    answer_key,
    content_key,
)
from backend.serving.metrics import Metrics
from backend.serving.model_host import ModelHost
from backend.serving.naming import ProjectNames, name_new, name_prediction, state_of
from backend.serving.prompt_selection import select_prompted
from backend.serving.text_prompts import closed_set, reply_to
from backend.storage.store import Store
from backend.types import Task
from calico_model.errors import CalicoError
from calico_model.interactive.naming.closed_set import ClosedSet
from calico_model.types import ImageGroup, Vector

_log = logging.getLogger(__name__)

# A host that comes back, or a setting that is put right, makes these images usable.
_MAY_PASS = (MediaUnavailableError, ForbiddenAddressError)
_RECENT_BYTES = _OPENED_BYTES = 256 * 1024 * 1024


class _Kept(msgspec.Struct):
    """An answer as the store keeps it."""

    score: float
    regions: msgspec.Raw


class TaskPredictor:
    """Looks at tasks.

    Args:
        host: holds the model.
        images: fetches a task's images.
        render: turns a prediction into the bytes of its regions, and a score.
        store: keeps answers.
        code: version of the code that makes answers; those kept by other code are made anew.
        lines: the version of each project.
        inference_priority: taken while a task is predicted, so that training beside it waits.
        names: puts regions into closed label sets; without, they keep the model's own words.
        refines: clicks and boxes outline anew; otherwise they pick from what the model found.
        click_budget_s: longest the clicks of one request hold the model.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        host: ModelHost,
        images: GroupSource,
        render: Render,
        store: Store,
        metrics: Metrics,
        *,
        code: str,
        lines: AdapterRegistry,
        inference_priority: InferencePriority,
        names: ProjectNames | None = None,
        refines: bool = True,
        click_budget_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._images, self._render = host, images, render
        self._store, self._metrics, self._code = store, metrics, code
        self._lines, self._inference_priority = lines, inference_priority
        self._names, self._refines = names, refines
        self._click_budget_s, self._clock = click_budget_s, clock
        self._model_lock = threading.Lock()
        self._recent = RecentPredictions(_RECENT_BYTES)
        self._opened = OpenedGroups(_OPENED_BYTES)
        self._assisting = InteractiveSegmenter()

    def predict_task(
        self, job: PredictionJob, is_wanted: Callable[[], bool] = lambda: True
    ) -> PredictionResult:
        """Answers one task; whatever goes wrong stays with it.

        Args:
            work: the task.
            is_wanted: whether anybody has a use for the answer; clicks that are not wanted any
                more are given up.

        Raises:
            NotReadyError: the weights cannot be used.
        """
        with self._inference_priority.held():
            predictor = self._lines.predictor(self._host.wait(), job.version)
            try:
                group = self._fetch(job)
                if self._refines and job.prompts and job.question is None:
                    return self._assist(job, group, predictor, is_wanted)
                return self._predict(job, group, predictor)
            except Exception as error:  # it stays with its task
                problem = self._explain(job.task, error)
                return PredictionResult(b"", 0.0, predictor.version, problem)

    def _explain(self, task: Task, error: Exception) -> Problem:
        """Counts and logs what went wrong with a task; called while the error is handled."""
        about = {"task": task.id, "project": task.project_id}
        name = type(error).__name__
        if isinstance(error, StoppedError):
            self._count("cancelled")
            return Problem(name, str(error), is_lasting=False)
        if isinstance(error, (MediaError, CalicoError)):
            self._count("problem")
            _log.warning("task problem: %s", error, extra={"event": "task_problem", **about})
            return Problem(name, str(error), is_lasting=not isinstance(error, _MAY_PASS))
        self._count("failed")
        _log.exception("task failed", extra={"event": "task_failed", **about})
        detail = f"{name} while predicting; the log has the details"
        return Problem("PredictionFailed", detail, is_lasting=False)

    def warm(self, task: Task, step_aside: Callable[[], None]) -> int:
        """Fetches and encodes the images of a task that nobody waits for.

        Args:
            task: without a problem.
            step_aside: called before each image; returns when nobody else needs the model.

        Returns:
            Bytes of their pixels.

        Raises:
            NotReadyError: the weights cannot be used.
            MediaError: an image cannot be used.
        """
        predictor = self._host.wait()
        group = self._opened.get(task)
        if group is None:
            group = self._images.fetch_group(task)
            self._opened.put(task, group)
        for index in range(len(group)):
            step_aside()
            with self._model_lock, self._metrics.stage("warm"):
                predictor.encode(group.only(index))
        return sum(image.nbytes for image in group.images)

    def foresee(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Predicts a warm task whose answer came from the store: clicks ask what the model found.

        Args:
            task: as in `warm`.
            step_aside: called before; returns when nobody else needs the model.

        Raises:
            NotReadyError: the weights cannot be used.
        """
        group = self._opened.get(task)
        if group is None or not self._refines:
            return
        base = self._host.wait()
        predictor = self._lines.predictor(base, self._lines.current(task.project_id))
        key = (content_key(group), predictor.version)
        step_aside()
        if key not in self._recent:
            with self._model_lock, self._metrics.stage("warm"):
                prediction = predictor.predict(group)
            self._recent.put(key, prediction)

    def _fetch(self, job: PredictionJob) -> ImageGroup:
        group = self._opened.get(job.task) if job.is_interactive else None
        if group is None:
            with self._metrics.stage("fetch"):
                group = self._images.fetch_group(job.task)
            self._opened.put(job.task, group)
        return group

    def _assist(
        self,
        job: PredictionJob,
        group: ImageGroup,
        predictor: ServedModel,
        is_wanted: Callable[[], bool],
    ) -> PredictionResult:
        """Answers clicks and boxes: on the image at once, and what is alike on the others."""
        clicked = {prompt.image_index for prompt in job.prompts}
        group_prediction = self._recent.get((content_key(group), predictor.version), images=clicked)
        with self._model_lock, self._metrics.stage("assist"):
            until = self._clock() + self._click_budget_s

            def goes_on() -> bool:
                if not is_wanted():
                    raise StoppedError("nobody waits for these clicks any more")
                return self._clock() < until

            goes_on()
            vocabulary = vocabulary_in(job.schema, job.task.labels)
            found = self._assisting.suggest(
                group, job.prompts, job.canvas, predictor, group_prediction, goes_on, vocabulary
            )
            if (closed := self._closed(job)) is not None:
                parts = name_new(found.prediction.parts, group, predictor, closed)
                found = replace(found, prediction=replace(found.prediction, parts=parts))
            found = found.spread(
                group,
                predictor,
                group_prediction,
                canvas=job.canvas,
                goes_on=goes_on,
                vocabulary=vocabulary,
            )
            if closed is None:
                found = found.in_own_words()
            if not goes_on():
                about = {"task": job.task.id, "prompts": len(job.prompts)}
                _log.warning("clicks left out", extra={"event": "clicks_left_out", **about})
        with self._metrics.stage("render"):
            regions, score = self._render(found.prediction, replace(job, ids=found.ids), group)
        self._count("assisted")
        return PredictionResult(regions, score, predictor.version, absent=found.absent)

    def _predict(
        self, job: PredictionJob, group: ImageGroup, predictor: ServedModel
    ) -> PredictionResult:
        content = content_key(group)
        closed = self._closed(job)
        code = self._code + state_of(closed)
        key = answer_key(job, content, version=predictor.version, code=code)
        if not job.is_interactive and (kept := self._find(key)) is not None:
            self._count("cached")
            look = self._see(job, group, predictor)
            return PredictionResult(bytes(kept.regions), kept.score, predictor.version, look=look)
        prediction = self._recent.get((content, predictor.version))
        if prediction is None:
            with self._model_lock, self._metrics.stage("model"):
                prediction = predictor.predict(group)
            self._recent.put((content, predictor.version), prediction)
        if job.question is not None:
            labels = closed or closed_set(job.schema, job.task)
            with self._model_lock, self._metrics.stage("ask"):
                reply = reply_to(job.question, group, prediction, predictor, labels)
            prediction, job = reply.prediction, replace(job, reply=reply.sentence)
        elif job.prompts:
            prediction = select_prompted(prediction, job.prompts)
        elif closed is not None:
            with self._model_lock, self._metrics.stage("name"):
                prediction = name_prediction(prediction, group, predictor, closed)
        with self._metrics.stage("render"):
            regions, score = self._render(prediction, job, group)
        if not job.is_interactive:
            self._store.keep_prediction(
                key,
                msgspec.json.encode(_Kept(score, msgspec.Raw(regions))),
                project_id=job.task.project_id,
                task_id=job.task.id,
                version=prediction.version,
            )
        self._count("predicted")
        look = self._see(job, group, predictor)
        return PredictionResult(regions, score, prediction.version, look=look)

    def _closed(self, job: PredictionJob) -> ClosedSet | None:
        return None if self._names is None else self._names.closed(job.schema, job.task)

    def _see(self, job: PredictionJob, group: ImageGroup, predictor: ServedModel) -> Vector | None:
        """How a group looks, where somebody wants to know."""
        if not job.wants_look:
            return None
        with self._model_lock:
            return predictor.describe(group)

    def _find(self, key: str) -> _Kept | None:
        try:
            body = self._store.find_prediction(key)
            return None if body is None else msgspec.json.decode(body, type=_Kept)
        except (StoreError, msgspec.MsgspecError):
            _log.warning("kept answers cannot be read", exc_info=True)
            return None

    def _count(self, outcome: str) -> None:
        self._metrics.tasks.labels(outcome).inc()
