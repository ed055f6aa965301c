"""Corrections on disk: COCO for other tools, or a folder of records for our own commands.

Both are written to a temporary place and renamed, so the target is never incomplete.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from PIL import Image

from backend.errors import InvalidRleError, MediaError, SettingsError
from backend.export.document import Document, group_records, write_file, write_record_files
from backend.learning.correction import Correction
from backend.learning.supervision import merge_regions, with_one_kind, written_label
from backend.types import Region, Task
from calico_model.data.records import IMAGES_FOLDER, Record
from calico_model.staging import staged_file
from calico_model.types import BoolMask, ImageGroup, RegionKind

_log = logging.getLogger(__name__)
_Fetch = Callable[[Task], ImageGroup]


@dataclass
class _Picture:
    """One image of a COCO file; its size may be known only from a later task."""

    id: int
    name: str
    task: Task
    index: int
    size_hw: tuple[int, int] | None = None
    unknown: set[str | None] = field(default_factory=set)


class _Pictures:
    """The images of a COCO file: one per address and size, also if several tasks show it."""

    def __init__(self) -> None:
        self._of_name: dict[str, list[_Picture]] = {}
        self._all: list[_Picture] = []

    def place(self, task: Task, index: int, size_hw: tuple[int, int] | None) -> _Picture:
        """Returns the image of a task, made if it is new."""
        name = _name_of(task, index)
        alike = self._of_name.setdefault(name, [])
        for picture in alike:
            if size_hw is None or picture.size_hw in (None, size_hw):
                picture.size_hw = picture.size_hw or size_hw
                return picture
        picture = _Picture(len(self._all) + 1, name, task, index, size_hw)
        alike.append(picture)
        self._all.append(picture)
        return picture

    def written(self, fetch: _Fetch | None) -> list[dict[str, object]]:
        """Returns the images in COCO's form; an unknown size is null."""
        return [self._written(picture, fetch) for picture in self._all]

    @staticmethod
    def _written(picture: _Picture, fetch: _Fetch | None) -> dict[str, object]:
        height, width = picture.size_hw or _fetched_size(picture, fetch) or (None, None)
        image: dict[str, object] = {"id": picture.id, "file_name": picture.name}
        image |= {"width": width, "height": height}
        if picture.unknown:
            image["unknown"] = sorted(label or "" for label in picture.unknown)
        return image


def write_coco(
    path: Path,
    corrections: Iterable[Correction],
    fetch: _Fetch | None = None,
    *,
    on_progress: Callable[[int], None],
) -> int:
    """Writes the annotated regions as one COCO file; images are named by their addresses.

    The file holds every image of a task, also an image without regions. Each annotation has further
    fields that COCO does not define: task, kind and what changed. `unknown` of an image lists the
    labels of drawings that are not masks, "" for a drawing without a label.

    Args:
        path: the file; replaced if it exists.
        corrections: the corrections to write, read one at a time.
        fetch: returns the images of a task; called only for sizes that no region states. None
            leaves these sizes out.
        on_progress: called with the number of finished tasks.

    Returns:
        The number of written tasks.
    """
    document, pictures, done = Document(), _Pictures(), 0
    for done, correction in enumerate(corrections, start=1):
        task = correction.task
        sizes = _known_sizes(correction)
        for index in range(len(task.image_urls)):
            picture = pictures.place(task, index, sizes.get(index))
            picture.unknown |= {label for at, label in correction.unknown if at == index}
        for outcome in correction.outcomes:
            region = outcome.after
            mask = None if region is None else _mask_of(region)
            if region is None or mask is None:
                continue
            picture = pictures.place(task, region.image_index, region.size_hw)
            for label in region.labels or ("",):
                document.add_mask(
                    picture.id,
                    label,
                    mask,
                    "object" if region.kind is RegionKind.COMMON_OBJECT else "part",
                    task=task.id,
                    project=task.project_id,
                    kind=region.kind,
                    region=region.id,
                    version=correction.version,
                    changes=[str(change.name).lower() for change in outcome.change],
                )
        on_progress(done)
    content = msgspec.to_builtins(document.coco)
    content["images"] = pictures.written(fetch)
    for annotation, extra in zip(content["annotations"], document.extras, strict=True):
        annotation |= extra
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as staged:
        write_file(staged, msgspec.json.encode(content))
    return done


def _name_of(task: Task, index: int) -> str:
    """Returns the address of an image, or a short name for an image inside the task (data URL)."""
    if index >= len(task.image_urls):
        return f"task {task.id}/{index}"
    url = task.image_urls[index]
    if url[:5].lower() != "data:":
        return url
    return f"data-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _known_sizes(correction: Correction) -> dict[int, tuple[int, int]]:
    """Returns (height, width) of each image with a region; annotated regions come first."""
    regions = [outcome.after for outcome in correction.outcomes]
    regions += [outcome.before for outcome in correction.outcomes]
    sizes: dict[int, tuple[int, int]] = {}
    for region in regions:
        if region is not None:
            sizes.setdefault(region.image_index, region.size_hw)
    return sizes


def _fetched_size(picture: _Picture, fetch: _Fetch | None) -> tuple[int, int] | None:
    if fetch is None:
        return None
    url = picture.task.image_urls[picture.index]
    task = replace(picture.task, image_urls=(url,), image_fields=(picture.name[:200],))
    try:
        return fetch(task).sizes_hw[0]
    except MediaError as error:
        _log.warning(
            "size of an image of task %s is not known: %s",
            picture.task.id,
            error,
            extra={"event": "not_exported"},
        )
        return None


def write_records(
    folder: Path,
    corrections: Iterable[Correction],
    fetch: _Fetch,
    *,
    on_progress: Callable[[int], None],
) -> int:
    """Writes images and MixedParts records, one group per task.

    A task whose images cannot be fetched, or that has no named region, is left out.

    Args:
        folder: must be missing or empty.
        corrections: the corrections to write, read one at a time.
        fetch: returns the images of a task; raises MediaError.
        on_progress: called with the number of finished tasks.

    Returns:
        The number of written tasks.

    Raises:
        SettingsError: the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"--export: expected a new or empty folder, got {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (staged / IMAGES_FOLDER).mkdir()
        document, records, written = Document(), list[Record](), 0
        for done, correction in enumerate(corrections, start=1):
            group_records = _group_records(staged / IMAGES_FOLDER, document, correction, fetch)
            records += group_records
            written += bool(group_records)
            on_progress(done)
        write_record_files(staged, document, records)
        staged.chmod(0o755)
        staged.replace(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return written


def _mask_of(region: Region) -> BoolMask | None:
    """Returns the mask, or None if it cannot be decoded."""
    try:
        return region.mask
    except InvalidRleError:
        return None


def _group_records(
    images: Path,
    document: Document,
    correction: Correction,
    fetch: _Fetch,
) -> list[Record]:
    task = correction.task
    drawn = [outcome.after for outcome in correction.outcomes if outcome.after is not None]
    regions = with_one_kind(drawn, correction.vocabulary)
    parts = [
        replace(part, label=written_label(part.label, correction.vocabulary))
        for part in merge_regions(regions, correction.vocabulary, correction.unknown)
    ]
    try:
        group = fetch(task) if parts else None
    except MediaError as error:
        _log.warning("task %s is left out: %s", task.id, error, extra={"event": "not_exported"})
        return []
    if group is None:
        return []
    fitting = [
        part
        for part in parts
        if part.image_index < len(group) and part.mask.shape == group.sizes_hw[part.image_index]
    ]
    ids: dict[int, int] = {}
    for index in sorted({part.image_index for part in fitting}):
        name = f"{task.project_id}_{task.id}_{index}.png"
        Image.fromarray(group.images[index]).save(images / name)
        ids[index] = document.add_image(name, group.sizes_hw[index])
    return group_records(document, fitting, ids)
