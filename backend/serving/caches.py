"""What serving remembers in memory: values below a ceiling of bytes, the last used ones.

The images of the tasks that were opened last, so that a click does not fetch them again; and the
last predictions, masks as their runs, so that a click on such a group runs no language model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from cachetools import LRUCache

from backend.rle import Runs, mask_of, runs_of
from backend.types import Task
from calico_model.types import GroupPrediction, ImageGroup

V = TypeVar("V")
_OLDEST_S = 600.0  # what lies behind a URL may change


class BoundedCache(Generic[V]):
    """Least recently used values below a ceiling of bytes. Threads may share it.

    Args:
        max_bytes: of all values.
        size_of: bytes of one value.
        max_count: of values; None for any number.
    """

    def __init__(
        self, max_bytes: int, size_of: Callable[[V], int], *, max_count: int | None = None
    ) -> None:
        self._values: LRUCache[Hashable, V] = LRUCache(max_bytes, getsizeof=size_of)
        self._max_count = max_count
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many values are remembered."""
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is a value; does not count as use."""
        return key in self._values

    @property
    def used_bytes(self) -> int:
        """Bytes of all values."""
        return int(self._values.currsize)

    def get(self, key: Hashable) -> V | None:
        """Returns a value, which becomes the last used one, or None."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: V) -> None:
        """Remembers a value and forgets the least recently used ones that no longer fit.

        Beside a value larger than the ceiling nothing fits: it leaves the cache empty.
        """
        with self._lock:
            try:
                self._values[key] = value
            except ValueError:
                self._values.clear()
            while self._max_count is not None and len(self._values) > self._max_count:
                self._values.popitem()


class OpenedGroups:
    """Images of the tasks that were opened last. Threads may share it.

    Args:
        max_bytes: of all pixels.
        oldest_s: age after which a group is fetched anew.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        oldest_s: float = _OLDEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oldest_s, self._clock = oldest_s, clock
        self._groups: BoundedCache[tuple[float, ImageGroup]] = BoundedCache(
            max_bytes, lambda fetched: sum(image.nbytes for image in fetched[1].images)
        )

    def get(self, task: Task) -> ImageGroup | None:
        """Returns a task's images, or None."""
        fetched = self._groups.get(_task_key(task))
        if fetched is None:
            return None
        fetched_at, group = fetched
        return group if self._clock() - fetched_at <= self._oldest_s else None

    def put(self, task: Task, group: ImageGroup) -> None:
        """Remembers a task's images."""
        self._groups.put(_task_key(task), (self._clock(), group))


def _task_key(task: Task) -> Hashable:
    return task.project_id, task.id, task.image_urls


class RecentPredictions:
    """The last predictions, masks as their runs. Threads may share it.

    Args:
        max_bytes: of all runs.
    """

    def __init__(self, max_bytes: int) -> None:
        self._packed: BoundedCache[_PackedPrediction] = BoundedCache(max_bytes, _runs_bytes)

    def __contains__(self, key: Hashable) -> bool:
        """Whether a prediction is remembered."""
        return key in self._packed

    def __len__(self) -> int:
        """How many predictions are remembered."""
        return len(self._packed)

    def get(
        self, key: Hashable, *, images: Collection[int] | None = None
    ) -> GroupPrediction | None:
        """Returns a remembered prediction, or None.

        Args:
            key: what it was remembered under.
            images: whose masks are wanted; those of other images come back as (0, 0). None is all.
        """
        packed = self._packed.get(key)
        return None if packed is None else _unpack(packed, images)

    def put(self, key: Hashable, prediction: GroupPrediction) -> None:
        """Remembers a prediction."""
        self._packed.put(key, _pack(prediction))


@dataclass(frozen=True, eq=False)
class _PackedPrediction:
    prediction: GroupPrediction  # its masks are emptied
    runs: tuple[Runs, ...]
    shapes: tuple[tuple[int, int], ...]


def _runs_bytes(packed: _PackedPrediction) -> int:
    return sum(runs.nbytes for runs in packed.runs)


def _pack(prediction: GroupPrediction) -> _PackedPrediction:
    empty = np.zeros((0, 0), np.bool_)
    parts = tuple(replace(part, mask=empty) for part in prediction.parts)
    return _PackedPrediction(
        prediction=replace(prediction, parts=parts),
        runs=tuple(runs_of(part.mask) for part in prediction.parts),
        shapes=tuple((part.mask.shape[0], part.mask.shape[1]) for part in prediction.parts),
    )


def _unpack(packed: _PackedPrediction, images: Collection[int] | None) -> GroupPrediction:
    parts = zip(packed.prediction.parts, packed.runs, packed.shapes, strict=True)
    return replace(
        packed.prediction,
        parts=tuple(
            replace(part, mask=mask_of(runs, size_hw))
            if images is None or part.image_index in images
            else part
            for part, runs, size_hw in parts
        ),
    )
