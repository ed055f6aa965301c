"""Released checkpoints in a folder that was copied from another machine, read like the hub.

The folder holds each repository as OWNER/NAME, as NAME, or in the cache layout of the hub's client;
a source's folder holds the files of its one repository itself. A folder of `calico fetch` has a
receipt with sizes and checksums; the cache names large files by their sha256.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open

from backend.cli.hub import HubFile, Repository, check_bytes
from backend.decoding import read_json
from backend.errors import FetchError
from calico_model.sources.hub_folder import CONFIG

RECEIPT = "fetched.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Receipt(msgspec.Struct, frozen=True):
    """The list of fetched files. It is written last, so it marks a complete folder."""

    what: str
    repositories: tuple[Repository, ...]


def read_receipt(folder: Path) -> Receipt | None:
    """Reads the receipt of a folder; None if there is none.

    Raises:
        FetchError: the receipt cannot be read.
    """
    try:
        return read_json((folder / RECEIPT).read_bytes(), Receipt)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FetchError(f"{folder / RECEIPT}: not a receipt of calico fetch: {error}") from error


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Writes the receipt of a folder: to a temporary file, which is synced and renamed."""
    staged = folder / f".{RECEIPT}.partial"
    with staged.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(receipt)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    staged.rename(folder / RECEIPT)


class Carried:
    """Reads repositories below one folder.

    Args:
        folder: that was copied here.
        is_source: whether one repository is wanted, whose files may lie in the folder itself.

    Raises:
        FetchError: no such folder, or a damaged receipt.
    """

    def __init__(self, folder: Path, *, is_source: bool = False) -> None:
        if not folder.is_dir():
            raise FetchError(f"--from: expected a folder, got {folder}")
        self._folder = folder
        receipt = read_receipt(folder)
        self._listed = {} if receipt is None else {r.name: r for r in receipt.repositories}
        self._is_source = is_source

    def repository(self, name: str) -> Repository:
        """Lists a repository's files, with the sizes and checksums of the receipt if there is one.

        Raises:
            FetchError: the folder has no such repository.
        """
        place = self._place(name)
        present = {
            file.name: HubFile(file.name, file.stat().st_size, _cached_digest(file))
            for file in sorted(place.iterdir())
            if file.is_file() and not file.name.startswith(".") and file.name != RECEIPT
        }
        listed = self._listed.get(name)
        if listed is None:
            return Repository(name, "carried", "", present)
        return replace(listed, files={**present, **listed.files})

    def text(self, repository: Repository, name: str) -> str:
        """Reads a small file."""
        return self._file(repository, name).read_text("utf-8", "replace")

    def download(
        self, repository: Repository, name: str, to: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Links a file to its place, or copies it from another disk, and checks it.

        Raises:
            FetchError: missing, or another size or sha256 than listed.
        """
        file, where = self._file(repository, name), f"{repository.name}/{name}"
        partial = to.with_name(f".{to.name}.partial")
        partial.unlink(missing_ok=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, partial)
        except OSError:
            try:
                shutil.copyfile(file, partial)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise FetchError(f"{where}: cannot be copied: {error}") from error
        check_bytes(partial, repository.files[name], where)
        partial.rename(to)
        on_bytes(repository.files[name].nbytes)

    def _place(self, name: str) -> Path:
        cache = self._folder / f"models--{name.replace('/', '--')}" / "snapshots"
        snapshots = sorted(cache.iterdir()) if cache.is_dir() else []
        places = (self._folder / name, self._folder / name.partition("/")[2], *snapshots)
        place = next((place for place in places if place.is_dir()), None)
        if place is None and self._is_itself(name):
            place = self._folder
        if place is None:
            itself = ", its files in the folder itself" if self._is_source else ""
            raise FetchError(
                f"--from: {self._folder} has no {name}; expected it as {name}, as "
                f"{name.partition('/')[2]}{itself}, or in the layout of the hub's cache"
            )
        return place

    def _is_itself(self, name: str) -> bool:
        """Whether the folder holds the files of this repository itself, as `fetch` writes them."""
        if not self._is_source or (self._listed and name not in self._listed):
            return False
        return (self._folder / CONFIG).is_file()

    def _file(self, repository: Repository, name: str) -> Path:
        file = (self._place(repository.name) / name).resolve()
        if not file.is_file():
            raise FetchError(f"{repository.name}/{name}: missing in {self._folder}")
        return file


def check_weights(path: Path, where: str) -> None:
    """Checks by its own table of contents that a weights file is complete.

    Raises:
        FetchError: truncated, or not of the format of its suffix.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                return
        except (OSError, SafetensorError) as error:
            raise FetchError(f"{where}: truncated or not a safetensors file: {error}") from error
    if path.suffix == ".bin" and path.open("rb").read(2) == b"PK" and not zipfile.is_zipfile(path):
        raise FetchError(f"{where}: truncated")


def _cached_digest(file: Path) -> str | None:
    """Returns the sha256 by which the cache of the hub's client names a large file, or None."""
    name = file.resolve().name
    return name if _SHA256.fullmatch(name) else None
