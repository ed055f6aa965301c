"""Makes the records of one source: balanced draws, compared by what shows in them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TypeVar

import numpy as np

from calico_model.data.comparison import partition
from calico_model.data.mixedparts.classes import SourcePlan
from calico_model.data.mixedparts.sampling import Draw, draw_groups, keep_made, take_turns
from calico_model.data.mixedparts.sheet import ComparedClass, SheetRegion, Sheets
from calico_model.data.mixedparts.source import AnnotatedSource, Census
from calico_model.data.records import (
    CommonObject,
    CommonPart,
    ComparedPair,
    Record,
    UniqueParts,
)
from calico_model.types import RegionKind

_PATIENCE = 40
"""Draws of one class or pair of classes in a row without a record, after which it is left."""
_SHARE_DIGITS = 6
_PART_KINDS = (RegionKind.UNIQUE_PART, RegionKind.COMMON_PART)
_Item = TypeVar("_Item")


class RecordMaker:
    """Makes the records of one source.

    Args:
        source: of one split.
        census: of the source.
        sheets: of the source.
        plan: which of its classes are comparable.
        group_sizes: smallest and largest number of images per record.
        rng: draws images.
    """

    def __init__(
        self,
        source: AnnotatedSource,
        census: Census,
        sheets: Sheets,
        plan: SourcePlan,
        group_sizes: tuple[int, int],
        rng: np.random.Generator,
    ) -> None:
        self._source = source
        self._census = census
        self._sheets = sheets
        self._plan = plan
        self._group_sizes = group_sizes
        self._rng = rng

    def object_records(self, quota: int) -> Iterator[Record]:
        """Yields up to `quota` records of common objects, every class in turn."""
        pools = self._pools(with_parts=False)
        labels = [label for label in sorted(pools) if len(pools[label]) >= 2]
        streams = [
            keep_made(
                draw_groups(self._rng, (label, label), pools, self._group_sizes),
                self._object_record,
                _PATIENCE,
            )
            for label in self._shuffled(labels)
        ]
        for _, record in zip(range(quota), take_turns(streams), strict=False):
            yield record

    def part_records(self, quotas: Mapping[RegionKind, int]) -> Iterator[Record]:
        """Yields records of parts until both subtasks have their quota, the scarcer first."""
        pools = self._pools(with_parts=True)
        pairs = [
            (a, b)
            for a, b in self._plan.comparable(self._census.classes)
            if len(pools[a]) + len(pools[b]) >= 2 and pools[a] and pools[b]
        ]
        draws = {
            pair: draw_groups(self._rng, pair, pools, self._group_sizes)
            for pair in self._shuffled(pairs)
        }
        spare: dict[RegionKind, deque[Record]] = {aim: deque() for aim in _PART_KINDS}
        streams = {
            aim: take_turns(
                [keep_made(d, partial(self._aimed, aim, spare), _PATIENCE) for d in draws.values()]
            )
            for aim in _PART_KINDS
        }
        made: Counter[RegionKind] = Counter()
        while wanted := [aim for aim in streams if made[aim] < quotas[aim]]:
            aim = min(wanted, key=lambda kind: made[kind] - quotas[kind])
            record = spare[aim].popleft() if spare[aim] else next(streams[aim], None)
            if record is None:
                del streams[aim]
                continue
            made.update(subtasks_of(record))
            yield record

    def _aimed(
        self, aim: RegionKind, spare: Mapping[RegionKind, deque[Record]], draw: Draw
    ) -> Record | None:
        """Returns a record if it has truth for a subtask; keeps it for the other if not."""
        record = self._part_record(draw)
        kinds = () if record is None else subtasks_of(record)
        if record is None or aim in kinds:
            return record
        spare[kinds[0]].append(record)
        return None

    def _pools(self, *, with_parts: bool) -> dict[str, tuple[int, ...]]:
        return {
            label: self._sheets.images_with(label, with_parts=with_parts)
            for label in self._census.classes
        }

    def _object_record(self, draw: Draw) -> Record | None:
        """Returns what all images of a draw show, None if that is nothing."""
        if not self._are_readable(draw):
            return None
        shown = [self._sheets.objects(image_id) for _, image_id in draw]
        common, _ = partition([tuple(objects) for objects in shown])
        if not common:
            return None
        return Record(
            str(self._source.dataset_name),
            tuple(image_id for _, image_id in draw),
            is_object=True,
            common=tuple(
                CommonObject(
                    cat=label,
                    ann_ids=tuple(objects[label].ids for objects in shown),
                    visibility=tuple(_share(objects[label]) for objects in shown),
                )
                for label in common
            ),
        )

    def _part_record(self, draw: Draw) -> Record | None:
        """Returns the comparison of a draw, None if it has neither common nor unique parts."""
        if not self._are_readable(draw):
            return None
        classes = [self._sheets.compared(image_id, label) for label, image_id in draw]
        shown = [compared for compared in classes if compared is not None]
        if len(shown) < len(draw):
            return None
        common, unique = partition(
            [tuple(compared.visible) for compared in shown], [c.known for c in shown]
        )
        if not common and not any(unique):
            return None
        comparison = ComparedPair(
            cats=tuple(label for label, _ in draw),
            ann_ids=tuple(compared.region.ids for compared in shown),
            visibility=tuple(_share(compared.region) for compared in shown),
            common=tuple(self._common_part(name, shown) for name in common) or None,
            unique=self._unique_parts(unique, shown) if any(unique) else None,
        )
        img_ids = tuple(image_id for _, image_id in draw)
        name = str(self._source.dataset_name)
        return Record(name, img_ids, is_object=False, pairs=(comparison,))

    def _common_part(self, name: str, shown: list[ComparedClass]) -> CommonPart:
        ids = tuple(compared.visible[name].ids for compared in shown)
        shares = tuple(_share(compared.visible[name]) for compared in shown)
        if self._source.has_part_labels:
            return CommonPart(name, part_cat_ids=ids, part_visibility=shares)
        return CommonPart(name, part_ann_ids=ids, part_visibility=shares)

    def _unique_parts(
        self, names: tuple[tuple[str, ...], ...], shown: list[ComparedClass]
    ) -> UniqueParts:
        ids = tuple(
            tuple(compared.visible[name].ids for name in labels)
            for labels, compared in zip(names, shown, strict=True)
        )
        if self._source.has_part_labels:
            return UniqueParts(names, part_cat_ids=ids)
        return UniqueParts(names, part_ann_ids=ids)

    def _are_readable(self, draw: Draw) -> bool:
        return all(self._sheets.is_readable(image_id) for _, image_id in draw)

    def _shuffled(self, items: list[_Item]) -> list[_Item]:
        return [items[k] for k in self._rng.permutation(len(items))]


def subtasks_of(record: Record) -> tuple[RegionKind, ...]:
    """Returns the subtasks a record has truth for."""
    has = {
        RegionKind.COMMON_OBJECT: bool(record.common),
        RegionKind.COMMON_PART: any(pair.common for pair in record.pairs),
        RegionKind.UNIQUE_PART: any(pair.unique for pair in record.pairs),
    }
    return tuple(kind for kind, is_there in has.items() if is_there)


def _share(region: SheetRegion) -> float:
    return round(region.share, _SHARE_DIGITS)
