"""The values the backend speaks between its wings: schemas, tasks, regions, events.

Knows the model's types. Does not know JSON, XML, HTTP or SQL: the wire form of each value is
written and read in backend/label_studio only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from backend.rle import Runs, runs_of
from calico_model.types import MAX_GROUP_SIZE, BoolMask, RegionKind

MAX_ID = 2**63 - 1
"""Largest id that a database holds."""


class Layout(StrEnum):
    """How a labeling config shows the images of one task."""

    REPEATER = "repeater"
    IMAGE_TAGS = "image_tags"
    VALUE_LIST = "value_list"


class MaskFamily(StrEnum):
    """Which tag draws masks: a plain brush beside Labels, or one that carries the labels."""

    BRUSH = "brush"
    BRUSH_LABELS = "brush_labels"
    BITMASK = "bitmask"
    BITMASK_LABELS = "bitmask_labels"


class ControlType(StrEnum):
    """Which per-region tag holds an attribute."""

    LABELS = "labels"
    CHOICES = "choices"
    TEXT = "textarea"


@dataclass(frozen=True)
class LabelValue:
    """One label of a closed set.

    Attributes:
        value: the exact text Label Studio stores.
        aliases: other texts that mean the same.
    """

    value: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class KindControl:
    """Where a region's kind is written, and the exact text for each kind it can say."""

    type: ControlType
    values: Mapping[RegionKind, str]


@dataclass(frozen=True)
class NameControl:
    """Where a region's own name is written.

    Attributes:
        type: the tag's type.
        values: the closed set, or () when any text is allowed or the set is in the task.
        task_field: path in the task data that lists further labels (`value="$parts"`), or None.
    """

    type: ControlType
    values: tuple[LabelValue, ...] = ()
    task_field: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether any text may be written."""
        return self.type is ControlType.TEXT


@dataclass(frozen=True)
class ImageSlot:
    """Names of the tags that belong to one image.

    Attributes:
        image: the image tag; regions point to it.
        mask: the tag that draws masks.
        kind: the tag that holds the kind, or None.
        name: the tag that holds the region's own name, or None.
        smart: tags whose prompts ask for an interactive prediction.
        ask: the prompt box, a text of its own that asks for an interactive prediction, or None.
        smart_only: those of the smart tags that nothing can be drawn with: what they leave behind
            are prompts.
    """

    image: str
    mask: str
    kind: str | None = None
    name: str | None = None
    smart: tuple[str, ...] = ()
    ask: str | None = None
    smart_only: tuple[str, ...] = ()

    def filled_in(self, flag: str, index: str) -> ImageSlot:
        """Returns the names with an index in the place of its flag."""
        return ImageSlot(
            image=self.image.replace(flag, index),
            mask=self.mask.replace(flag, index),
            kind=None if self.kind is None else self.kind.replace(flag, index),
            name=None if self.name is None else self.name.replace(flag, index),
            smart=tuple(name.replace(flag, index) for name in self.smart),
            ask=None if self.ask is None else self.ask.replace(flag, index),
            smart_only=tuple(name.replace(flag, index) for name in self.smart_only),
        )


@dataclass(frozen=True)
class LabelSchema:
    """What a labeling config allows, parsed once.

    Attributes:
        layout: how the images are shown.
        image_fields: paths in the task data, or texts with references to it ("/data/$name"); one
            per image tag, else the path of the single list.
        slots: one per image tag; otherwise exactly one, a template for every image.
        index_flag: text in the template's names that stands for the image index, or None.
        mask_family: the tag family that draws masks.
        kind: how the kind is written, or None.
        name: how the own name is written, or None.
        relation: label of the relation that links the same part, "" for a relation without
            label, or None when the config has no relations.
        item_key: key of the URL inside each list item ("$images[{{idx}}].url"), or None when the
            items are URLs themselves.
        item_template: what the image tag of a Repeater refers to instead ("/data/$files[{{idx}}]"),
            with the index flag in it, or None.
        others: names of tags that show something else than the images of the group.
    """

    layout: Layout
    image_fields: tuple[str, ...]
    slots: tuple[ImageSlot, ...]
    index_flag: str | None
    mask_family: MaskFamily
    kind: KindControl | None
    name: NameControl | None
    relation: str | None = None
    item_key: str | None = None
    item_template: str | None = None
    others: frozenset[str] = frozenset()
    _filled_in: dict[int, ImageSlot] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def slot(self, image_index: int) -> ImageSlot:
        """Returns the tag names of one image, 0-based."""
        if self.layout is Layout.IMAGE_TAGS:
            return self.slots[image_index]
        if self.index_flag is None:
            return self.slots[0]
        # Every result of a canvas asks.
        found = self._filled_in.get(image_index)
        if found is None:
            found = self.slots[0].filled_in(self.index_flag, str(image_index))
            self._filled_in[image_index] = found
        return found

    @cached_property
    def image_indices(self) -> Mapping[str, int]:
        """Which image, 0-based, an image tag shows, by the tag's name."""
        count = len(self.slots) if self.layout is Layout.IMAGE_TAGS else MAX_GROUP_SIZE
        return {self.slot(index).image: index for index in reversed(range(count))}

    @property
    def is_interactive(self) -> bool:
        """Whether the config has a smart tool."""
        return any(slot.smart or slot.ask for slot in self.slots)


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
class Question:
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
    question: Question | None = None
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


class Origin(StrEnum):
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
    origin: Origin
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
class Prediction:
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
