"""What serving remembers in memory: values below a ceiling of bytes, the last used ones.

Among them the images of the tasks that were opened last, so that a click does not fetch them again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache

from backend.types import Task
from calico_model.types import ImageGroup

V = TypeVar("V")
_OLDEST_S = 600.0  # what lies behind a URL may change


@dataclass(frozen=True)
class MemoryLimits:
    """How much is remembered for clicks.

    Attributes:
        opened_bytes: of the pixels of opened tasks.
        prediction_bytes: of the runs of predictions.
        click_steps: masks after a click.
    """

    opened_bytes: int = 256 * 2**20
    prediction_bytes: int = 256 * 2**20
    click_steps: int = 512


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

    def get(self, key: Hashable, is_valid: Callable[[V], bool] = lambda _: True) -> V | None:
        """Returns a value, which becomes the last used one, or None.

        Args:
            key: what it was remembered under.
            is_valid: a value that is not valid any more is forgotten.
        """
        with self._lock:
            value = self._values.get(key)
            if value is not None and not is_valid(value):
                del self._values[key]
                return None
            return value

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
        oldest = self._clock() - self._oldest_s
        fetched = self._groups.get(_task_key(task), lambda fetched: fetched[0] >= oldest)
        return None if fetched is None else fetched[1]

    def put(self, task: Task, group: ImageGroup) -> None:
        """Remembers a task's images."""
        self._groups.put(_task_key(task), (self._clock(), group))


def _task_key(task: Task) -> Hashable:
    return task.project_id, task.id, task.image_urls
