"""The folders of adapter versions: on this machine, and on a shelf that several servers reach.

A folder never changes once it has its place. Without a shelf all processes use one folder. With a
shelf each machine keeps verified copies: what is missing or damaged here is taken from the shelf.
Absent is not damaged: only a wrong digest of what the shelf has says that a version is.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import DamagedFilesError, FilesUnavailableError
from backend.settings import Settings
from backend.storage.archives import pack, unpack
from backend.storage.shelf import Shelf, open_shelf
from calico_model.staging import sync

INCOMING = ".incoming"
"""Folder of what is being written; anything in it may be removed once it is an hour old."""
_KEPT_COPIES = 4  # of a project, beside the folders of the last hour
_RECENT_S = 3600.0


def adapter_files(settings: Settings) -> AdapterFiles:
    """Returns the folders of adapters that the settings name.

    Raises:
        SettingsError: a library for the shelf is missing.
    """
    url = settings.adapters_url
    return AdapterFiles(settings.adapters_dir, None if url is None else open_shelf(url))


class AdapterFiles:
    """The folders of versions by their uri, "PROJECT/NAME". Threads and processes may share them.

    Args:
        folder: of all adapters on this machine.
        shelf: where other machines find them; None where this folder is all there is.
    """

    def __init__(self, folder: Path, shelf: Shelf | None = None) -> None:
        self.folder, self._shelf = folder, shelf

    def path(self, uri: str) -> Path:
        """Folder of a version on this machine, unchecked."""
        return self.folder / uri

    def may_be_there(self, uri: str) -> bool:
        """Whether asking for a version that was unavailable has a chance; reaches for nothing."""
        return self._shelf is not None or self.path(uri).is_dir()

    def verified(self, uri: str, sha256: str) -> Path:
        """Returns the folder of a version whose files are those that were registered.

        Args:
            uri: of the version.
            sha256: `folder_digest` when it was registered.

        Raises:
            DamagedFilesError: the files are others.
            FilesUnavailableError: the files cannot be reached now.
        """
        place = self.path(uri)
        found = _digest_if_there(place)
        if found == sha256:
            return place
        if self._shelf is not None:
            return self._take(self._shelf, uri, sha256)
        if found is None:
            raise FilesUnavailableError(f"{place} is not there")
        raise DamagedFilesError(f"{place} is damaged: {_difference(found, sha256)}")

    def share(self, uri: str) -> bool:
        """Puts a version of this machine onto the shelf; returns whether there is one.

        Raises:
            FilesUnavailableError: the shelf cannot be reached now.
        """
        if self._shelf is None:
            return False
        with self._staging() as staged:
            archive = staged / "archive.tar"
            pack(self.path(uri), archive)
            self._shelf.put(_archive(uri), archive)
        return True

    def shared(self) -> frozenset[str]:
        """Returns the uris of the versions on the shelf.

        Raises:
            FilesUnavailableError: the shelf cannot be reached now.
        """
        names = frozenset() if self._shelf is None else self._shelf.names()
        return frozenset(name.removesuffix(".tar") for name in names)

    def withdraw(self, uris: Collection[str]) -> int:
        """Removes versions from the shelf; returns how many of them were there.

        Raises:
            FilesUnavailableError: the shelf cannot be reached now.
        """
        if self._shelf is None:
            return 0
        gone = self.shared() & set(uris)
        for uri in gone:
            self._shelf.remove(_archive(uri))
        return len(gone)

    def _take(self, shelf: Shelf, uri: str, sha256: str) -> Path:
        """Copies a version from the shelf, once however many ask at the same time."""
        place = self.path(uri)
        with self._turn(uri):
            if _digest_if_there(place) == sha256:
                return place
            with self._staging() as staged:
                shelf.get(_archive(uri), staged / "archive.tar")
                fresh = staged / "fresh"
                what = f"{_archive(uri)} on the shelf"
                unpack(staged / "archive.tar", fresh, what=what)
                found, _ = folder_digest(fresh)
                if found != sha256:
                    raise DamagedFilesError(f"{what} is damaged: {_difference(found, sha256)}")
                if place.exists():
                    place.rename(staged / "damaged")
                place.parent.mkdir(parents=True, exist_ok=True)
                fresh.rename(place)
                sync(place.parent)
        self._forget_old_copies(place)
        return place

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        staged = self.folder / INCOMING / uuid.uuid4().hex
        try:
            staged.mkdir(parents=True)
            yield staged
        except OSError as error:
            raise FilesUnavailableError(f"{self.folder} cannot be written: {error}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    @contextmanager
    def _turn(self, uri: str) -> Iterator[None]:
        """Lets one thread of all processes of this machine at a time take a version."""
        locks = self.folder / INCOMING / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / hashlib.sha256(uri.encode()).hexdigest()[:16]).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
            yield

    def _forget_old_copies(self, place: Path) -> None:
        """Removes old copies of a project's versions; the shelf still has them."""
        copies = [path for path in place.parent.iterdir() if path != place]
        copies.sort(key=_age_s)
        for path in copies[_KEPT_COPIES - 1 :]:
            if _age_s(path) > _RECENT_S:  # nobody is about to read it
                shutil.rmtree(path, ignore_errors=True)


def folder_digest(folder: Path) -> tuple[str, int]:
    """Returns the sha256 of a folder's files, names included, and their size in bytes.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    digest, nbytes = hashlib.sha256(), 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        nbytes += len(content)
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest(), nbytes


def _digest_if_there(folder: Path) -> str | None:
    try:
        return folder_digest(folder)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FilesUnavailableError(f"{folder} cannot be read: {error}") from error


def _difference(found: str, expected: str) -> str:
    return f"sha256 {found[:12]}, expected {expected[:12]}"


def _archive(uri: str) -> str:
    return f"{uri}.tar"


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
