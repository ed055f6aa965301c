"""Files and folders that appear whole or not at all: staged beside their place, synced, swapped in.

And the hash of a file, by which readers check it. Knows files. Does not know what is in them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from safetensors import SafetensorError

from calico_model.errors import CheckpointError


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends well.

    Whatever stops the block, `folder` stays as it was. A kill between the two renames of the swap
    leaves the old folder as `.NAME.retired`; `recover` puts it back.

    Args:
        folder: replaced with all it holds, or made; its parents are made too.

    Raises:
        CheckpointError: the disk is full or refuses; nothing of the new content stays.
    """
    recover(folder)
    staged, retired = _beside(folder)
    try:
        staged.mkdir(parents=True)
        yield staged
        for path in (*staged.rglob("*"), staged):
            sync(path)
        if folder.is_dir():
            folder.rename(retired)
        staged.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        recover(folder)
        raise CheckpointError(f"{folder}: could not be written: {error}") from error
    except BaseException:
        recover(folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def recover(folder: Path) -> None:
    """Removes what an interrupted `staged_folder` left, and undoes half a swap."""
    staged, retired = _beside(folder)
    shutil.rmtree(staged, ignore_errors=True)
    if retired.is_dir() and not folder.exists():
        retired.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yields a path of the same suffix to write; it replaces `path` when the block ends well.

    Raises:
        CheckpointError: the disk is full or refuses; the old file stays.
    """
    staged = path.with_name(f".{path.stem}.staged{path.suffix}")
    try:
        yield staged
        sync(staged)
        staged.replace(path)
        sync(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be written: {error}") from error
    finally:
        staged.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replaces a small file in one step that survives a power loss.

    Raises:
        CheckpointError: the disk is full or refuses; the old file stays.
    """
    with staged_file(path) as staged:
        staged.write_text(text, "utf-8")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs; unfinished files carry the number of theirs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.staged"), folder.with_name(f".{folder.name}.retired")
