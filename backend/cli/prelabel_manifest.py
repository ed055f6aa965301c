"""Which groups of images a large job is about: from a folder, a bucket, or a CSV file.

Values in, values out; reads names of images, never their pixels.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from backend.cli.photo_folder import READABLE, natural_order
from backend.errors import SettingsError
from backend.storage.places import is_remote, join_place, list_place, read_place
from calico_model.types import MAX_GROUP_SIZE

_ENDINGS = READABLE | {".tif", ".tiff"}


@dataclass(frozen=True)
class ListedGroup:
    """Images that are segmented together.

    Attributes:
        images: paths or URLs, in order.
    """

    images: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """Hash of the names: equal groups are done once."""
        return hashlib.sha256("\0".join(self.images).encode()).hexdigest()[:24]


def read_manifest(place: str) -> tuple[ListedGroup, ...]:
    """Lists the groups of a large job, each once, in order.

    Args:
        place: a CSV file with one group per row, or a folder in which every folder is a group;
            either may be at s3:// or gs://. Paths in a CSV count from its folder. A folder of more
            than 8 images makes several groups, in the order people count.

    Raises:
        SettingsError: it cannot be read, or a row is no group.
    """
    try:
        if place.lower().endswith(".csv"):
            groups = _groups_of_rows(place, read_place(place).decode("utf-8-sig"))
        else:
            groups = _groups_of_folders(list_place(place))
    except SettingsError as error:
        raise SettingsError(f"MANIFEST: {error}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"MANIFEST: {place} cannot be read: {error}") from error
    distinct = {group.key: group for group in groups}
    if not distinct:
        raise SettingsError(f"MANIFEST: expected images in {place}, found none")
    return tuple(distinct.values())


def _groups_of_folders(names: Iterable[str]) -> list[ListedGroup]:
    folders: dict[str, list[str]] = {}
    for name in sorted((name for name in names if _is_image(name)), key=natural_order):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return [
        ListedGroup(tuple(members[start : start + MAX_GROUP_SIZE]))
        for members in folders.values()
        for start in range(0, len(members), MAX_GROUP_SIZE)
    ]


def _groups_of_rows(place: str, text: str) -> list[ListedGroup]:
    folder = place.rpartition("/")[0]
    groups = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        cells = [cell.strip() for cell in row if cell.strip()]
        if not cells or (number == 1 and not any(map(_is_image, cells))):
            continue  # an empty line, or the names of the columns
        groups.append(_group_of_row(folder, number, cells))
    return groups


def _group_of_row(folder: str, number: int, cells: Sequence[str]) -> ListedGroup:
    wrong = [cell for cell in cells if not _is_image(cell)]
    if wrong:
        raise SettingsError(
            f"row {number}: expected images ({', '.join(sorted(_ENDINGS))}), got {wrong[0]!r}"
        )
    if len(cells) > MAX_GROUP_SIZE:
        raise SettingsError(
            f"row {number}: expected 1 to {MAX_GROUP_SIZE} images, got {len(cells)}"
        )
    return ListedGroup(
        tuple(cell if is_remote(cell) else join_place(folder, cell) for cell in cells)
    )


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _ENDINGS
