"""From parsed tasks to answers: fetch, look, render, remember; and finish later what took too long.

Owns the way of one task through the model. Does not know HTTP, and what it renders stays opaque
bytes here. One lock lets a single prediction use the model at a time; images of the next task
arrive meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from backend.errors import (
    BusyError,
    ForbiddenAddressError,
    InvalidTaskError,
    MediaError,
    MediaUnavailableError,
    StoreError,
)
from backend.right_of_way import RightOfWay
from backend.serving.asking import closed_set, reply_to, settle
from backend.serving.assisting import Assisting, Refining
from backend.serving.job_queue import JobQueue
from backend.serving.lines import AdapterLines
from backend.serving.metrics import Metrics
from backend.serving.model_host import (
    DescribingPredictor,
    EncodingPredictor,
    ModelHost,
    Predictor,
)
from backend.serving.naming import ProjectNames, name_new, name_prediction, state_of
from backend.serving.opened import OpenedGroups
from backend.serving.prompting import select_prompted
from backend.serving.recent import RecentPredictions
from backend.store import Store
from backend.types import LabelSchema, PredictRequest, Prompt, Question, Region, Task
from backend.versions import AdapterVersion
from calico_model.assist.closed_set import ClosedSet
from calico_model.errors import CalicoError
from calico_model.types import GroupPrediction, ImageGroup, Vector

_log = logging.getLogger(__name__)

# A host that comes back, or a setting that is put right, makes these images usable.
_MAY_PASS = (MediaUnavailableError, ForbiddenAddressError)
_LONGEST_AHEAD_S = 3600.0
_OPENED_BYTES = 256 * 1024 * 1024


class GroupSource(Protocol):
    """Where a task's images come from."""

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task; raises MediaError naming the field."""


@dataclass(frozen=True)
class Work:
    """One task to look at, with everything its answer depends on but the base.

    Attributes:
        task, schema, prompts, is_interactive: as requested.
        version: which adapter answers, decided when the request came; None for the base.
        wants_look: whether the answer should say how the group looks.
        canvas: regions that are on the task when something is clicked there.
        ids: of the regions to render, one per region; () makes them up.
        question: what the annotator typed, or None.
        reply: what to tell the annotator beside the regions, or "".
    """

    task: Task
    schema: LabelSchema
    prompts: tuple[Prompt, ...] = ()
    is_interactive: bool = False
    version: AdapterVersion | None = None
    wants_look: bool = False
    canvas: tuple[Region, ...] = ()
    ids: tuple[str, ...] = ()
    question: Question | None = None
    reply: str = ""

    @property
    def key(self) -> Hashable:
        """Equal for work with equal answers."""
        task = self.task
        return (
            task.project_id,
            task.id,
            task.image_urls,
            task.labels,
            self.prompts,
            self.question,
            self.is_interactive,
            tuple((region.id, len(region.encoding)) for region in self.canvas),
            id(self.schema),
            None if self.version is None else self.version.id,
        )


@dataclass(frozen=True)
class Problem:
    """Why a task has no regions.

    Attributes:
        error: class name of the error.
        detail: names the field, what was expected and what came.
        is_lasting: whether asking again would end the same way.
    """

    error: str
    detail: str
    is_lasting: bool


@dataclass(frozen=True)
class Answer:
    """What is known about one task.

    Attributes:
        regions: as the wire door renders them, opaque here; b"" when there is a problem.
        score: confidence in [0, 1].
        version: the weights that were asked, or None when none were.
        problem: why there are no regions, or None.
        look: how the group looks, if that was asked and the model can tell.
        absent: images on which a clicked part was sought and not found, rising.
    """

    regions: bytes
    score: float
    version: str | None
    problem: Problem | None = None
    look: Vector | None = None
    absent: tuple[int, ...] = ()


Render = Callable[[GroupPrediction, Work, ImageGroup], tuple[bytes, float]]
Push = Callable[[Task, Answer], None]


class _Kept(msgspec.Struct):
    """An answer as the store keeps it."""

    score: float
    regions: msgspec.Raw


class PredictionService:
    """Answers requests for predictions.

    Args:
        host: holds the model.
        images: fetches a task's images.
        render: turns a prediction into the bytes of its regions, and a score.
        store: keeps answers.
        code: version of the code that makes answers; those kept by other code are made anew.
        push: sends one late answer to Label Studio in the background, or None when nobody can.
        budget_s: longest a request may wait.
        seats: requests that may wait at once, so that threads are left for everything else.
        capacity: tasks that may wait.
        lines: the version of each project; without, the base answers everything.
        right_of_way: taken while a task is looked at, so that training beside it waits.
        names: puts regions into closed label sets; without, they keep the model's own words.
        refines: clicks and boxes outline anew; otherwise they pick from what the model found.
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
        push: Push | None,
        budget_s: float,
        seats: int,
        capacity: int,
        lines: AdapterLines | None = None,
        right_of_way: RightOfWay | None = None,
        names: ProjectNames | None = None,
        refines: bool = True,
    ) -> None:
        self._host = host
        self._names = names
        self._refines = refines
        self._right_of_way = right_of_way
        self._images = images
        self._render = render
        self._store = store
        self._metrics = metrics
        self._code = code
        self._push = push
        self._lines = lines
        self._budget_s = budget_s
        self._seats = threading.BoundedSemaphore(seats)
        self._model_lock = threading.Lock()
        self._recent = RecentPredictions(max_bytes=256 * 1024 * 1024)
        self._opened = OpenedGroups(_OPENED_BYTES)
        self._assisting = Assisting()
        self._asked_s = -math.inf
        self._queue: JobQueue[Work, Answer] = JobQueue(
            self._answer, on_late=self._send_later, capacity=capacity
        )

    @property
    def waiting(self) -> int:
        """Tasks that wait for the model."""
        return self._queue.waiting

    @property
    def pending(self) -> int:
        """Tasks that wait or are looked at."""
        return self._queue.pending

    @property
    def quiet_s(self) -> float:
        """Seconds since anybody asked for a prediction, 0 while tasks wait."""
        return 0.0 if self._queue.waiting else time.monotonic() - self._asked_s

    def current(self, project_id: int | None) -> AdapterVersion | None:
        """Reads which version answers a project now; None for the base."""
        return None if self._lines is None else self._lines.current(project_id)

    def announced(self, version: AdapterVersion | None) -> str | None:
        """What predictions of a version are stamped with; None while there are no weights."""
        base = self._host.version
        return base if base is None or version is None else version.id

    def predict(
        self, request: PredictRequest, version: AdapterVersion | None = None
    ) -> tuple[Answer | None, ...]:
        """Answers every task of a request, in order, within the budget.

        Args:
            request: what is asked.
            version: `current` of its project, read when the request came.

        Returns:
            One entry per task; None stands for "not yet": the task is finished in the background
            and sent to Label Studio, or at least remembered for the next time it is asked. Tasks
            beyond the capacity are "not yet" too, but have to be asked for again: Label Studio
            would show an error as success, and lose the tasks that do fit.

        Raises:
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        began = self._asked_s = time.monotonic()
        self._host.check()
        question, prompts = settle(request.question, request.prompts)
        works = [
            Work(
                task,
                request.schema,
                prompts,
                request.is_interactive,
                version,
                question=question,
                canvas=request.canvas,
            )
            for task in request.tasks
            if task.problem is None
        ]
        # A lone task is one that somebody just opened.
        is_urgent = request.is_interactive or len(request.tasks) == 1
        jobs = self._queue.submit([(work.key, work) for work in works], is_urgent=is_urgent)
        if surplus := sum(job is None for job in jobs):
            _log.warning("tasks without a place", extra={"event": "queue_full", "surplus": surplus})
        has_seat = self._seats.acquire(blocking=False)
        try:
            deadline = began + (self._budget_s if has_seat else 0.0)
            found = iter(self._queue.collect(jobs, deadline=deadline))
        finally:
            if has_seat:
                self._seats.release()
        answers = tuple(
            next(found) if task.problem is None else _unusable(task, self.announced(version))
            for task in request.tasks
        )
        self._count("not_yet", sum(answer is None for answer in answers))
        return answers

    def predict_ahead(
        self, task: Task, schema: LabelSchema, version: AdapterVersion | None
    ) -> Answer | None:
        """Predicts one task that nobody waits for, behind everything else.

        Returns:
            The answer, or None if there was no place or the service closed.

        Raises:
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        self._host.wait()
        work = Work(task, schema, version=version, wants_look=True)
        jobs = self._queue.submit([(work.key, work)], is_urgent=False)
        (answer,) = self._queue.collect(jobs, deadline=time.monotonic() + _LONGEST_AHEAD_S)
        return answer

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
        if isinstance(predictor, EncodingPredictor):
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
        predictor = self._host.wait()
        if self._lines is not None:
            predictor = self._lines.predictor(predictor, self.current(task.project_id))
        key = (content_key(group), predictor.version)
        step_aside()
        if key not in self._recent:
            with self._model_lock, self._metrics.stage("warm"):
                prediction = predictor.predict(group)
            self._recent.put(key, prediction)

    def close(self) -> None:
        """Answers "not yet" to everybody who waits and stops the workers."""
        self._queue.close()

    def _answer(self, work: Work) -> Answer:
        """Runs in a worker thread."""
        if self._right_of_way is None:
            return self._try_to_look(work)
        with self._right_of_way.taken():
            return self._try_to_look(work)

    def _try_to_look(self, work: Work) -> Answer:
        """Whatever goes wrong stays with this one task."""
        about = {"task": work.task.id, "project": work.task.project_id}
        predictor = self._host.wait()
        if self._lines is not None:
            predictor = self._lines.predictor(predictor, work.version)
        try:
            group = self._fetch(work)
            is_pointing = self._refines and work.prompts and work.question is None
            if is_pointing and isinstance(predictor, Refining):
                return self._assist(work, group, predictor)
            return self._look(work, group, predictor)
        except (MediaError, CalicoError) as error:
            self._count("problem")
            _log.warning("task problem: %s", error, extra={"event": "task_problem", **about})
            problem = Problem(type(error).__name__, str(error), not isinstance(error, _MAY_PASS))
            return Answer(b"", 0.0, predictor.version, problem)
        except Exception as error:
            self._count("failed")
            _log.exception("task failed", extra={"event": "task_failed", **about})
            detail = f"{type(error).__name__} while predicting; the log has the details"
            problem = Problem("PredictionFailed", detail, is_lasting=False)
            return Answer(b"", 0.0, predictor.version, problem)

    def _fetch(self, work: Work) -> ImageGroup:
        group = self._opened.get(work.task) if work.is_interactive else None
        if group is None:
            with self._metrics.stage("fetch"):
                group = self._images.fetch_group(work.task)
            self._opened.put(work.task, group)
        return group

    def _assist(self, work: Work, group: ImageGroup, predictor: Refining) -> Answer:
        """Answers clicks and boxes: on the image at once, and what is alike on the others."""
        said = self._recent.get((content_key(group), predictor.version))
        with self._model_lock, self._metrics.stage("assist"):
            found = self._assisting.suggest(group, work.prompts, work.canvas, predictor, said)
            if (closed := self._closed(work)) is not None:
                parts = name_new(found.prediction.parts, group, predictor, closed)
                found = replace(found, prediction=replace(found.prediction, parts=parts))
            found = found.spread(group, predictor, said, canvas=work.canvas)
        with self._metrics.stage("render"):
            regions, score = self._render(found.prediction, replace(work, ids=found.ids), group)
        self._count("assisted")
        return Answer(regions, score, predictor.version, absent=found.absent)

    def _look(self, work: Work, group: ImageGroup, predictor: Predictor) -> Answer:
        content = content_key(group)
        closed = self._closed(work)
        code = self._code + state_of(closed)
        key = answer_key(work, content, version=predictor.version, code=code)
        if not work.is_interactive and (kept := self._find(key)) is not None:
            self._count("cached")
            look = self._see(work, group, predictor)
            return Answer(bytes(kept.regions), kept.score, predictor.version, look=look)
        prediction = self._recent.get((content, predictor.version))
        if prediction is None:
            with self._model_lock, self._metrics.stage("model"):
                prediction = predictor.predict(group)
            self._recent.put((content, predictor.version), prediction)
        if work.question is not None:
            labels = closed or closed_set(work.schema, work.task)
            with self._model_lock, self._metrics.stage("ask"):
                reply = reply_to(work.question, group, prediction, predictor, labels)
            prediction, work = reply.prediction, replace(work, reply=reply.sentence)
        elif work.prompts:
            prediction = select_prompted(prediction, work.prompts)
        elif closed is not None:
            with self._model_lock, self._metrics.stage("name"):
                prediction = name_prediction(prediction, group, predictor, closed)
        with self._metrics.stage("render"):
            regions, score = self._render(prediction, work, group)
        if not work.is_interactive:
            self._store.keep_prediction(
                key,
                msgspec.json.encode(_Kept(score, msgspec.Raw(regions))),
                project_id=work.task.project_id,
                task_id=work.task.id,
                version=prediction.version,
            )
        self._count("predicted")
        look = self._see(work, group, predictor)
        return Answer(regions, score, prediction.version, look=look)

    def _closed(self, work: Work) -> ClosedSet | None:
        return None if self._names is None else self._names.closed(work.schema, work.task)

    def _see(self, work: Work, group: ImageGroup, predictor: Predictor) -> Vector | None:
        """How a group looks, where somebody wants to know and the model can tell."""
        if not work.wants_look or not isinstance(predictor, DescribingPredictor):
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

    def _send_later(self, work: Work, answer: Answer) -> None:
        if self._push is None or work.is_interactive or work.task.id is None or answer.problem:
            return
        try:
            self._push(work.task, answer)
        except BusyError:
            self._count("push_failed")
            _log.warning(
                "late answer dropped", extra={"event": "push_dropped", "task": work.task.id}
            )

    def _count(self, outcome: str, amount: int = 1) -> None:
        self._metrics.tasks.labels(outcome).inc(amount)


def content_key(group: ImageGroup) -> str:
    """Hash of a group's pixels, sizes and order."""
    return hashlib.sha256(" ".join(group.keys).encode()).hexdigest()


def answer_key(work: Work, content: str, *, version: str, code: str) -> str:
    """Hash of all a kept answer depends on; nothing a caller names can stand in for pixels."""
    task = work.task
    parts = (task.project_id, task.id, task.labels, work.schema, content, version, code)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _unusable(task: Task, version: str | None) -> Answer:
    problem = Problem(InvalidTaskError.__name__, task.problem or "", is_lasting=True)
    return Answer(b"", 0.0, version, problem)
