"""A place that several machines reach and archives are kept in: a folder or a bucket.

A version of an adapter, or a state of a training, is one archive there: there wholly or not at all,
also when whoever writes it is killed. Does not know what an archive holds. Buckets are read through
fsspec, which is imported only where one is configured.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from backend.errors import FilesUnavailableError, SettingsError
from backend.storage.places import bucket_library
from calico_model.staging import sync

_INCOMING = ".incoming"
_LEFT_S = 86_400.0
"""Age of a half written archive that nobody writes any more."""
_CONNECT_S, _READ_S, _TRIES = 5, 60, 2


class Shelf(Protocol):
    """Archives by name, for example "7/0a1b2c3d-4.tar". Threads and processes may share it.

    Every method raises FilesUnavailableError where the place cannot be reached now.
    """

    def put(self, name: str, archive: Path) -> None:
        """Stores a file under a name, wholly or not at all."""

    def get(self, name: str, target: Path) -> None:
        """Copies an archive to a file; also raises FilesUnavailableError if there is none."""

    def names(self) -> frozenset[str]:
        """Returns the names of all archives."""

    def remove(self, name: str) -> None:
        """Removes an archive, if it is there."""


class FolderShelf:
    """A folder, for example of a file server that every machine has mounted.

    Args:
        root: made with the first archive.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, archive: Path) -> None:
        """Stores a file under a name, wholly or not at all."""
        staged = self._root / _INCOMING / uuid.uuid4().hex
        place = self._root / name
        with _reaching(str(place)):
            staged.parent.mkdir(parents=True, exist_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            try:
                shutil.copyfile(archive, staged)
                sync(staged)
                staged.replace(place)
            finally:
                staged.unlink(missing_ok=True)
            sync(place.parent)

    def get(self, name: str, target: Path) -> None:
        """Copies an archive to a file."""
        with _reaching(str(self._root / name)):
            shutil.copyfile(self._root / name, target)

    def names(self) -> frozenset[str]:
        """Returns the names of all archives."""
        with _reaching(str(self._root)):
            found = self._root.glob("*/*.tar")
            return frozenset(path.relative_to(self._root).as_posix() for path in found)

    def _sweep(self) -> None:
        """Removes what killed processes left half written."""
        for left in (self._root / _INCOMING).iterdir():
            with suppress(FileNotFoundError):  # another machine was first
                if time.time() - left.stat().st_mtime > _LEFT_S:
                    left.unlink()

    def remove(self, name: str) -> None:
        """Removes an archive, if it is there."""
        with _reaching(str(self._root / name)):
            (self._root / name).unlink(missing_ok=True)


class BucketShelf:
    """A place that fsspec reaches. A bucket shows an object once all of it has arrived.

    Args:
        connect: returns the file system; called with the first use, in the process that uses it.
        root: bucket and prefix.
        url: for messages.
    """

    def __init__(self, connect: Callable[[], Any], root: str, url: str) -> None:
        self._connect, self._root, self._url = connect, root.rstrip("/"), url

    def put(self, name: str, archive: Path) -> None:
        """Stores a file under a name, wholly or not at all."""
        with _reaching(f"{self._url}/{name}"):
            self._connect().put_file(str(archive), f"{self._root}/{name}")

    def get(self, name: str, target: Path) -> None:
        """Copies an archive to a file."""
        with _reaching(f"{self._url}/{name}"):
            self._connect().get_file(f"{self._root}/{name}", str(target))

    def names(self) -> frozenset[str]:
        """Returns the names of all archives."""
        with _reaching(self._url):
            files = self._connect()
            files.invalidate_cache()
            found = files.find(self._root)
        # s3fs gives the folder itself if its first archive arrives while it looks.
        inside = f"{self._root}/"
        return frozenset(path.removeprefix(inside) for path in found if path.startswith(inside))

    def remove(self, name: str) -> None:
        """Removes an archive, if it is there."""
        with _reaching(f"{self._url}/{name}"), suppress(FileNotFoundError):
            self._connect().rm_file(f"{self._root}/{name}")


def open_shelf(url: str, *, setting: str = "CALICO_ADAPTERS_URL") -> Shelf:
    """Returns the shelf at an address; reaches for nothing yet.

    Args:
        url: file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.
        setting: where the address comes from, for messages.

    Raises:
        SettingsError: a library is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderShelf(Path(unquote(parts.path)))
    try:
        library = bucket_library(parts.scheme)
    except SettingsError as error:
        raise SettingsError(f"{setting}: {error}") from None
    options: dict[str, Any] = {"use_listings_cache": False}
    if parts.scheme == "s3":
        patience = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
        options["config_kwargs"] = {**patience, "retries": {"max_attempts": _TRIES}}

    def connect() -> Any:
        # Kept by fsspec for each process and thread: connections do not survive a fork.
        return library.filesystem(parts.scheme, **options)

    return BucketShelf(connect, f"{parts.netloc}{unquote(parts.path)}", url.rstrip("/"))


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    try:
        yield
    except FilesUnavailableError:
        raise
    except FileNotFoundError as error:
        raise FilesUnavailableError(f"{what} is not there") from error
    except Exception as error:  # the clients of buckets raise errors of many kinds
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise FilesUnavailableError(
            f"{what} cannot be reached now: {type(error).__name__}, {reason}"
        ) from error
