"""Where labeled groups come from: a data set on disk, or drawings on demand; and their taxonomy.

A taxonomy lists the parts that the things of each class can have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from calico_model.data import synthetic
from calico_model.data.catalogue import CATEGORIES, parts_of
from calico_model.data.groups import GroupSet, read_groups
from calico_model.data.mixedparts.folders import find_records
from calico_model.data.mixedparts.reading import MixedPartsGroups
from calico_model.data.records import RECORDS_FILE
from calico_model.data.synthetic import SceneSplit
from calico_model.types import LabeledGroup


def open_groups(
    path: Path,
    *,
    skip_broken: bool = False,
    on_progress: Callable[[int], None] = lambda _done: None,
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


PartsOf = dict[str, tuple[str, ...]]


def drawn_taxonomy() -> PartsOf:
    """Returns every part an instance of each drawn category can have."""
    return {name: parts_of(name) for name in CATEGORIES}


def read_taxonomy(groups: GroupSet) -> PartsOf:
    """Returns the parts each class has anywhere in the records of a data set.

    Args:
        groups: opened, so that every record was checked.
    """
    parts: dict[str, dict[str, None]] = {}
    for index in range(len(groups)):
        compared = groups.comparison(index)
        if compared is None:
            continue
        shared = [part.part_cat for part in compared.common or ()]
        unique = compared.unique.part_cats if compared.unique else ((),) * len(compared.cats)
        for label, names in zip(compared.cats, unique, strict=True):
            known = parts.setdefault(label.lower(), {})
            known |= dict.fromkeys(name.lower() for name in (*shared, *names))
    return {label: tuple(names) for label, names in parts.items()}


class DrawnGroups(Sequence[LabeledGroup]):
    """Groups drawn when they are asked for: the ones `calico synth` would write."""

    def __init__(self, split: SceneSplit, groups: int, seed: int, sizes: tuple[int, int]) -> None:
        self._split, self._groups, self._seed, self._sizes = split, groups, seed, sizes

    def __len__(self) -> int:
        return self._groups

    @overload
    def __getitem__(self, index: int) -> LabeledGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LabeledGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> LabeledGroup | tuple[LabeledGroup, ...]:
        """Draws one group, or several."""
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = synthetic.group_rng(synthetic.Stream.EVALUATION, self._seed, index)
        size = int(rng.integers(self._sizes[0], self._sizes[1] + 1))
        scenes = synthetic.draw_group(rng, split=self._split, group_size=size)
        ids = [f"{self._split}-{self._seed}-{index}-{n + 1}" for n in range(size)]
        return synthetic.labeled_group(scenes, ids)
