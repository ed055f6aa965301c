"""Images of the tasks that were looked at last, so that a click does not fetch them again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from backend.types import Task
from calico_model.types import ImageGroup

_OLDEST_S = 600.0  # what lies behind a URL may change


class OpenedGroups:
    """Least recently used groups below a ceiling of bytes. One lock guards the order.

    Args:
        max_bytes: ceiling of all pixels.
        oldest_s: age after which a group is fetched anew.
        clock: seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        oldest_s: float = _OLDEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes, self._oldest_s, self._clock = max_bytes, oldest_s, clock
        self._used = 0
        self._lock = threading.Lock()
        self._groups: OrderedDict[Hashable, tuple[float, ImageGroup]] = OrderedDict()

    def get(self, task: Task) -> ImageGroup | None:
        """Returns a task's images, or None."""
        with self._lock:
            found = self._groups.get(_key(task))
            if found is None or self._clock() - found[0] > self._oldest_s:
                return None
            self._groups.move_to_end(_key(task))
            return found[1]

    def put(self, task: Task, group: ImageGroup) -> None:
        """Remembers a task's images and forgets the oldest that no longer fit."""
        with self._lock:
            if (known := self._groups.pop(_key(task), None)) is not None:
                self._used -= _bytes(known[1])
            self._groups[_key(task)] = self._clock(), group
            self._used += _bytes(group)
            while self._used > self._max_bytes:
                _, (_, oldest) = self._groups.popitem(last=False)
                self._used -= _bytes(oldest)


def _key(task: Task) -> Hashable:
    return task.project_id, task.id, task.image_urls


def _bytes(group: ImageGroup) -> int:
    return sum(image.nbytes for image in group.images)
