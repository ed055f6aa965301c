"""The states of a training run at a place that all machines reach: a folder or a bucket.

A state is one archive of what the run folder holds at that step, so it is there wholly or not at
all. Its name says the step, the run and the sha256 of the archive, which is checked when it is
taken. Knows files; which process asks, and when, is the command's.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from backend.errors import DamagedFilesError, FilesUnavailableError, SettingsError
from backend.storage.archives import pack, unpack
from backend.storage.shelf import Shelf
from calico_model.staging import file_sha256, sync

_STATE = "state"
_KEPT = ("adapter", "model", "curve.csv", _STATE)
"""What of a run folder makes a state; its own state is put into place last."""
_NAME = re.compile(r"states/step-(\d{7,})-([0-9a-f]{8})-([0-9a-f]{64})\.tar")
_PROBE = "states/probe.tar"
_STAGING = ".uploads"
_PAUSES_S = (0.0, 5.0, 60.0)
"""Before each attempt to store the last state."""


@dataclass(frozen=True, order=True)
class StateArchive:
    """One state, in the order of their steps.

    Attributes:
        step: optimiser steps done.
        run: hash of the recipe and data of the run.
        sha256: of the archive.
    """

    step: int
    run: str
    sha256: str

    @property
    def name(self) -> str:
        """Name of its archive."""
        return f"states/step-{self.step:07d}-{self.run}-{self.sha256}.tar"


class StateShelf:
    """Takes the newest state of a run before it starts, and stores every new one.

    Archives are stored by a thread. If it is slower than the training, states in between are left
    out; the two newest stay. A place that is away costs a warning.

    Args:
        shelf: where the archives are.
        out: run folder on this machine.
        tell: called with what the user should know.
        pauses_s: before each attempt to store the last state.
    """

    def __init__(
        self,
        shelf: Shelf,
        out: Path,
        tell: Callable[[str], None],
        *,
        pauses_s: Sequence[float] = _PAUSES_S,
    ) -> None:
        self._shelf, self._out, self._tell, self._pauses_s = shelf, out, tell, pauses_s
        self._staging = out / _STAGING
        self._thread = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._waiting: Path | None = None

    def choose(self) -> StateArchive | None:
        """Brings this run folder to the newest state there is, here or there, and stores it there.

        For one process alone, before the training. None when the run is new.

        Raises:
            FilesUnavailableError: the place cannot be reached now, or not be written.
            DamagedFilesError: all states there are damaged, and there is none here.
            SettingsError: the place has the states of another run.
        """
        shutil.rmtree(self._staging, ignore_errors=True)
        here, there = self._here(), self._there()
        self._try_to_write()
        if here is not None:
            step, run = here
            if any(state.run != run for state in there):
                raise SettingsError(
                    f"has the states of another run than {self._out}; "
                    "choose another place or another run folder"
                )
            there = [state for state in there if state.step >= step]
        for state in reversed(there):
            try:
                self._take(state)
            except DamagedFilesError as error:
                self._tell(f"{error}; taking the state before it")
            else:
                return state
        if here is not None:
            snapshot = self._snapshot()
            try:
                return self._store(snapshot, *here)
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)
        if there:
            raise DamagedFilesError(
                f"all {len(there)} training states there are damaged; remove them, and the same "
                "command begins anew"
            )
        return None

    def take(self, state: StateArchive) -> None:
        """Brings this run folder to a state, unless it is there.

        Raises:
            FilesUnavailableError: the place cannot be reached now.
            DamagedFilesError: the archive is not what was stored.
        """
        try:
            self._take(state)
        except DamagedFilesError as error:
            raise DamagedFilesError(
                f"{error}; remove it there, and run the same command again"
            ) from error

    def _take(self, state: StateArchive) -> None:
        if self._here() == (state.step, state.run):
            return
        staged = self._staging / uuid.uuid4().hex
        staged.mkdir(parents=True)
        try:
            archive, fresh = staged / "archive.tar", staged / "fresh"
            what = f"the training state {state.name}"
            self._shelf.get(state.name, archive)
            found = file_sha256(archive)
            if found != state.sha256:
                raise DamagedFilesError(f"{what} is damaged: its sha256 is {found[:12]}...")
            unpack(archive, fresh, what=what, deep=True)
            _remove(self._out / _STATE)  # from here to the end there is none
            for name in _KEPT:
                _remove(self._out / name)
                if (fresh / name).exists():
                    (fresh / name).rename(self._out / name)
            sync(self._out)
            self._tell(f"goes on from step {state.step}, which is stored there")
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def store_soon(self) -> None:
        """Notes the state that the run folder has now, and has it stored while training goes on."""
        if self._note():
            self._thread.submit(self._store_waiting)

    def finish(self) -> bool:
        """Stores what the run folder has at the end; returns whether it is there."""
        if self._here() is None:
            return True
        if not self._note():
            return False
        for pause_s in self._pauses_s:
            time.sleep(pause_s)
            self._thread.submit(self._store_waiting).result()
            with self._lock:
                is_stored = self._waiting is None
            if is_stored:
                shutil.rmtree(self._staging, ignore_errors=True)
                return True
        return False

    def _try_to_write(self) -> None:
        """Raises where no state could be stored: hours later it would cost a warning alone."""
        self._staging.mkdir(parents=True, exist_ok=True)
        empty = self._staging / "empty"
        empty.touch()
        try:
            self._shelf.put(_PROBE, empty)
            self._shelf.remove(_PROBE)
        except FilesUnavailableError as error:
            raise FilesUnavailableError(f"cannot be written: {error}") from error
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def _note(self) -> bool:
        """Keeps the state that the run folder has now for the thread; returns whether it could."""
        try:
            snapshot = self._snapshot()
        except OSError as error:
            self._tell(f"{error}; trying again at the next state")
            return False
        with self._lock:
            replaced, self._waiting = self._waiting, snapshot
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        return True

    def _store_waiting(self) -> None:
        with self._lock:
            snapshot, self._waiting = self._waiting, None
        if snapshot is None:
            return
        try:
            about = _read_state(snapshot / _STATE)
            if about is not None:
                self._store(snapshot, *about)
        except (FilesUnavailableError, OSError) as error:
            self._tell(f"{error}; trying again at the next state")
            with self._lock:
                if self._waiting is None:
                    self._waiting = snapshot
                    return
        shutil.rmtree(snapshot, ignore_errors=True)

    def _store(self, snapshot: Path, step: int, run: str) -> StateArchive:
        """Stores a snapshot, and removes all others but the one before it."""
        archive = snapshot.with_suffix(".tar")
        try:
            pack(snapshot, archive)
            state = StateArchive(step, run, file_sha256(archive))
            there = self._there()
            if state not in there:
                self._shelf.put(state.name, archive)
        finally:
            archive.unlink(missing_ok=True)
        before = [other for other in there if other.step < state.step]
        for other in there:
            if other not in (state, *before[-1:]):
                self._shelf.remove(other.name)
        return state

    def _snapshot(self) -> Path:
        """Returns a folder that keeps the files of the newest state, whatever becomes of the run's.

        Files of a run are replaced, never changed: a second name for each is enough.
        """
        folder = self._staging / uuid.uuid4().hex
        folder.mkdir(parents=True)
        for name in _KEPT:
            place = self._out / name
            if place.is_dir():
                shutil.copytree(place, folder / name, copy_function=_link)
            elif place.is_file():
                _link(place, folder / name)
        return folder

    def _here(self) -> tuple[int, str] | None:
        return _read_state(self._out / _STATE)

    def _there(self) -> list[StateArchive]:
        found = (_NAME.fullmatch(name) for name in self._shelf.names())
        return sorted(StateArchive(int(m[1]), m[2], m[3]) for m in found if m is not None)


def _read_state(folder: Path) -> tuple[int, str] | None:
    """Returns step and run of a folder of states; None where no readable one is."""
    try:
        newest = json.loads((folder / "newest.json").read_text("utf-8"))
        recipe = json.dumps(newest["recipe"], sort_keys=True)
        return int(newest["step"]), sha256(recipe.encode()).hexdigest()[:8]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name, or copies it where the disk cannot do that."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
