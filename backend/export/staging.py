"""The folder that an export fills: it has its name only when it is complete.

Until then it stands beside the target as `.NAME.partial`. A stopped export leaves it there, and the
next one goes on with the images in it.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import SettingsError
from backend.export.images import FETCHED_FILE
from calico_model.data.records import IMAGES_FOLDER


def partial_folder(target: Path) -> Path:
    """Returns where an export stands until it is complete."""
    target = target.resolve()
    return target.with_name(f".{target.name}.partial")


def check_target(target: Path) -> None:
    """Refuses a target that holds something.

    Raises:
        SettingsError: a file, or a folder that is not empty.
    """
    if not target.resolve().name or (
        target.exists() and (not target.is_dir() or any(target.iterdir()))
    ):
        raise SettingsError(f"--to: expected a new or empty folder, got {target}")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yields a folder that becomes the target when the block ends without an error.

    The folder holds the images of a stopped export and nothing else.

    Raises:
        SettingsError: the target is not empty, or another export fills it right now.
    """
    check_target(target)
    folder = partial_folder(target)
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder.with_name(f"{folder.name}.lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"--to: another export writes to {target} right now; wait for it, or choose "
                "another folder"
            ) from None
        _clear(folder)
        try:
            yield folder
        except BaseException:
            if not any((folder / IMAGES_FOLDER).glob("*")):
                shutil.rmtree(folder)  # nothing that is worth keeping
            lock_path.unlink()
            raise
        folder.replace(target.resolve())
        lock_path.unlink()


def _clear(folder: Path) -> None:
    """Removes everything but the images of a stopped export and the list of them."""
    for path in folder.iterdir():
        if path.name in (IMAGES_FOLDER, FETCHED_FILE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
