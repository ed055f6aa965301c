"""The user's own photographs for `calico demo --photos`: found, put into groups, copied.

A simple grouping by folder, or by the order of names. `calico import` looks at what they show.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from backend.errors import SettingsError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_IN_GROUP = 4
_IN_GROUP = 3

Tell = Callable[[int], None]


def photo_groups(folder: Path, limit: int) -> list[list[Path]]:
    """Returns groups of 2 to 4 photographs that lie in one folder, in the order of their names.

    Folders with more are divided in that order. A folder with a single photograph is a group of 1.

    Args:
        folder: searched with all folders below it; hidden ones are left out.
        limit: number of groups at most.

    Raises:
        SettingsError: it is no folder, or holds no photographs.
    """
    if not folder.is_dir():
        raise SettingsError(f"--photos: expected a folder, {folder} is none")
    by_folder = defaultdict[Path, list[Path]](list)
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden:
            by_folder[path.parent].append(path)
    if not by_folder:
        raise SettingsError(f"--photos: no {', '.join(SUFFIXES)} files in {folder}")
    groups = [group for photos in by_folder.values() for group in _divide(photos)]
    return groups[:limit]


def copy_photos(
    files: Path, name: str, groups: Sequence[Sequence[Path]], tell: Tell
) -> list[list[str]]:
    """Copies photographs to where Label Studio may read them.

    Args:
        files: Label Studio's document root.
        name: of the subfolder.
        groups: from `photo_groups`.
        tell: called with the number of groups copied.

    Returns:
        Task data per group: the images' addresses inside Label Studio.
    """
    (files / name).mkdir(parents=True, exist_ok=True)
    addresses = []
    for number, group in enumerate(groups, start=1):
        targets = [
            f"{name}/{number:03}-{place}{path.suffix.lower()}"
            for place, path in zip("abcd", group, strict=False)
        ]
        for path, target in zip(group, targets, strict=True):
            shutil.copyfile(path, files / target)
        addresses.append([f"/data/local-files/?d={target}" for target in targets])
        tell(number)
    return addresses


def _divide(photos: Sequence[Path]) -> list[list[Path]]:
    """Divides the photographs of a folder into groups of three, the last ones of two or four."""
    if len(photos) <= MAX_IN_GROUP:
        return [list(photos)]
    groups = [list(photos[start : start + _IN_GROUP]) for start in range(0, len(photos), _IN_GROUP)]
    if len(groups[-1]) == 1:
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    return groups
