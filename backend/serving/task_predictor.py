"""One task through the model: fetch its images, predict, render, remember.

Does not know HTTP, nor who waits. One lock lets a single prediction use the model at a time; images
of the next task arrive meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from backend.decoding import read_json
from backend.errors import (
    FilesUnavailableError,
    ForbiddenAddressError,
    MediaError,
    MediaUnavailableError,
    StoppedError,
    StoreError,
)
from backend.inference_priority import InferencePriority
from backend.served_model import AdaptableModel, ServedModel
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.caches import MemoryLimits, OpenedGroups
from backend.serving.click_answers import ClickAnswers
from backend.serving.group_predictions import GroupPredictions, GroupPredictor
from backend.serving.highlights import link_highlight
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
from backend.serving.named_sources import find_unasked
from backend.serving.naming import ProjectNames, closed_set_of, name_prediction, naming_state
from backend.serving.prompt_selection import select_prompted
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import SourceTrustReader, TaskTrust, trust_in
from backend.serving.text_prompts import answer_question, task_labels
from backend.storage.store import Store
from backend.storage.versions import AdapterVersion
from backend.types import GroupSource, Task
from calico_model.errors import CalicoError
from calico_model.sources.source import Ability
from calico_model.types import ImageGroup, Vector
from calico_model.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# A host that comes back, or a setting that is put right, makes these images and files usable.
_MAY_PASS = (FilesUnavailableError, MediaUnavailableError, ForbiddenAddressError)
_USUAL_LIMITS = MemoryLimits()


class _KeptAnswer(msgspec.Struct):
    """An answer as the store keeps it."""

    score: float
    regions: msgspec.Raw


class TaskPredictor:
    """Predicts tasks.

    Args:
        host: holds the model.
        images: fetches a task's images.
        render: turns a prediction into the bytes of its regions, and a score.
        store: keeps answers.
        metrics: count tasks and time their stages.
        code: version of the code that makes answers; those kept by other code are made anew.
        registry: the version of each project.
        inference_priority: taken while a task is predicted, so that training beside it waits.
        names: puts regions into closed label sets; without, they keep the model's own names.
        refines: clicks and boxes outline anew; otherwise they pick from what the model found.
        click_budget_s: longest the clicks of one request hold the model.
        unasked_budget_s: longest a task waits for sources that look for its labels.
        sources: segmenters asked beside the model; None for the model alone.
        trust: who of them is believed; None believes all alike, and learns nothing.
        limits: of what is remembered in memory.
        groups_at_once: tasks that the model is asked about at once, at most.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        host: ModelHost[AdaptableModel],
        images: GroupSource,
        render: Render,
        store: Store,
        metrics: Metrics,
        *,
        code: str,
        registry: AdapterRegistry,
        inference_priority: InferencePriority,
        names: ProjectNames | None = None,
        refines: bool = True,
        click_budget_s: float = 10.0,
        unasked_budget_s: float = 20.0,
        sources: SourcePool | None = None,
        trust: SourceTrustReader | None = None,
        limits: MemoryLimits = _USUAL_LIMITS,
        groups_at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._images, self._render = host, images, render
        self._store, self._metrics, self._code = store, metrics, code
        self._registry, self._inference_priority = registry, inference_priority
        self._names, self._refines = names, refines
        predictions = GroupPredictions(store, max_bytes=limits.prediction_bytes, code=code)
        self._groups = GroupPredictor(predictions, metrics, groups_at_once)
        self._opened = OpenedGroups(limits.opened_bytes)
        self._clicks = ClickAnswers(
            self._groups,
            render,
            metrics,
            names=names,
            sources=sources,
            trust=trust,
            most_steps=limits.click_steps,
            budget_s=click_budget_s,
            clock=clock,
        )
        self._sources, self._trust = sources, trust
        self._unasked_budget_s = unasked_budget_s

    def require(self, version: AdapterVersion | None) -> None:
        """Checks that a version can answer here, where another server may answer instead.

        Raises:
            FilesUnavailableError: its files are not here now; another server may have them.
        """
        if self._host.model is not None:
            self._registry.require(self._host.model, version)

    def predict_task(
        self, job: PredictionJob, is_wanted: Callable[[], bool] = lambda: True
    ) -> PredictionResult:
        """Answers one task; an error becomes the problem of its result.

        Args:
            job: the task.
            is_wanted: whether the result is useful to anybody; clicks that are no longer wanted
                are given up.

        Raises:
            NotReadyError: the weights cannot be used.
        """
        with self._inference_priority.held():
            base = self._host.wait()
            try:
                model = self._registry.model(base, job.version)
            except FilesUnavailableError as error:
                problem = self._explain(job.task, error)
                version = None if job.version is None else job.version.id
                return PredictionResult(b"", 0.0, version, problem)
            if job.is_interactive and not job.prompts and job.question is None:
                # The last click or question is gone: an empty answer takes its suggestions back.
                return PredictionResult(b"[]", 0.0, model.version)
            try:
                group = self._fetch(job)
                if self._refines and job.prompts and job.question is None:
                    return self._clicks.answer(job, group, model, is_wanted)
                return self._predict(job, group, model)
            except Exception as error:  # one bad task must not stop the others
                problem = self._explain(job.task, error)
                return PredictionResult(b"", 0.0, model.version, problem)

    def encode_ahead(self, task: Task, step_aside: Callable[[], None]) -> int:
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
        model = self._host.wait()
        group = self._opened.get(task)
        if group is None:
            group = self._images.fetch_group(task)
            self._opened.put(task, group)
        for index in range(len(group)):
            step_aside()
            with self._groups.lock, self._metrics.stage("warm"):
                model.encode(group.only(index))
        return sum(image.nbytes for image in group.images)

    def encode_with_sources(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Encodes the images of an encoded task with the sources beside the model.

        Args:
            task: as in `encode_ahead`.
            step_aside: called before each image; returns when nobody else needs the model.
        """
        group = self._opened.get(task)
        if group is None or not self._sources:
            return
        for index in range(len(group)):
            step_aside()
            self._sources.encode_ahead(group, index)

    def predict_ahead(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Prepares the clicks that follow on an encoded task.

        It is predicted, where its answer came from the store, and its images are prepared.

        Args:
            task: as in `encode_ahead`.
            step_aside: called before each step; returns when nobody else needs the model.

        Raises:
            NotReadyError: the weights cannot be used.
        """
        group = self._opened.get(task)
        if group is None or not self._refines:
            return
        version = self._registry.current(task.project_id)
        model = self._registry.model(self._host.wait(), version)
        step_aside()
        if not self._groups.predictions.is_known(content_key(group), model.version):
            self._groups.predict(group, model, stage="warm")
        for index in range(len(group)):
            step_aside()
            with self._groups.lock, self._metrics.stage("warm"):
                model.prepare_clicks(group, index)

    def _fetch(self, job: PredictionJob) -> ImageGroup:
        group = self._opened.get(job.task) if job.is_interactive else None
        if group is None:
            with self._metrics.stage("fetch"):
                group = self._images.fetch_group(job.task)
            self._opened.put(job.task, group)
        return group

    def _predict(
        self, job: PredictionJob, group: ImageGroup, model: ServedModel
    ) -> PredictionResult:
        """Asks the model the three questions, or finds its answer where it is remembered."""
        content = content_key(group)
        closed = closed_set_of(self._names, job)
        labels = closed or (task_labels(job.schema, job.task) if self._sources else None)
        vocabulary = None if labels is None else labels.vocabulary
        trust = trust_in(self._sources, self._trust, job.task, vocabulary)
        key = None
        if not job.is_interactive and (asked := self._asked_sources(vocabulary, trust)) is not None:
            code = self._code + naming_state(closed) + asked
            key = answer_key(job, content, version=model.version, code=code)
        if key is not None and (kept := self._find_kept(key)) is not None:
            self._count("cached")
            vector = self._describe(job, group, model)
            regions = bytes(kept.regions)
            return PredictionResult(regions, kept.score, model.version, descriptor=vector)
        prediction = self._groups.predictions.find(content, model.version)
        if prediction is None:
            prediction = self._groups.predict(group, model)
        if job.question is not None:
            labels = closed or task_labels(job.schema, job.task)
            with self._groups.lock, self._metrics.stage("ask"):
                reply = answer_question(
                    job.question,
                    group,
                    prediction,
                    model,
                    labels,
                    sources=self._sources,
                    trust=trust,
                )
            prediction, job = reply.prediction, replace(job, reply=reply.sentence)
            if job.question is not None and job.question.is_highlight:
                linked = link_highlight(prediction, job.question, job.canvas)
                prediction, job = linked.prediction, replace(job, ids=linked.ids)
        elif job.prompts:
            prediction = select_prompted(prediction, job.prompts)
        elif closed is not None:
            with self._groups.lock, self._metrics.stage("name"):
                prediction = name_prediction(prediction, group, model, closed)
        is_complete = True
        if self._sources and vocabulary is not None and not job.is_interactive:
            with self._metrics.stage("sources"):
                prediction, is_complete = find_unasked(
                    self._sources,
                    group,
                    prediction,
                    vocabulary,
                    trust,
                    budget_s=self._unasked_budget_s,
                )
        with self._metrics.stage("render"):
            regions, score = self._render(prediction, job, group)
        if key is not None and is_complete:
            self._store.keep_prediction(
                key,
                msgspec.json.encode(_KeptAnswer(score, msgspec.Raw(regions))),
                project_id=job.task.project_id,
                task_id=job.task.id,
                version=prediction.version,
            )
        self._count("predicted")
        vector = self._describe(job, group, model)
        return PredictionResult(regions, score, prediction.version, descriptor=vector)

    def _asked_sources(self, vocabulary: Vocabulary | None, trust: TaskTrust) -> str | None:
        """Part of the key of an answer: who is asked unasked, with which weights, and believed.

        Waits for sources that still load; None where one does not come in time.
        """
        if not self._sources or vocabulary is None:
            return ""
        if not self._sources.may_answer(Ability.TEXT):
            return ""
        self._sources.wait_until_loaded(self._unasked_budget_s)
        weights = self._sources.fingerprint
        return None if weights is None else f"+{weights}/{trust.state}"

    def _describe(self, job: PredictionJob, group: ImageGroup, model: ServedModel) -> Vector | None:
        """Returns how the group looks, if the job wants it."""
        if not job.wants_descriptor:
            return None
        with self._groups.lock:
            return model.describe(group)

    def _find_kept(self, key: str) -> _KeptAnswer | None:
        try:
            body = self._store.find_prediction(key)
            return None if body is None else read_json(body, _KeptAnswer)
        except (StoreError, msgspec.MsgspecError):
            event = {"event": "kept_answers_unreadable"}
            _log.warning("kept answers cannot be read", exc_info=True, extra=event)
            return None

    def _explain(self, task: Task, error: Exception) -> Problem:
        """Counts and logs an error of a task; called while the error is handled."""
        about = {"task": task.id, "project": task.project_id}
        name = type(error).__name__
        if isinstance(error, StoppedError):
            self._count("cancelled")
            return Problem(name, str(error), is_lasting=False)
        if isinstance(error, (FilesUnavailableError, MediaError, CalicoError)):
            self._count("problem")
            _log.warning("task problem: %s", error, extra={"event": "task_problem", **about})
            return Problem(name, str(error), is_lasting=not isinstance(error, _MAY_PASS))
        self._count("failed")
        _log.exception("task failed", extra={"event": "task_failed", **about})
        detail = f"{name} while predicting; the log has the details"
        return Problem("PredictionFailed", detail, is_lasting=False)

    def _count(self, outcome: str) -> None:
        self._metrics.tasks.labels(outcome).inc()
