"""Worker processes of a large job, each with a model of its own; one that dies is replaced.

The driver hands out one chunk at a time. A worker whose driver is gone ends after the group under
way.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from backend.cli.prediction_files import as_document
from backend.cli.prelabel_manifest import ListedGroup
from backend.cli.prelabel_parts import Chunk, PartFolder
from backend.errors import BackendError, MediaUnavailableError
from backend.storage.places import read_place
from calico_model.errors import CalicoError
from calico_model.evaluation.protocol import GroupPredictor
from calico_model.picture import read_rgb
from calico_model.types import ImageGroup

_MOST_DEATHS = 3  # of workers that had the same chunk
_STOP_S = 60.0
Load = Callable[[], GroupPredictor]


class PrelabelError(BackendError):
    """A large job cannot go on; what is done is kept."""


@dataclass
class _Worker:
    process: BaseProcess
    calls: Connection
    chunk: Chunk | None = None


class WorkerPool:
    """The worker processes; use it as a context manager.

    Args:
        load: makes the model in a worker; has to be importable by its name.
        folder: of the files.
        count: of workers.
    """

    def __init__(self, load: Load, folder: Path, count: int) -> None:
        self._load, self._folder, self._count = load, folder, count
        self._context = multiprocessing.get_context("spawn")  # a fork would break torch
        self._workers: list[_Worker] = []
        self.version = ""

    def __enter__(self) -> WorkerPool:
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
        chunks: Sequence[Chunk],
        on_group: Callable[[], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Has the workers predict chunks; returns when all are done or somebody stops.

        Raises:
            PrelabelError: workers die of a chunk, or an image cannot be reached.
        """
        todo, deaths = deque(chunks), Counter[str]()
        while len(self._workers) < min(self._count, len(chunks)):
            self._workers.append(self._start())
        for worker in self._workers:
            self._hand_out(worker, todo)
        while not is_stopping() and any(worker.chunk for worker in self._workers):
            by_calls = {worker.calls: worker for worker in self._workers}
            for calls in wait(list(by_calls), timeout=0.5):
                worker = by_calls[calls]  # type: ignore[index]
                try:
                    message = self._receive(worker)
                except EOFError:
                    self._replace(worker, todo, deaths)
                    continue
                if message == "group":
                    on_group()
                elif message == "chunk":
                    worker.chunk = None
                    self._hand_out(worker, todo)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._load, self._folder), daemon=True
        )
        process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe
        return _Worker(process, ours)

    def _receive(self, worker: _Worker) -> object:
        message: object = worker.calls.recv()
        if isinstance(message, tuple):
            raise PrelabelError(str(message[1]))
        return message

    def _hand_out(self, worker: _Worker, todo: deque[Chunk]) -> None:
        if todo:
            worker.chunk = todo.popleft()
            with suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed at once
                worker.calls.send(worker.chunk)

    def _replace(self, worker: _Worker, todo: deque[Chunk], deaths: Counter[str]) -> None:
        worker.calls.close()
        worker.process.join()
        self._workers.remove(worker)
        if worker.chunk is None:
            return  # nothing was left for it to do
        deaths[worker.chunk.name] += 1
        if deaths[worker.chunk.name] >= _MOST_DEATHS:
            first = worker.chunk.groups[0].images[0]
            raise PrelabelError(
                f"{_MOST_DEATHS} workers died of the chunk that begins with {first} (exit status "
                f"{worker.process.exitcode}); is there enough memory?"
            )
        todo.appendleft(worker.chunk)
        self._workers.append(self._start())
        self._hand_out(self._workers[-1], todo)


def work(calls: Connection, load: Load, folder: Path) -> None:
    """Predicts the chunks that come, in a process of its own, until the pipe ends."""
    parts = PartFolder(folder)
    with parts.working():
        predictor = load()
        try:
            calls.send(predictor.version)
            while True:
                chunk = calls.recv()
                _predict_chunk(calls, parts, chunk, predictor)
                calls.send("chunk")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the driver is gone, or has stopped
        except MediaUnavailableError as error:
            calls.send(("stopped", str(error)))


def _predict_chunk(
    calls: Connection, parts: PartFolder, chunk: Chunk, predictor: GroupPredictor
) -> None:
    with parts.writing(chunk) as lines:
        for group in lines.left:
            if calls.poll():
                raise EOFError  # nothing is sent while a chunk is under way
            lines.add(predict_listed(group, predictor))
            calls.send("group")


def predict_listed(group: ListedGroup, predictor: GroupPredictor) -> dict[str, Any]:
    """Returns the document of one group; what is wrong with its images is its `problem`.

    Raises:
        MediaUnavailableError: an image cannot be reached now, but perhaps later.
    """
    about: dict[str, Any] = {"group": group.key, "images": list(group.images)}
    try:
        pixels = []
        for name in group.images:
            try:
                pixels.append(read_rgb(read_place(name)))
            except FileNotFoundError:
                return about | {"problem": f"{name}: no such file"}
            except OSError as error:
                raise MediaUnavailableError(f"{name}: cannot be reached now: {error}") from error
        ids = tuple(f"{n}" for n in range(1, len(pixels) + 1))
        images = ImageGroup(tuple(pixels), ids)
        prediction = predictor.predict(images)
    except CalicoError as error:
        return about | {"problem": str(error)}
    document = as_document([Path(name) for name in ids], images, prediction)
    for image, name in zip(document["images"], group.images, strict=True):
        image["file"] = name
    return about | document
