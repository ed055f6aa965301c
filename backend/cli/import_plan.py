"""What `calico import` was asked for, as values; needs no heavy library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path, PurePath

from calico_model.types import MAX_GROUP_SIZE


class Way(StrEnum):
    """How photographs become groups."""

    FOLDER = "folder"
    NAME = "name"
    TIME = "time"
    SIMILARITY = "similarity"


class LabelsAs(StrEnum):
    """What existing masks become."""

    ANNOTATIONS = "annotations"
    PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Plan:
    """How photographs become groups.

    Attributes:
        way: what brings photographs together.
        sizes: fewest and most photographs of a group.
        pattern: for names: its first bracket, or the whole match, is what a group shares.
        gap: for times: a longer pause begins a new group.
        is_series: whether every folder is an ordered series, such as the frames of a video.
    """

    way: Way
    sizes: tuple[int, int]
    pattern: re.Pattern[str] | None = None
    gap: timedelta = timedelta(minutes=2)
    is_series: bool = False

    def needs_vectors(self, names: Sequence[str]) -> bool:
        """Whether what the photographs show decides anything."""
        if self.is_series:
            return False
        if self.way is not Way.FOLDER:
            return self.way is Way.SIMILARITY
        return any(
            len(members) > self.sizes[1] for members in photographs_by_folder(names).values()
        )


def folders_are_groups(names: Sequence[str]) -> bool:
    """Whether folders say what belongs together: several, none of more than a group's images."""
    counts = [len(members) for members in photographs_by_folder(names).values()]
    return len(counts) > 1 and max(counts) <= MAX_GROUP_SIZE and min(counts) > 1


@dataclass(frozen=True)
class LabelsFile:
    """Existing masks.

    Attributes:
        path: COCO instances.
        become: what they become.
        skip_unknown: leave out labels that the config lacks.
    """

    path: Path
    become: LabelsAs
    skip_unknown: bool = False


@dataclass(frozen=True)
class Wishes:
    """What else was asked for.

    Attributes:
        dry_run: show the groups and import nothing.
        keep_near_duplicates: import pictures that are there twice in groups apart.
        preview: of a contact sheet, or None.
        labels: existing masks, or None.
    """

    dry_run: bool = False
    keep_near_duplicates: bool = False
    preview: Path | None = None
    labels: LabelsFile | None = None


def photographs_by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the names that lie in one folder, by folder, in order."""
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(str(PurePath(name).parent), []).append(name)
    return together
