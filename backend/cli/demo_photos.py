"""The user's own photographs for `calico demo --photos`: found, put into groups, copied.

A simple grouping by folder, or by the order of names. `calico import` looks at what they show.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from backend.cli.import_plan import photographs_by_folder
from backend.cli.photo_folder import Skipped, list_photographs
from backend.errors import SettingsError
from calico_model.errors import InvalidImageError
from calico_model.picture import read_reduced

MAX_IN_GROUP = 4
_IN_GROUP = 3
_LOOK_PX = 64

Tell = Callable[[int], None]


def photo_groups(folder: Path, limit: int) -> tuple[list[list[Path]], list[Skipped]]:
    """Returns groups of 2 to 4 photographs that lie in one folder, in the order of their names.

    Folders with more are divided in that order. A folder with a single photograph is a group of 1.
    Photographs are decoded, so that none is shown that cannot be; those of further groups are not.

    Args:
        folder: searched with all folders below it; hidden ones are left out.
        limit: number of groups at most.

    Returns:
        The groups, and the files that were left out with the reason.

    Raises:
        SettingsError: it is no folder, or holds no photographs that can be read.
    """
    if not folder.is_dir():
        raise SettingsError(f"--photos: expected a folder, {folder} is none")
    listing = list_photographs(folder, "--photos")
    skipped = list(listing.skipped)
    groups: list[list[Path]] = []
    for names in photographs_by_folder(listing.names).values():
        most = (limit - len(groups)) * MAX_IN_GROUP
        if most > 0:
            groups += _divide(list(_readable(listing.folder, names, most, skipped)))
    if not groups:
        raise SettingsError(
            f"--photos: expected photographs in {folder}, none can be read "
            f"({skipped[0].name}: {skipped[0].reason})"
        )
    return groups[:limit], skipped


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


def _readable(
    folder: Path, names: Sequence[str], most: int, skipped: list[Skipped]
) -> Iterator[Path]:
    """Yields the first photographs that can be decoded, and notes those before that cannot."""
    found = 0
    for name in names:
        try:
            read_reduced((folder / name).read_bytes(), _LOOK_PX, name=name)
        except (InvalidImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            skipped.append(Skipped(name, (reason or "cannot be read").removeprefix(f"{name}: ")))
            continue
        yield folder / name
        found += 1
        if found == most:
            return


def _divide(photos: Sequence[Path]) -> list[list[Path]]:
    """Divides the photographs of a folder into groups of three, the last ones of two or four."""
    if not photos:
        return []
    if len(photos) <= MAX_IN_GROUP:
        return [list(photos)]
    groups = [list(photos[start : start + _IN_GROUP]) for start in range(0, len(photos), _IN_GROUP)]
    if len(groups[-1]) == 1:
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    return groups
