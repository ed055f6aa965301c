"""Tasks of Label Studio -> a `DataSet`, one task at a time.

Of several annotations of a task the best one counts, or all do. Masks are decoded once, checked
against their image and kept as run lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol

from pycocotools import mask as coco_mask

from backend.errors import InvalidRleError, MediaError
from backend.export.data_set import (
    DataSet,
    ExportedGroup,
    ExportedImage,
    ExportFailure,
    Instance,
    LeftOut,
)
from backend.export.images import StoredImage
from backend.label_schema import LabelSchema
from backend.label_studio.stored_tasks import StoredTask
from backend.types import Annotation, Region, StoredPrediction, Task, UnreadRegion
from calico_model.data.records import Rle, encode_mask

_LONGEST_ADDRESS = 200  # of a failure: images may be part of the address


class Choice(StrEnum):
    """Which annotations of a task are exported."""

    NEWEST = "newest"
    ALL = "all"


class Images(Protocol):
    """Brings images into the export."""

    def store(self, url: str, *, field: str, task_id: int) -> StoredImage:
        """Returns the image of an address; raises MediaError."""


def chosen(annotations: Sequence[Annotation], choice: Choice) -> tuple[Annotation, ...]:
    """Returns the annotations of a task that are exported; skipped ones never are.

    The newest means: ground truth first, then what a person looked at, then by the last change.
    """
    kept = [annotation for annotation in annotations if not annotation.was_skipped]
    kept.sort(key=lambda one: (one.is_ground_truth, one.was_seen, one.updated_at, one.id))
    return tuple(kept if choice is Choice.ALL else kept[-1:])


def config_labels(schema: LabelSchema) -> tuple[str, ...]:
    """Returns the labels of a config in its order; () if any text may be written.

    A config without names has the kinds of regions as labels.
    """
    if schema.name is not None:
        return tuple(dict.fromkeys(_spaced(label.value) for label in schema.name.values))
    return () if schema.kind is None else tuple(dict.fromkeys(schema.kind.values.values()))


def _spaced(label: str) -> str:
    """A label with single spaces in it and none around it: readers strip names of classes."""
    return " ".join(label.split())


def ordered_labels(schema: LabelSchema, used: Collection[str]) -> tuple[str, ...]:
    """Returns all labels of a config, then by alphabet those that regions have beside them."""
    configured = config_labels(schema)
    others = sorted(set(used) - set(configured), key=lambda label: (label.casefold(), label))
    return (*configured, *others)


def labels_of(region: Region, schema: LabelSchema) -> tuple[str, ...]:
    """Returns the labels under which a region is exported, () without any."""
    if schema.name is not None or schema.kind is None or region.kind is None:
        return tuple(dict.fromkeys(map(_spaced, region.labels)))
    label = schema.kind.values.get(region.kind)
    return () if label is None else (label,)


class Gatherer:
    """Collects the images and regions of tasks.

    Args:
        schema: the project's labeling config.
        images: where images are brought to.
        choice: which annotations of a task count.
    """

    def __init__(self, schema: LabelSchema, images: Images, choice: Choice) -> None:
        self._schema, self._images, self._choice = schema, images, choice
        self._by_key: dict[str, ExportedImage] = {}
        self._instances: list[Instance] = []
        self._seen: set[tuple[int, tuple[str, ...], str]] = set()
        self._groups: list[ExportedGroup] = []
        self._failures: list[ExportFailure] = []
        self._left_out = Counter[str]()
        self._skipped = self._unannotated = 0

    def add(self, stored: StoredTask, prediction: StoredPrediction | None = None) -> None:
        """Adds a task.

        Args:
            stored: the task and its annotations.
            prediction: taken if nobody annotated or skipped the task; None leaves the task out.
        """
        annotations = chosen(stored.annotations, self._choice)
        if not annotations and stored.annotations:
            self._skipped += 1
        elif not annotations and prediction is None:
            self._unannotated += 1
        elif stored.task.problem is not None:
            self._fail(stored.task, None, stored.task.problem)
        else:
            images = self._place_images(stored.task)
            for one in annotations:
                self._add_annotation(stored.task, one, images)
            if not annotations and prediction is not None:
                self._add_prediction(stored.task, prediction, images)
            ids = tuple(None if image is None else image.id for image in images)
            self._groups.append(
                ExportedGroup(_id(stored.task), tuple(a.id for a in annotations), ids)
            )

    def data_set(self, title: str) -> DataSet:
        """Returns what was collected, under the title of the project."""
        used = {label for instance in self._instances for label in instance.labels}
        return DataSet(
            title=title,
            labels=ordered_labels(self._schema, used),
            images=tuple(self._by_key.values()),
            instances=tuple(self._instances),
            groups=tuple(self._groups),
            failures=tuple(self._failures),
            left_out=dict(self._left_out),
            skipped=self._skipped,
            unannotated=self._unannotated,
        )

    def _place_images(self, task: Task) -> list[ExportedImage | None]:
        """Returns the image at each place of a task; None where it cannot be fetched."""
        placed: list[ExportedImage | None] = []
        for url, field in zip(task.image_urls, task.image_fields, strict=True):
            try:
                stored = self._images.store(url, field=field, task_id=_id(task))
            except MediaError as error:
                self._fail(task, url[:_LONGEST_ADDRESS], str(error))
                placed.append(None)
                continue
            number = len(self._by_key) + 1
            image = self._by_key.setdefault(
                stored.key, ExportedImage(number, stored.file_name, stored.size_hw)
            )
            if _id(task) not in image.task_ids:
                image.task_ids.append(_id(task))
            placed.append(image)
        return placed

    def _add_annotation(
        self, task: Task, annotation: Annotation, images: Sequence[ExportedImage | None]
    ) -> None:
        parts = _linked(annotation.same_part, f"{task.id}-{annotation.id}")
        for region in annotation.regions:
            self._add_region(task, region, images, annotation, parts.get(region.id))
        for unread in annotation.unread:
            _note_unread(unread, images)
        # A drawing on an image that the config lost is reported for each image of the task.
        count = len({unread.id for unread in annotation.unread})
        self._left_out.update({LeftOut.UNREADABLE: count} if count else {})

    def _add_prediction(
        self, task: Task, prediction: StoredPrediction, images: Sequence[ExportedImage | None]
    ) -> None:
        for region in prediction.regions:
            self._add_region(task, region, images, None, None)

    def _add_region(
        self,
        task: Task,
        region: Region,
        images: Sequence[ExportedImage | None],
        annotation: Annotation | None,
        part: str | None,
    ) -> None:
        labels = labels_of(region, self._schema)
        image = images[region.image_index] if region.image_index < len(images) else None
        if not labels:
            self._left_out[LeftOut.WITHOUT_LABEL] += 1
            return
        if image is None:
            self._left_out[LeftOut.WITHOUT_IMAGE] += 1
            return
        rle = self._read_mask(region, image, labels)
        if rle is None:
            return
        same = image.id, labels, str(rle.counts)
        self._instances.append(
            Instance(
                image_id=image.id,
                labels=labels,
                kind=region.kind,
                rle=rle,
                area=int(coco_mask.area({"size": list(rle.size), "counts": str(rle.counts)})),
                task_id=_id(task),
                annotation_id=None if annotation is None else annotation.id,
                region_id=region.id,
                is_reviewed=annotation is not None and annotation.was_seen,
                part=part,
                is_repeat=same in self._seen,
            )
        )
        self._seen.add(same)

    def _read_mask(
        self, region: Region, image: ExportedImage, labels: tuple[str, ...]
    ) -> Rle | None:
        """Returns the run lengths of a mask; None if it cannot be used, which is counted."""
        try:
            # Not `region.mask`, which would keep every mask of the task in memory.
            mask = region.load_mask()
        except InvalidRleError:
            self._left_out[LeftOut.UNREADABLE] += 1
            image.unknown |= set(labels)
            return None
        if mask.shape != image.size_hw:
            self._left_out[LeftOut.WRONG_SIZE] += 1
            image.unknown |= set(labels)
            return None
        if not mask.any():
            self._left_out[LeftOut.UNREADABLE] += 1
            return None
        return encode_mask(mask)

    def _fail(self, task: Task, image: str | None, reason: str) -> None:
        self._failures.append(ExportFailure(_id(task), image, reason))


def _note_unread(unread: UnreadRegion, images: Sequence[ExportedImage | None]) -> None:
    """Notes the label of a drawing that is no mask beside its image."""
    image = images[unread.image_index] if unread.image_index < len(images) else None
    if image is not None:
        image.unknown.add(unread.label or "")


def _linked(pairs: Iterable[tuple[str, str]], prefix: str) -> dict[str, str]:
    """Returns a name for each linked region: equal for regions that are linked with each other."""
    parts: dict[str, set[str]] = {}
    for first, second in pairs:
        joined = parts.get(first, {first}) | parts.get(second, {second})
        for region_id in joined:
            parts[region_id] = joined
    return {region_id: f"{prefix}-{min(part)}" for region_id, part in parts.items()}


def _id(task: Task) -> int:
    assert task.id is not None  # only previews have none
    return task.id
