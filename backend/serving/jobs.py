"""A task to predict, the result, and the keys that both are kept under.

What the wire door renders stays opaque bytes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from backend.label_schema import LabelSchema
from backend.storage.versions import AdapterVersion
from backend.types import Prompt, Region, Task, TextPrompt
from calico_model.types import GroupPrediction, ImageGroup, Vector


@dataclass(frozen=True)
class PredictionJob:
    """One task to predict, with everything its result depends on but the base weights.

    Attributes:
        task: as requested.
        schema: of the project's labeling config.
        prompts: clicks and boxes, in the order they were made.
        is_interactive: whether an annotator clicked or typed something.
        version: the adapter that answers, decided when the request came; None for the base.
        wants_descriptor: whether the result should say how the group looks.
        canvas: regions that are on the task when something is clicked there.
        ids: of the regions to render, one per region; () makes them up.
        question: what the annotator typed, or None.
        reply: what to tell the annotator beside the regions, or "".
        notes: what to tell the annotator beside an image, by 0-based image.
        is_urgent: whether somebody waits in front of a screen; not part of the key.
    """

    task: Task
    schema: LabelSchema
    prompts: tuple[Prompt, ...] = ()
    is_interactive: bool = False
    version: AdapterVersion | None = None
    wants_descriptor: bool = False
    canvas: tuple[Region, ...] = ()
    ids: tuple[str, ...] = ()
    question: TextPrompt | None = None
    reply: str = ""
    notes: Mapping[int, str] = field(default_factory=dict)
    is_urgent: bool = True

    @property
    def key(self) -> Hashable:
        """Equal for jobs with equal results, in every process."""
        task = self.task
        return (
            task.project_id,
            task.id,
            task.image_urls,
            task.labels,
            self.prompts,
            self.question,
            self.is_interactive,
            tuple((r.id, r.kind, r.labels, r.is_linked, r.encoding) for r in self.canvas),
            self.schema.spelling,
            None if self.version is None else self.version.id,
        )


@dataclass(frozen=True)
class Problem:
    """Why a task has no regions.

    Attributes:
        error: class name of the error.
        detail: names the field, what was expected and what came.
        is_lasting: whether asking again would end the same way.
    """

    error: str
    detail: str
    is_lasting: bool


@dataclass(frozen=True)
class PredictionResult:
    """What is known about one task.

    Attributes:
        regions: as the wire door renders them, opaque here; b"" when there is a problem.
        score: confidence in [0, 1].
        version: the weights that answered, or None when none did.
        problem: why there are no regions, or None.
        descriptor: (d,) float32 of length 1, how the group looks; None unless the job wants it.
        absent: images on which a clicked part was sought and not found, rising.
    """

    regions: bytes
    score: float
    version: str | None
    problem: Problem | None = None
    descriptor: Vector | None = None
    absent: tuple[int, ...] = ()


Render = Callable[[GroupPrediction, PredictionJob, ImageGroup], tuple[bytes, float]]


class PredictsTasks(Protocol):
    """Answers one task at a time: a model in this process, or replicas elsewhere.

    Where `step_aside` is passed, it returns when nobody else needs the model.
    """

    def require(self, version: AdapterVersion | None) -> None:
        """Raises FilesUnavailableError where another server should answer for a version."""

    def predict_task(
        self, job: PredictionJob, is_wanted: Callable[[], bool] = lambda: True
    ) -> PredictionResult:
        """Answers one task; an error becomes the problem of its result."""

    def encode_ahead(self, task: Task, step_aside: Callable[[], None]) -> int:
        """Encodes the images of a task that nobody waits for; returns the bytes of its pixels."""

    def encode_with_sources(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Encodes the images of an encoded task with the sources beside the model."""

    def predict_ahead(self, task: Task, step_aside: Callable[[], None]) -> None:
        """Predicts an encoded task, for the clicks that follow."""


def content_key(group: ImageGroup) -> str:
    """Returns a hash of a group's pixels, sizes and order."""
    return hashlib.sha256(" ".join(group.keys).encode()).hexdigest()


def answer_key(job: PredictionJob, content: str, *, version: str, code: str) -> str:
    """Returns a hash of all that a kept answer depends on, pixels instead of image names.

    Args:
        job: the task and its schema.
        content: `content_key` of the task's images.
        version: of the weights.
        code: version of the code that makes answers.
    """
    task = job.task
    about = [repr(part) for part in (task.project_id, task.id, task.labels)]
    about += [job.schema.spelling, repr(content), repr(version), repr(code)]
    return hashlib.sha256(f"({', '.join(about)})".encode()).hexdigest()
