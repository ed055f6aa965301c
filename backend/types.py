"""Values that the parts of the backend exchange: tasks, prompts, regions, annotations, events.

Knows the model's types. Does not know JSON, XML, HTTP or SQL: the wire form of each value is
written and read in backend/label_studio only.
"""

from __future__ import annotations

import hashlib
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


def stable_id(*about: object) -> str:
    """Returns a region's id, 12 hexadecimal digits; equal for what is told by equal words.

    A region that is answered again replaces itself in Label Studio: it has the same id.
    """
    return hashlib.sha256("|".join(map(str, about)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Task:
    """One group of images.

    Attributes:
        id: Label Studio's task id, or None in a preview.
        project_id: Label Studio's project id, or None when unknown.
        image_urls: raw URLs from the task data, in image order.
        image_fields: path of each URL in the request ("tasks[2].data.images[0]"), for messages.
        labels: closed set of names from the task data, when the schema says so.
        is_series: the images are an ordered series, such as frames of a video or a turntable.
        problem: why this task cannot be predicted (names the field and the expected form), or
            None; with a problem, image_urls is (). Other tasks of the request are not affected.
    """

    id: int | None
    project_id: int | None
    image_urls: tuple[str, ...]
    image_fields: tuple[str, ...] = ()
    labels: tuple[LabelValue, ...] = ()
    is_series: bool = False
    problem: str | None = None


class GroupSource(Protocol):
    """Source of a task's images."""

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task; raises MediaError naming the field."""


@dataclass(frozen=True)
class Prompt:
    """One click or box with which an annotator asks for masks.

    Attributes:
        id: the prompt's region id.
        image_index: 0-based position of the image.
        box: (x0, y0, x1, y1) in pixels of the original image; a click has x0 == x1, y0 == y1.
        is_positive: False excludes the point or box.
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
    """A text that an annotator typed or highlighted and that is answered interactively.

    Attributes:
        id: id of the text's own region, or of the box that the text is about.
        image_index: 0-based position of the image that the text belongs to.
        text: as typed or highlighted.
        box: (x0, y0, x1, y1) in pixels of the original image if the text is about a box, or None.
        is_highlight: the annotator highlighted it in a text beside the images; `id` is that of the
            highlighted region.
    """

    id: str
    image_index: int
    text: str
    box: tuple[float, float, float, float] | None = None
    is_highlight: bool = False


@dataclass(frozen=True)
class PredictRequest:
    """A parsed request for predictions.

    Attributes:
        tasks: in request order; a task that cannot be used carries its problem.
        schema: the project's labeling config.
        project_id: Label Studio's project id, or None when the request names none.
        prompts: clicks and boxes; () unless interactive.
        is_interactive: whether an annotator waits for the answer in the editor.
        question: the typed text, or None.
        canvas: regions that are drawn on the first task during a click or a highlight; else ().
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
    """Description of a project that Label Studio sends before it asks for predictions.

    Attributes:
        project_id: Label Studio's project id, or None when the request names none.
        label_config: the labeling XML as sent, unchecked.
        hostname: the address that Label Studio announces for itself, or None.
        access_token: a legacy token, or None; valid only where legacy tokens are enabled.
    """

    project_id: int | None
    label_config: str
    hostname: str | None
    access_token: str | None = field(default=None, repr=False)


class RegionOrigin(StrEnum):
    """Origin of a region, as the editor stores it."""

    PREDICTION = "prediction"
    PREDICTION_CHANGED = "prediction-changed"
    MANUAL = "manual"


@dataclass(frozen=True, eq=False)
class Region:
    """One mask of a stored annotation or prediction, decoded at the first access.

    Attributes:
        id: stable region id, unique in its annotation.
        image_index: 0-based position of the image.
        size_hw: (height, width) in pixels of the original image.
        kind: kind of the region in its group, or None.
        label: the region's first name, or None.
        origin: who drew it.
        score: confidence of the prediction it came from, or None.
        load_mask: decodes the mask; raises InvalidRleError.
        encoding: the stored mask; equal bytes mean equal masks, different bytes may as well.
        load_runs: decodes the runs without the mask; None computes them from the mask.
        is_linked: whether a relation (an arrow) names the region, where relations were read.
        more_labels: further names, if the annotator gave several.
        is_outline: drawn as a shape (polygon, rectangle, ellipse, vector), not as a bitmap.
        colour: what its colour tag holds, or None.
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
    colour: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All names, () without a name."""
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
    """A drawn region that cannot be read as a mask: its label may be on the image or not.

    Attributes:
        id: its region id.
        image_index: 0-based position of the image.
        label: its name, None if it may be any.
    """

    id: str
    image_index: int
    label: str | None


@dataclass(frozen=True, eq=False)
class StoredPrediction:
    """Prediction of one adapter version for one task, as Label Studio stores it."""

    id: int | None
    task_id: int
    version: str
    score: float | None
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Annotation:
    """Annotation that an annotator submitted for one task.

    Attributes:
        id: Label Studio's annotation id.
        task_id: the task it belongs to.
        project_id: the project it belongs to.
        annotator_id: the annotator, or None.
        updated_at: UTC; of several states the newest is valid.
        was_skipped: the annotator skipped the task; regions is () then.
        parent_prediction_id: the prediction it started from, or None.
        regions: one per mask.
        same_part: pairs of region ids that the annotator linked.
        is_ground_truth: the annotation is marked as ground truth.
        unread: drawn regions that cannot be read as masks.
        was_seen: a person looked at it; False for copies of predictions that were made in bulk.
        caption: of the group, where the config has a text area for one; else "".
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
    caption: str = ""


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
    """One event of a project; a bulk delivery becomes one event per annotation.

    Attributes:
        key: equal for repeated deliveries of the same event (64 hex digits).
        action: kind of the event.
        project_id: Label Studio's project id.
        annotation_id: id of its annotation, or None.
        task_id: id of its task, or None.
        updated_at: UTC time of the annotation's last change, or None.
        is_deletion: whether the event deletes the annotation.
        payload: compact JSON with the data that is needed later: annotation, task data, label
            config; read by label_studio.event.read_annotation. Share tokens are left out.
    """

    key: str
    action: EventAction
    project_id: int
    annotation_id: int | None = None
    task_id: int | None = None
    updated_at: datetime | None = None
    is_deletion: bool = False
    payload: bytes = field(default=b"{}", repr=False)


@dataclass(frozen=True)
class FailedTask:
    """A task that could not be predicted.

    Attributes:
        task_id: Label Studio's id.
        error: class name of the error.
        detail: for people: the field, what was expected and what came.
    """

    task_id: int
    error: str
    detail: str
