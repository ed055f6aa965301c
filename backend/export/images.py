"""Images of an export: fetched once, written under a name that no other image has.

A picture is one file however many tasks show it: what counts is its content, not its address. The
list `fetched.jsonl` says which addresses were fetched, so a stopped export does not fetch again.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import numpy as np
from PIL import Image

from backend.decoding import read_json
from calico_model.data.records import IMAGES_FOLDER
from calico_model.picture import plain_format
from calico_model.types import RgbImage

FETCHED_FILE = "fetched.jsonl"
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
_JPEG_QUALITY = 95
_LONGEST_STEM = 48
_LEAST_DIGITS = 16  # of the hash in a name


class ImageFiles(StrEnum):
    """How images come into the folder."""

    COPY = "copy"
    LINK = "link"


class FileSource(Protocol):
    """Source of image files."""

    def fetch_file(
        self, url: str, *, field: str = "url", task_id: int | None = None
    ) -> tuple[bytes, RgbImage]:
        """Returns the file and its pixels; raises MediaError."""

    def local_path(self, url: str) -> Path | None:
        """Returns where an image lies on this machine, None if it does not."""


@dataclass(frozen=True)
class StoredImage:
    """An image in the folder.

    Attributes:
        key: of its content: equal for equal files.
        file_name: inside the folder of images.
        size_hw: (height, width) in pixels, upright.
    """

    key: str
    file_name: str
    size_hw: tuple[int, int]


class _Fetched(msgspec.Struct):
    """A line of the list: an address, and the file it became."""

    address: str
    key: str
    file_name: str
    size_hw: tuple[int, int]
    byte_count: int
    is_rewritten: bool


class ImageStore:
    """Brings images into a folder.

    Args:
        folder: of the export; may hold the images of a stopped one.
        source: where images come from.
        files: LINK links files that lie on this machine, and copies all others.
        origin: of the addresses: equal paths of two Label Studios are two addresses.
    """

    def __init__(
        self, folder: Path, source: FileSource, files: ImageFiles, *, origin: str = ""
    ) -> None:
        self._images, self._list = folder / IMAGES_FOLDER, folder / FETCHED_FILE
        self._source, self._files, self._origin = source, files, origin
        self._images.mkdir(parents=True, exist_ok=True)
        self._by_address: dict[str, _Fetched] = {}
        self._name_of: dict[str, str] = {}
        self._stems: set[str] = set()
        self._used: set[str] = set()
        self.reused = self.linked = 0
        self._read_list()

    def store(self, url: str, *, field: str, task_id: int) -> StoredImage:
        """Returns the image of an address, fetched if this is its first use.

        Raises:
            MediaError: the image cannot be used.
        """
        address = hashlib.sha256(f"{self._origin} {url}".encode()).hexdigest()
        found = self._by_address.get(address)
        if found is None:
            found = self._fetch(url, address, field, task_id)
            self._by_address[address] = found
        elif found.file_name not in self._used:
            self.reused += 1
        self._used.add(found.file_name)
        return StoredImage(found.key, found.file_name, found.size_hw)

    @property
    def rewritten(self) -> int:
        """Number of used images whose file is not the original one."""
        used = {f.file_name for f in self._by_address.values() if f.is_rewritten}
        return len(used & self._used)

    def finish(self) -> None:
        """Removes the list, and images that a stopped export fetched and this one does not use."""
        for path in self._images.iterdir():
            if path.name not in self._used:
                path.unlink()
        self._list.unlink(missing_ok=True)

    def _read_list(self) -> None:
        lines = self._list.read_bytes().splitlines() if self._list.is_file() else []
        for line in lines:
            try:
                entry = read_json(line, _Fetched)
                path = self._images / entry.file_name
                size = path.stat().st_size
            except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
                continue  # the last line of a killed export; or a file that somebody removed
            if size == entry.byte_count and not (self._files is ImageFiles.COPY and _is_link(path)):
                self._by_address[entry.address] = entry
                self._name_of[entry.key] = entry.file_name
                self._stems.add(entry.file_name.rpartition(".")[0])
        # Written anew: the last line may end in its middle, and the next one would join it.
        kept = b"".join(msgspec.json.encode(e) + b"\n" for e in self._by_address.values())
        _write_whole(self._list, kept)

    def _fetch(self, url: str, address: str, field: str, task_id: int) -> _Fetched:
        content, pixels = self._source.fetch_file(url, field=field, task_id=task_id)
        key = hashlib.sha256(content).hexdigest()
        kept = plain_format(content)
        ending = _ENDINGS[kept or _format_of_rewritten(content)]
        name = self._name_of.get(key) or self._new_name(url, key, ending)
        path = self._images / name
        if key not in self._name_of:
            local = self._source.local_path(url) if self._files is ImageFiles.LINK else None
            if kept is not None and local is not None:
                _link(local, path)
                self.linked += 1
            else:
                _write_whole(path, content if kept else _encoded(pixels, ending))
            self._name_of[key] = name
        size_hw = (pixels.shape[0], pixels.shape[1])
        entry = _Fetched(address, key, name, size_hw, path.stat().st_size, kept is None)
        with self._list.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
        return entry

    def _new_name(self, url: str, key: str, ending: str) -> str:
        """Returns the picture's own name with digits of its content behind it."""
        digits = _LEAST_DIGITS
        while (stem := f"{_stem_of(url)}-{key[:digits]}") in self._stems:
            digits += 1
        self._stems.add(stem)
        return f"{stem}.{ending}"


def _stem_of(url: str) -> str:
    """Returns the readable part of a name: letters of ASCII, digits, "_" and "-"."""
    if url[:5].lower() == "data:":
        return "image"
    parts = urlsplit(url)
    path = parse_qs(parts.query).get("d", [parts.path])[0]  # local files name it in the query
    stem = unquote(path).rstrip("/").rpartition("/")[2].rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:_LONGEST_STEM] or "image"


def _format_of_rewritten(content: bytes) -> str:
    """A photograph stays a JPEG: without loss it would be ten times as large."""
    return "JPEG" if content.startswith(b"\xff\xd8\xff") else "PNG"


def _encoded(pixels: RgbImage, ending: str) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if ending == "jpg":
        image.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(file, "PNG")
    return file.getvalue()


def _link(original: Path, path: Path) -> None:
    """Links a file: hard where both are on one file system, else by its path."""
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(original)
    except OSError:
        path.symlink_to(original)


def _is_link(path: Path) -> bool:
    """Whether a file is also somewhere else."""
    return path.is_symlink() or path.stat().st_nlink > 1


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is complete as soon as it has its name."""
    staged = path.with_name(f".{path.name}")
    staged.write_bytes(content)
    staged.replace(path)
