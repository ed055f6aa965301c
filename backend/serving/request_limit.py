"""How many requests of one kind may be served at once, so that threads are left for the others.

A request that finds no seat is answered at once: waiting would take the thread it must leave free.
"""

from __future__ import annotations

import threading

from flask import Blueprint, g

from backend.errors import BusyError

_RETRY_S = 2


class Seats:
    """A number of requests that may be served at once. Threads share it.

    Args:
        count: how many.
        what: what they ask for, for messages.
    """

    def __init__(self, count: int, what: str) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._count, self._what = count, what

    def guard(self, routes: Blueprint) -> None:
        """Gives every request of `routes` a seat, or answers it with 503."""

        @routes.before_request
        def _take() -> None:
            if not self._free.acquire(blocking=False):
                raise BusyError(
                    f"expected at most {self._count} requests for {self._what} at once; try again",
                    retry_after_s=_RETRY_S,
                )
            g.seat = self

        @routes.teardown_request
        def _leave(_error: BaseException | None) -> None:
            if g.pop("seat", None) is self:
                self._free.release()
