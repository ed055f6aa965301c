"""What lies in a folder of photographs: files to read, and files that cannot be used and why."""

from __future__ import annotations

import os
import re
import stat
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


def list_photographs(folder: Path, option: str = "FOLDER") -> Listing:
    """Lists the photographs of a folder and its subfolders, hidden files left out.

    Args:
        folder: to look in.
        option: how messages call the folder.

    Raises:
        SettingsError: there is none, or the path of the folder is not UTF-8.
    """
    if _printable(str(folder.resolve())) != str(folder.resolve()):
        raise SettingsError(f"{option}: expected a path in UTF-8, got {_printable(str(folder))}")
    names, skipped = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for file in files:
            path = Path(parent, file)
            name, ending = str(path.relative_to(folder)), path.suffix.lower()
            if file.startswith("."):
                continue
            if ending in READABLE:
                fault = _fault(path)
                if fault is None:
                    names.append(name)
                else:
                    skipped.append(Skipped(_printable(name), fault))
            elif ending in _OTHER_PICTURES:
                reason = f"browsers do not show {ending} files; convert it to JPEG or PNG"
                skipped.append(Skipped(_printable(name), reason))
    if not names:
        beside = f", only {len(skipped)} in other formats" if skipped else ""
        raise SettingsError(
            f"{option}: expected photographs ({', '.join(sorted(READABLE))}) in {folder}, "
            f"found none{beside}"
        )
    skipped.sort(key=lambda one: natural_order(one.name))
    return Listing(folder.resolve(), tuple(sorted(names, key=natural_order)), tuple(skipped))


def _fault(path: Path) -> str | None:
    """Why a file cannot be imported whatever is in it; None if its content decides."""
    try:
        is_plain = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        is_plain = True  # looking at it will say why it cannot be read
    if not is_plain:
        return "no plain file"  # reading a pipe would wait for ever
    if _printable(str(path)) != str(path):
        return "its path is not UTF-8; rename it"
    return None


def _printable(name: str) -> str:
    """The name with a mark in place of every byte that is not UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts names as people count: img2 before img10."""
    pieces = _DIGITS.split(name.lower())
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), name
