"""Opens labeled groups, whichever of our two layouts a path holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calico_model.data.groups import GroupSet, read_groups
from calico_model.data.mixedparts.folders import find_records
from calico_model.data.mixedparts.reading import MixedPartsGroups
from calico_model.data.records import RECORDS_FILE


def open_groups(
    path: Path,
    *,
    skip_broken: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> GroupSet:
    """Opens a data set.

    Args:
        path: a folder with `records.json`, as `calico synth` writes; a file
            `mixed_parts_{train,val,test}.json` beside its sources; or a folder with one such.
        skip_broken: leave out broken MixedParts records; see `MixedPartsGroups`.
        on_progress: called with the number of MixedParts records looked at.

    Raises:
        InvalidRecordError: nothing of that kind, or what is there is broken.
    """
    records = None if (path / RECORDS_FILE).is_file() else find_records(path)
    if records is None:
        return read_groups(path)
    return MixedPartsGroups(records, skip_broken=skip_broken, on_progress=on_progress)
