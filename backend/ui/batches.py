"""How far the tasks are that were asked to be predicted together, for /status and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.types import FailedTask


@dataclass(frozen=True)
class PredictionBatch:
    """The newest batch of tasks of a project, since the server was started.

    Attributes:
        total: tasks that were asked for.
        done: tasks that were predicted.
        waiting: tasks that are not finished.
        problems: tasks that could not be predicted.
    """

    total: int
    done: int
    waiting: int
    problems: tuple[FailedTask, ...]

    @property
    def failed(self) -> int:
        """Number of tasks that could not be predicted."""
        return self.total - self.done - self.waiting

    def as_json(self) -> dict[str, Any]:
        """Returns the batch, ready for JSON."""
        return {
            "total": self.total,
            "done": self.done,
            "waiting": self.waiting,
            "failed": self.failed,
            "problems": [
                {"task": one.task_id, "error": one.error, "detail": one.detail}
                for one in self.problems
            ],
        }
