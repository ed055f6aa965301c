"""What lies in a folder of photographs: files to read, and files that cannot be used and why."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from backend.errors import SettingsError

READABLE = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""What browsers show and the model reads."""
_OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".avif", ".tif", ".tiff", ".psd"}
    | {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"}
)
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Skipped:
    """A file that is not imported.

    Attributes:
        name: relative to the folder.
        reason: why, for people.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The files of a folder.

    Attributes:
        folder: absolute path.
        names: of photographs, relative to the folder, in the order people count (2 before 10).
        skipped: pictures in formats that browsers do not show.
    """

    folder: Path
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def list_photographs(folder: Path) -> Listing:
    """Lists the photographs of a folder and its subfolders, hidden files left out.

    Raises:
        SettingsError: there is none.
    """
    names, skipped = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for file in files:
            path = Path(parent, file)
            name, ending = str(path.relative_to(folder)), path.suffix.lower()
            if file.startswith("."):
                continue
            if ending in READABLE:
                names.append(name)
            elif ending in _OTHER_PICTURES:
                reason = f"browsers do not show {ending} files; convert it to JPEG or PNG"
                skipped.append(Skipped(name, reason))
    if not names:
        beside = f", only {len(skipped)} in other formats" if skipped else ""
        raise SettingsError(
            f"FOLDER: expected photographs ({', '.join(sorted(READABLE))}) in {folder}, "
            f"found none{beside}"
        )
    skipped.sort(key=lambda one: natural_order(one.name))
    return Listing(folder.resolve(), tuple(sorted(names, key=natural_order)), tuple(skipped))


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts names as people count: img2 before img10."""
    pieces = _DIGITS.split(name.lower())
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), name
