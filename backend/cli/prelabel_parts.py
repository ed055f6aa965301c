"""The files of a large job: each holds the predictions of one chunk of groups, whole or not at all.

`part-HASH.jsonl`: a first line with the version and the keys of its groups, then one line per
group. While a chunk is under way its lines gather in `.incoming`; who takes the chunk over goes on
behind the last whole line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backend.cli.prelabel_manifest import ListedGroup
from backend.errors import SettingsError
from calico_model.staging import sync

_INCOMING = ".incoming"


@dataclass(frozen=True)
class Chunk:
    """Groups whose predictions come into one file.

    Attributes:
        groups: in order.
        version: of the weights.
    """

    groups: tuple[ListedGroup, ...]
    version: str

    @property
    def name(self) -> str:
        """Of its file: follows from what is in it."""
        about = json.dumps([self.version, [group.key for group in self.groups]])
        return f"part-{hashlib.sha256(about.encode()).hexdigest()[:16]}.jsonl"

    @property
    def first(self) -> str:
        """Its first image."""
        return self.groups[0].images[0]


class PartFolder:
    """The folder of a large job's files.

    Args:
        folder: made with the first chunk.
        option: what named it, for messages.
    """

    def __init__(self, folder: Path, option: str = "--out") -> None:
        self._folder, self._option = folder, option

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps a second job out while the block runs.

        Raises:
            SettingsError: another job writes into the folder.
        """
        incoming = self._folder / _INCOMING
        try:
            incoming.mkdir(parents=True, exist_ok=True)
            lock = (incoming / "lock").open("w")
        except OSError as error:
            raise SettingsError(
                f"{self._option}: {self._folder} cannot be written: {error}"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SettingsError(
                    f"{self._option}: another job is at work in {self._folder}"
                ) from None
            with (incoming / "workers").open("w") as workers:
                # Those of a job that was killed leave after the group under way.
                fcntl.flock(workers, fcntl.LOCK_EX)
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keeps the next job waiting while a worker of this one is in the block."""
        with (self._folder / _INCOMING / "workers").open("w") as workers:
            fcntl.flock(workers, fcntl.LOCK_SH)
            yield

    def chunks(self, groups: Sequence[ListedGroup], version: str, size: int) -> list[Chunk]:
        """Divides what is still to do into chunks.

        Chunks that were under way come back as they were, so that nothing of them is lost.

        Raises:
            SettingsError: the folder holds predictions of another version.
        """
        done = set()
        for path in sorted(self._folder.glob("part-*.jsonl")):
            head = _head(path)
            if head["version"] != version:
                raise SettingsError(
                    f"--out: {self._folder} holds predictions of {head['version']}, not of "
                    f"{version}; name another folder"
                )
            done |= set(head["groups"])
        by_key = {group.key: group for group in groups if group.key not in done}
        begun = []
        for path in sorted((self._folder / _INCOMING).glob("part-*.jsonl")):
            head = _head(path)
            keys = head.get("groups", ())
            if head.get("version") == version and keys and by_key.keys() >= set(keys):
                begun.append(Chunk(tuple(by_key.pop(key) for key in keys), version))
            else:  # of another manifest or version, or without a whole line
                path.unlink()
        left = list(by_key.values())
        starts = range(0, len(left), size)
        return begun + [Chunk(tuple(left[at : at + size]), version) for at in starts]

    @contextmanager
    def writing(self, chunk: Chunk) -> Iterator[PartWriter]:
        """Yields the lines of a chunk; its file gets its place when the block ends well."""
        path = self._folder / _INCOMING / chunk.name
        with path.open("a+b") as file:
            writer = PartWriter(file, chunk)
            yield writer
            writer.finish()
            path.replace(self._folder / chunk.name)
            sync(self._folder)

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yields the line of every group that is done."""
        for path in sorted(self._folder.glob("part-*.jsonl")):
            with path.open("rb") as file:
                next(file)
                yield from map(json.loads, file)


class PartWriter:
    """The lines of one chunk; goes on where they end.

    Args:
        file: opened for reading and appending.
        chunk: whose lines these are.
    """

    def __init__(self, file: BinaryIO, chunk: Chunk) -> None:
        self._file, self._chunk = file, chunk
        file.seek(0)
        lines = [line for line in file if line.endswith(b"\n")]
        file.truncate(sum(map(len, lines)))
        if not lines:
            self._append({"version": chunk.version, "groups": [g.key for g in chunk.groups]})
        self._done = max(0, len(lines) - 1)

    @property
    def left(self) -> Sequence[ListedGroup]:
        """The groups without a line, in order."""
        return self._chunk.groups[self._done :]

    def add(self, document: dict[str, Any]) -> None:
        """Writes the line of the next group."""
        self._append(document)
        self._done += 1

    def finish(self) -> None:
        """Checks that every group has its line, and puts them on the disk."""
        assert self._done == len(self._chunk.groups)
        sync(Path(self._file.name))

    def _append(self, document: dict[str, Any]) -> None:
        self._file.seek(0, 2)
        self._file.write(json.dumps(document).encode() + b"\n")
        self._file.flush()


def _head(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        line = file.readline()
    found = json.loads(line) if line.endswith(b"\n") else {}
    return found if isinstance(found, dict) else {}
