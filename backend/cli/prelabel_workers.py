"""Worker processes of a large job, each with a model of its own; one that dies is replaced.

The driver hands out one share at a time. A worker whose driver is gone ends after the group under
way.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from backend.cli.prediction_files import as_document
from backend.cli.prelabel_manifest import ListedGroup
from backend.cli.prelabel_parts import Chunk, PartFolder
from backend.errors import BackendError, MediaUnavailableError
from backend.storage.places import read_place
from calico_model.errors import CalicoError
from calico_model.evaluation.protocol import BatchPredictor, GroupPredictor
from calico_model.picture import read_rgb
from calico_model.types import GroupPrediction, ImageGroup

_MOST_DEATHS = 3  # of workers that had the same chunk
_STOP_S = 60.0
_GROUP = ("group",)  # a version is text


class Share(Protocol):
    """What a worker gets at once."""

    @property
    def name(self) -> str:
        """Unlike that of every other share of the job."""

    @property
    def first(self) -> str:
        """What it begins with, for messages."""


S = TypeVar("S", bound=Share)
_S = TypeVar("_S", bound=Share, contravariant=True)
Load = Callable[[], GroupPredictor]


class ShareWork(Protocol[_S]):
    """What a worker does, with a model of its own."""

    @property
    def version(self) -> str:
        """Names what predicts."""

    def do(self, share: _S, on_group: Callable[[], None]) -> Mapping[str, str]:
        """Predicts a share; `on_group` is called after every group, and may raise EOFError.

        Returns:
            What could not be predicted, and why.
        """

    def close(self) -> None:
        """Ends what it has begun."""


class PrelabelError(BackendError):
    """A large job cannot go on; what is done is kept."""


@dataclass(frozen=True)
class _Ended:
    """A worker's share is done; what could not be predicted, and why."""

    problems: Mapping[str, str]


@dataclass(frozen=True)
class _Stopped:
    """A worker can do no more."""

    reason: str


@dataclass
class _Worker(Generic[S]):
    process: BaseProcess
    calls: Connection
    share: S | None = None


class WorkerPool(Generic[S]):
    """The worker processes; use it as a context manager.

    Args:
        begin: makes what a worker does, in its process; has to be importable by its name.
        folder: of the job, which a next job leaves alone until the last worker has ended.
        count: of workers.

    Attributes:
        version: names what predicts.
        problems: what could not be predicted, and why.
    """

    def __init__(self, begin: Callable[[], ShareWork[S]], folder: Path, count: int) -> None:
        self._begin, self._folder, self._count = begin, folder, count
        self._context = multiprocessing.get_context("spawn")  # a fork would break torch
        self._workers: list[_Worker[S]] = []
        self.version = ""
        self.problems: dict[str, str] = {}

    def __enter__(self) -> WorkerPool[S]:
        """Starts one worker and learns the version of its weights; the others start with work."""
        self._workers.append(self._start())
        try:
            self.version = str(self._receive(self._workers[0]))
        except EOFError:
            self.__exit__()
            raise PrelabelError("the weights cannot be loaded; the reason is above") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Stops every worker after the group under way."""
        for worker in self._workers:
            worker.calls.close()
        for worker in self._workers:
            worker.process.join(_STOP_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(
        self,
        shares: Sequence[S],
        on_group: Callable[[], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Has the workers predict shares; returns when all are done or somebody stops.

        Raises:
            PrelabelError: workers die of a share, or what they need cannot be reached.
        """
        todo, deaths = deque(shares), Counter[str]()
        while len(self._workers) < min(self._count, len(shares)):
            self._workers.append(self._start())
        for worker in self._workers:
            self._hand_out(worker, todo)
        while not is_stopping() and any(worker.share for worker in self._workers):
            by_calls = {worker.calls: worker for worker in self._workers}
            for calls in wait(list(by_calls), timeout=0.5):
                worker = by_calls[calls]  # type: ignore[index]
                try:
                    message = self._receive(worker)
                except EOFError:
                    self._replace(worker, todo, deaths)
                    continue
                if isinstance(message, _Ended):
                    self.problems |= message.problems
                    worker.share = None
                    self._hand_out(worker, todo)
                elif message == _GROUP:  # else the version of a worker that has just started
                    on_group()

    def _start(self) -> _Worker[S]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._begin, self._folder), daemon=True
        )
        process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe
        return _Worker(process, ours)

    def _receive(self, worker: _Worker[S]) -> object:
        try:
            message: object = worker.calls.recv()
        except ConnectionResetError as error:  # it died before it had read its share
            raise EOFError from error
        if isinstance(message, _Stopped):
            raise PrelabelError(message.reason)
        return message

    def _hand_out(self, worker: _Worker[S], todo: deque[S]) -> None:
        if todo:
            worker.share = todo.popleft()
            with suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed at once
                worker.calls.send(worker.share)

    def _replace(self, worker: _Worker[S], todo: deque[S], deaths: Counter[str]) -> None:
        worker.calls.close()
        worker.process.join()
        self._workers.remove(worker)
        if worker.share is None:
            return  # nothing was left for it to do
        deaths[worker.share.name] += 1
        if deaths[worker.share.name] >= _MOST_DEATHS:
            raise PrelabelError(
                f"{_MOST_DEATHS} workers died of the chunk that begins with {worker.share.first} "
                f"(exit status {worker.process.exitcode}); is there enough memory?"
            )
        todo.appendleft(worker.share)
        self._workers.append(self._start())
        self._hand_out(self._workers[-1], todo)


def work(calls: Connection, begin: Callable[[], ShareWork[S]], folder: Path) -> None:
    """Does the shares that come, in a process of its own, until the pipe ends."""

    def end_of_group() -> None:
        if calls.poll():
            raise EOFError  # nothing is sent while a share is under way
        calls.send(_GROUP)

    with PartFolder(folder).working():
        try:
            with closing(begin()) as doing:
                calls.send(doing.version)
                while True:
                    share = calls.recv()
                    calls.send(_Ended(doing.do(share, end_of_group)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the driver is gone, or has stopped
        except (BackendError, CalicoError) as error:
            calls.send(_Stopped(str(error)))


@dataclass(frozen=True)
class FileWork:
    """Predicts groups into the files of a job.

    Attributes:
        predictor: the model.
        parts: the files.
        at_once: groups that the model predicts together.
    """

    predictor: GroupPredictor
    parts: PartFolder
    at_once: int = 1

    @property
    def version(self) -> str:
        """Of the weights."""
        return self.predictor.version

    def do(self, share: Chunk, on_group: Callable[[], None]) -> Mapping[str, str]:
        """Predicts a chunk; a problem of a group is in its line of the file."""
        with self.parts.writing(share) as lines:
            left = lines.left
            for start in range(0, len(left), self.at_once):
                few = left[start : start + self.at_once]
                for document in predict_listed(few, self.predictor):
                    lines.add(document)
                for _ in few:  # once all are written: it may end the work
                    on_group()
        return {}

    def close(self) -> None:
        """Nothing was begun."""


def begin_files(load: Load, folder: Path, at_once: int = 1) -> FileWork:
    """Loads the model of a worker that writes files."""
    return FileWork(load(), PartFolder(folder), at_once)


def predict_listed(
    listed: Sequence[ListedGroup], predictor: GroupPredictor
) -> list[dict[str, Any]]:
    """Returns the document of each group; what is wrong with its images is its `problem`.

    Raises:
        MediaUnavailableError: an image cannot be reached now, but perhaps later.
    """
    read = [_read(group) for group in listed]
    groups = [one for one in read if isinstance(one, ImageGroup)]
    predicted = iter(_predict(groups, predictor))
    documents = []
    for group, one in zip(listed, read, strict=True):
        about: dict[str, Any] = {"group": group.key, "images": list(group.images)}
        found = next(predicted) if isinstance(one, ImageGroup) else one
        if isinstance(found, str) or isinstance(one, str):
            documents.append(about | {"problem": found})
            continue
        document = as_document([Path(name) for name in one.ids], one, found)
        for image, name in zip(document["images"], group.images, strict=True):
            image["file"] = name
        documents.append(about | document)
    return documents


def no_such_file(name: str) -> str:
    """Returns the problem of a group with an image that is not there."""
    return f"{name}: no such file"


def _read(group: ListedGroup) -> ImageGroup | str:
    """Returns the images of a group, or what is wrong with them."""
    pixels = []
    for name in group.images:
        try:
            pixels.append(read_rgb(read_place(name)))
        except FileNotFoundError:
            return no_such_file(name)
        except OSError as error:
            raise MediaUnavailableError(f"{name}: cannot be reached now: {error}") from error
        except CalicoError as error:
            return str(error)
    try:
        return ImageGroup(tuple(pixels), tuple(f"{n}" for n in range(1, len(pixels) + 1)))
    except CalicoError as error:
        return str(error)


def _predict(
    groups: Sequence[ImageGroup], predictor: GroupPredictor
) -> list[GroupPrediction | str]:
    """Returns each group's prediction, or why there is none."""
    if len(groups) > 1 and isinstance(predictor, BatchPredictor):
        with suppress(CalicoError):  # one by one says which
            return list(predictor.predict_groups(groups))
    found: list[GroupPrediction | str] = []
    for group in groups:
        try:
            found.append(predictor.predict(group))
        except CalicoError as error:
            found.append(str(error))
    return found
