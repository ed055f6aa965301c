"""The values the backend speaks between its wings: schemas, tasks, regions, events.

Knows the model's types. Does not know JSON, XML, HTTP or SQL: the wire form of each value is
written and read in backend/label_studio only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from backend.label_schema import LabelSchema, LabelValue
from backend.rle import Runs, runs_of
from calico_model.types import BoolMask, ImageGroup, RegionKind

MAX_ID = 2**63 - 1
"""Largest id that a database holds."""


@dataclass(frozen=True)
class Task:
    """One group of images to look at.

    Attributes:
        id: Label Studio's task id, or None in a preview.
        project_id: Label Studio's project id, or None when unknown.
        image_urls: raw URLs from the task data, in image order.
        image_fields: where each URL stood ("tasks[2].data.images[0]"), for messages.
        labels: closed set of names from the task data, when the schema says so.
        problem: why this task cannot be looked at (names the field and what was expected), or
            None; image_urls is () then. The other tasks of the request are not affected.
    """

    id: int | None
    project_id: int | None
    image_urls: tuple[str, ...]
    image_fields: tuple[str, ...] = ()
    labels: tuple[LabelValue, ...] = ()
    problem: str | None = None


class GroupSource(Protocol):
    """Source of a task's images."""

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task; raises MediaError naming the field."""


@dataclass(frozen=True)
class Prompt:
    """One click or box of an annotator who asks for masks.

    Attributes:
        id: the prompt's region id.
        image_index: 0-based position of the image.
        box: (x0, y0, x1, y1) in pixels of the original image; a click has x0 == x1, y0 == y1.
        is_positive: False excludes the place.
        kind: kind of the picked label, or None.
        label: own name of the picked label, or None.
    """

    id: str
    image_index: int
    box: tuple[float, float, float, float]
    is_positive: bool = True
    kind: RegionKind | None = None
    label: str | None = None

    @property
    def is_click(self) -> bool:
        """Whether the prompt is a single point."""
        return self.box[0] == self.box[2] and self.box[1] == self.box[3]


@dataclass(frozen=True)
class TextPrompt:
    """What an annotator typed and waits for an answer to.

    Attributes:
        id: id of the text's own region, or of the box it is about.
        image_index: 0-based position of the image it was typed at.
        text: as typed.
        box: (x0, y0, x1, y1) in pixels of the original image when it is about one place, or None.
    """

    id: str
    image_index: int
    text: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class PredictRequest:
    """A parsed request for predictions.

    Attributes:
        tasks: in request order; a task that cannot be used carries its problem.
        schema: the project's labeling config.
        project_id: Label Studio's project id, or None when the request names none.
        prompts: what the annotator clicked; () unless interactive.
        is_interactive: whether an annotator waits in front of the editor.
        question: what the annotator typed, or None.
        canvas: regions that are on the first task when something is clicked there; else ().
    """

    tasks: tuple[Task, ...]
    schema: LabelSchema
    project_id: int | None
    prompts: tuple[Prompt, ...] = ()
    is_interactive: bool = False
    question: TextPrompt | None = None
    canvas: tuple[Region, ...] = ()


@dataclass(frozen=True)
class SetupRequest:
    """What Label Studio says about a project before it asks for predictions.

    Attributes:
        project_id: Label Studio's project id, or None when the request names none.
        label_config: the labeling XML as sent; parse it to learn whether it can be used.
        hostname: the address Label Studio announces for itself, or None.
        access_token: a legacy token, or None; dead unless legacy tokens are enabled.
    """

    project_id: int | None
    label_config: str
    hostname: str | None
    access_token: str | None = field(default=None, repr=False)


class RegionOrigin(StrEnum):
    """Who made a region, as the editor keeps it."""

    PREDICTION = "prediction"
    PREDICTION_CHANGED = "prediction-changed"
    MANUAL = "manual"


@dataclass(frozen=True, eq=False)
class Region:
    """One mask of a stored annotation or prediction, decoded when first looked at.

    Attributes:
        id: stable region id, unique in its annotation.
        image_index: 0-based position of the image.
        size_hw: (height, width) in pixels of the original image.
        kind: what the region is to its group, or None when not said.
        label: the region's own name, or None when not said.
        origin: who made it.
        score: confidence of the prediction it came from, or None.
        load_mask: decodes the mask; raises InvalidRleError.
        encoding: the stored mask; equal bytes are equal masks, other bytes may be too.
        load_runs: finds the runs without the mask; None takes them from the mask.
        is_linked: whether a relation of its drawing names it, where that was looked at.
        more_labels: further names, where the annotator gave it several.
        is_outline: drawn as a shape (polygon, rectangle, ellipse, vector), not as a bitmap.
    """

    id: str
    image_index: int
    size_hw: tuple[int, int]
    kind: RegionKind | None
    label: str | None
    origin: RegionOrigin
    score: float | None
    load_mask: Callable[[], BoolMask] = field(repr=False)
    encoding: bytes = field(default=b"", repr=False)
    load_runs: Callable[[], Runs] | None = field(default=None, repr=False)
    is_linked: bool = False
    more_labels: tuple[str, ...] = ()
    is_outline: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """All names, () when none is said."""
        return () if self.label is None else (self.label, *self.more_labels)

    @cached_property
    def runs(self) -> Runs:
        """(R, 2) int64, first and past-last position of each run of the row-major mask, rising.

        Raises:
            InvalidRleError: the stored mask cannot be decoded.
        """
        return runs_of(self.mask) if self.load_runs is None else self.load_runs()

    @cached_property
    def mask(self) -> BoolMask:
        """(H, W) bool in the original frame, read-only, decoded once.

        Raises:
            InvalidRleError: the stored mask cannot be decoded.
        """
        mask = self.load_mask()
        mask.setflags(write=False)
        return mask


@dataclass(frozen=True)
class UnreadRegion:
    """Something drawn that cannot be read as a mask: its label is unknown there, not absent.

    Attributes:
        id: its region id.
        image_index: 0-based position of the image.
        label: its name, or None when not said: it may be any.
    """

    id: str
    image_index: int
    label: str | None


@dataclass(frozen=True, eq=False)
class StoredPrediction:
    """What one adapter version said about one task, as Label Studio holds it."""

    id: int | None
    task_id: int
    version: str
    score: float | None
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Annotation:
    """What an annotator submitted for one task.

    Attributes:
        id: Label Studio's annotation id.
        task_id: the task it belongs to.
        project_id: the project it belongs to.
        annotator_id: who submitted it, or None.
        updated_at: UTC; the newest wins.
        was_skipped: the annotator skipped the task; regions is () then.
        parent_prediction_id: the prediction it started from, or None.
        regions: one per mask.
        same_part: pairs of region ids the annotator linked.
        is_ground_truth: somebody marked it as the answer that counts.
        unread: what is drawn but is no mask.
        was_seen: a person looked at it; False for copies of predictions that were made in bulk.
    """

    id: int
    task_id: int
    project_id: int
    annotator_id: int | None
    updated_at: datetime
    was_skipped: bool
    parent_prediction_id: int | None
    regions: tuple[Region, ...]
    same_part: tuple[tuple[str, str], ...] = ()
    is_ground_truth: bool = False
    unread: tuple[UnreadRegion, ...] = ()
    was_seen: bool = True


class EventAction(StrEnum):
    """Events that Label Studio 1.23 sends; any other name is OTHER."""

    ANNOTATION_CREATED = "ANNOTATION_CREATED"
    ANNOTATION_UPDATED = "ANNOTATION_UPDATED"
    ANNOTATIONS_CREATED = "ANNOTATIONS_CREATED"
    ANNOTATIONS_DELETED = "ANNOTATIONS_DELETED"
    TASKS_CREATED = "TASKS_CREATED"
    TASKS_DELETED = "TASKS_DELETED"
    PROJECT_CREATED = "PROJECT_CREATED"
    PROJECT_UPDATED = "PROJECT_UPDATED"
    PROJECT_DELETED = "PROJECT_DELETED"
    START_TRAINING = "START_TRAINING"
    OTHER = "OTHER"


@dataclass(frozen=True)
class Event:
    """One thing that happened in a project; a bulk delivery becomes one event per annotation.

    Attributes:
        key: equal for repeated deliveries of the same event (64 hex digits).
        action: what happened.
        project_id: where it happened.
        annotation_id: the annotation concerned, or None.
        task_id: the task concerned, or None.
        updated_at: UTC time of the annotation's last change, or None.
        is_deletion: whether the annotation is gone.
        payload: compact JSON with what is needed later (annotation, task data, label config);
            read by label_studio.event.read_annotation. Share tokens are left out.
    """

    key: str
    action: EventAction
    project_id: int
    annotation_id: int | None = None
    task_id: int | None = None
    updated_at: datetime | None = None
    is_deletion: bool = False
    payload: bytes = field(default=b"{}", repr=False)
