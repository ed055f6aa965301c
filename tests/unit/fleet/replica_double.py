"""Stand-ins for handles of Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class ReplicaDied(Exception):
    """As Ray's error of a dead actor: a name and many lines."""

    def __str__(self) -> str:
        return "The actor died.\n  traceback\nthe last line"


@dataclass
class ResponseDouble:
    """Answers with bytes, raises an error, or never answers (None)."""

    outcome: bytes | Exception | None
    cancelled: bool = False

    def result(self, *, timeout_s: float | None) -> bytes:
        if self.outcome is None:
            raise TimeoutError
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class HandleDouble:
    """Asks `answer` for the outcome of every question, by its number from 0 on."""

    answer: Callable[[int, bytes], bytes | Exception | None]
    asked: list[tuple[str, str]] = field(default_factory=list)  # method, session
    responses: list[ResponseDouble] = field(default_factory=list)

    def options(self, *, method_name: str, session_id: str) -> HandleDouble:
        self.asked.append((method_name, session_id))
        return self

    def remote(self, body: bytes) -> ResponseDouble:
        self.responses.append(ResponseDouble(self.answer(len(self.responses), body)))
        return self.responses[-1]

    @property
    def sessions(self) -> list[str]:
        return [session for _, session in self.asked]
