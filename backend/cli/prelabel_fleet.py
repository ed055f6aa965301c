"""`calico prelabel --address`: actors on all machines of a fleet predict, this process writes.

Part files are written as those of local workers. Whatever dies, a chunk goes on behind its last
line, with another actor.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from backend.cli.prelabel_manifest import ListedGroup
from backend.cli.prelabel_parts import Chunk, PartFolder
from backend.cli.prelabel_workers import Load, PrelabelError, no_such_file, predict_listed
from backend.errors import FleetError
from backend.fleet.actors import ActorAnswer, FleetActors
from backend.storage.places import is_remote
from calico_model.evaluation.protocol import GroupPredictor

_MOST_DEATHS = 3  # of actors that were asked about the same groups
_POLL_S = 0.5
_START_S = 600.0
_STOP_S = 60.0
Documents = list[dict[str, Any]]
Answering = Callable[[Sequence[ListedGroup]], tuple[str, Documents]]


class Actors(Protocol):
    """Processes elsewhere that are asked about groups, each one question at a time."""

    def start(self) -> int:
        """Starts one; returns its number."""

    def submit(self, actor: int, question: Sequence[ListedGroup]) -> None:
        """Asks one about groups."""

    def ready(self, timeout_s: float) -> Sequence[ActorAnswer]:
        """Returns the answers that are there; waits for the first one, but not for ever."""

    def close(self) -> None:
        """Ends all."""


def begin_answers(load: Load, folder: Path) -> Answering:
    """Loads the model of an actor.

    Args:
        load: makes the model.
        folder: relative names of images count from it, if this machine has it.

    Returns:
        A function from groups to the version that predicts, and the groups' documents.
    """
    with suppress(OSError):
        os.chdir(folder)
    return functools.partial(_answer, load())


def _answer(predictor: GroupPredictor, groups: Sequence[ListedGroup]) -> tuple[str, Documents]:
    return predictor.version, predict_listed(groups, predictor)


class ActorPool:
    """What predicts the chunks of a job on a fleet; use it as a context manager.

    Args:
        actors: starts and asks actors.
        parts: the files.
        count: of actors.
        at_once: groups in one question.

    Attributes:
        version: names what predicts.
    """

    def __init__(self, actors: Actors, parts: PartFolder, count: int, at_once: int = 1) -> None:
        self._actors, self._parts, self._count, self._at_once = actors, parts, count, at_once
        self._living: set[int] = set()
        self._idle: deque[int] = deque()
        self._asked: dict[int, _Filling] = {}
        self._todo: deque[_Filling] = deque()
        self._deaths: Counter[str] = Counter()
        self.version = ""

    def __enter__(self) -> ActorPool:
        """Starts one actor and learns the version of its weights; the others start with work."""
        until = time.monotonic() + _START_S
        try:
            self._start()
            while not self.version:
                for answer in self._actors.ready(_POLL_S):
                    self._take(answer, lambda: None)
                if time.monotonic() > until:
                    raise PrelabelError(f"no worker had a model within {_START_S:g} s")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the actors; lines that are written stay for the next run."""
        self._actors.close()
        for filling in (*self._asked.values(), *self._todo):
            filling.close()

    def run(
        self,
        chunks: Sequence[Chunk],
        on_group: Callable[[], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Has the chunks predicted and written; returns when all are, or somebody stops.

        Groups under way are finished before it stops, if that takes less than a minute.

        Raises:
            PrelabelError: actors die of a group, or what they need cannot be reached.
        """
        self._todo = deque(_Filling(self._parts, chunk, self._at_once) for chunk in chunks)
        while len(self._living) < min(self._count, len(chunks)):
            self._start()
        stop_at = None
        self._hand_out()
        while self._asked or self._todo:
            if stop_at is None and is_stopping():
                stop_at = time.monotonic() + _STOP_S
            if stop_at is not None and (not self._asked or time.monotonic() > stop_at):
                return
            for answer in self._actors.ready(_POLL_S):
                self._take(answer, on_group)
            if stop_at is None:
                self._hand_out()

    def _start(self) -> None:
        actor = self._actors.start()
        self._living.add(actor)
        self._actors.submit(actor, ())  # answered once the model is there

    def _hand_out(self) -> None:
        while self._idle and self._todo:
            filling = self._todo.popleft()
            if filling.few:  # else its file is whole
                actor = self._idle.popleft()
                self._asked[actor] = filling
                self._actors.submit(actor, filling.few)

    def _take(self, answer: ActorAnswer, on_group: Callable[[], None]) -> None:
        filling = self._asked.pop(answer.actor, None)
        if filling is not None:
            self._todo.appendleft(filling)  # whoever is free goes on with it
        if answer.death is not None:
            self._replace(answer, filling)
            return
        if answer.failure is not None:
            raise PrelabelError(f"machine {answer.machine}: {answer.failure}")
        version, documents = answer.value
        self.version = self.version or version
        if version != self.version:
            raise PrelabelError(
                f"machine {answer.machine} has the weights {version}, another one "
                f"{self.version}; expected the same on all machines"
            )
        self._deaths.pop("", None)
        self._idle.append(answer.actor)
        if filling is not None:
            for document in documents:
                _refuse_unseen(document, answer.machine)
            filling.write(documents)
            for _ in documents:
                on_group()

    def _replace(self, answer: ActorAnswer, filling: _Filling | None) -> None:
        name, what, most = "", "before they had a model", _MOST_DEATHS * len(self._living)
        if filling is not None:
            name, first = filling.few[0].key, filling.few[0].images[0]
            what, most = f"of the group that begins with {first}", _MOST_DEATHS
            if len(filling.few) > 1:
                what = f"of {len(filling.few)} groups, the first of which begins with {first}"
        self._living.discard(answer.actor)
        self._deaths[name] += 1
        if self._deaths[name] >= most:
            raise PrelabelError(
                f"{most} workers died {what} ({answer.death}); is there enough memory?"
            )
        self._start()


def join_fleet(
    load: Load,
    parts: PartFolder,
    data_dir: Path | None,
    address: str,
    *,
    workers: int | None,
    at_once: int,
    cpus: float,
    gpus: float,
) -> ActorPool:
    """Returns the workers on a fleet, of which none is started yet.

    Args:
        load: makes the model in a worker.
        parts: the files.
        data_dir: has the token of the fleet.
        address: of its head.
        workers: how many; as many as there is room for if None.
        at_once: groups that a model answers at once.
        cpus: cores that one counts for.
        gpus: graphics cards that one counts for.

    Raises:
        SettingsError: the address is none, or there is no database for all.
        FleetError: there is no fleet, no room, or no Ray installed.
    """
    from backend.cli.fleet import connected_settings
    from backend.fleet.connection import require_ray

    settings = connected_settings(data_dir, address)
    require_ray()
    begin = functools.partial(begin_answers, load, Path.cwd())
    actors = FleetActors(settings, begin, cpus=cpus, gpus=gpus)
    if (room := actors.room) < 1:
        raise FleetError(
            f"--address: no machine of the fleet has {cpus:g} cores and {gpus:g} graphics cards "
            "free; join more machines, or give --cpus and --gpus"
        )
    return ActorPool(actors, parts, workers or room, at_once)


class _Filling:
    """The file of one chunk while its lines come.

    Attributes:
        few: the groups to ask about next; none once the file is whole.
    """

    def __init__(self, parts: PartFolder, chunk: Chunk, at_once: int) -> None:
        self._steps = _fill(parts, chunk, at_once)
        self._few: Sequence[ListedGroup] | None = None

    @property
    def few(self) -> Sequence[ListedGroup]:
        if self._few is None:
            self._few = next(self._steps, ())
        return self._few

    def write(self, documents: Documents) -> None:
        """Writes the lines of `few`."""
        try:
            self._few = self._steps.send(documents)
        except StopIteration:
            self._few = ()

    def close(self) -> None:
        """Leaves the file as it is."""
        self._steps.close()


def _fill(
    parts: PartFolder, chunk: Chunk, at_once: int
) -> Generator[Sequence[ListedGroup], Documents, None]:
    """Yields the groups to ask about next, and gets their lines; at the end the file is whole."""
    with parts.writing(chunk) as lines:
        while left := lines.left:
            for document in (yield left[:at_once]):
                lines.add(document)


def _refuse_unseen(document: dict[str, Any], machine: str) -> None:
    """Refuses the answer of a machine that does not see an image which is there.

    Raises:
        PrelabelError: names the image.
    """
    for name in document["images"] if "problem" in document else ():
        is_missing = document["problem"] == no_such_file(name)
        if is_missing and not is_remote(name) and Path(name).exists():
            raise PrelabelError(
                f"{name}: machine {machine} does not see it; expected images at s3:// or gs://, "
                "or in a folder that all machines have under one name"
            )
