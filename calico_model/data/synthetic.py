"""Procedural image groups with exact truth, drawn one by one or written as a data set.

Single pictures and groups are drawn from the generator passed in. Written sets always use the
evaluation stream (see `group_rng`), so that no training picture is ever among them.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np

from calico_model.data.casting import (
    SceneSplit,
    Stream,
    draw_extras,
    draw_instances,
    draw_mains,
    draw_other,
    draw_styles,
    group_rng,
)
from calico_model.data.comparison import MIN_OBJECT_SHARE
from calico_model.data.describing import GroupDocument, describe_group, labeled_group, name_tables
from calico_model.data.records import (
    ANNOTATIONS_FILE,
    IMAGES_FOLDER,
    RECORDS_FILE,
    CocoDocument,
)
from calico_model.data.scene import DrawnObject, Scene, compose_scene, draw_instance
from calico_model.data.styles import Style
from calico_model.errors import InvalidConfigError
from calico_model.types import MAX_GROUP_SIZE

__all__ = [
    "SceneSplit",
    "Stream",
    "draw_group",
    "draw_scene",
    "group_rng",
    "labeled_group",
    "write_groups",
]

_SHARED_SECONDARY = 0.35
_MIN_SIZE_PX = 32
_MAX_TRIES = 6


def draw_scene(
    rng: np.random.Generator, *, size_px: int = 256, split: SceneSplit = SceneSplit.SEEN
) -> Scene:
    """Draws one picture on its own.

    Args:
        rng: source of all choices.
        size_px: image side, at least 32.
        split: hold-out to draw from.

    Raises:
        InvalidConfigError: size_px too small.
    """
    return draw_group(rng, split=split, group_size=1, size_px=size_px)[0]


def draw_group(
    rng: np.random.Generator,
    *,
    split: SceneSplit = SceneSplit.SEEN,
    group_size: int = 2,
    size_px: int = 256,
) -> tuple[Scene, ...]:
    """Draws the pictures of one group.

    Half of the groups show one category (some of these one and the same object from several
    views), the others categories that share a part; some of the latter have a second, smaller
    object in every picture.

    Args:
        rng: source of all choices.
        split: hold-out to draw from.
        group_size: 1 to 8.
        size_px: image side, at least 32.

    Raises:
        InvalidConfigError: group_size or size_px out of range.
    """
    if not 1 <= group_size <= MAX_GROUP_SIZE:
        raise InvalidConfigError(f"group_size: expected 1 to {MAX_GROUP_SIZE}, got {group_size}")
    if size_px < _MIN_SIZE_PX:
        raise InvalidConfigError(f"size_px: expected at least {_MIN_SIZE_PX}, got {size_px}")
    names = draw_mains(rng, split, group_size)
    mains = draw_instances(rng, split, names)
    styles = draw_styles(rng, split, group_size)
    is_mixed = len(set(names)) > 1
    shared = draw_other(rng, names) if is_mixed and rng.random() < _SHARED_SECONDARY else None
    return tuple(
        _draw_picture(rng, main, shared, names, style, size_px)
        for main, style in zip(mains, styles, strict=True)
    )


def write_groups(
    folder: Path,
    *,
    groups: int,
    seed: int,
    split: SceneSplit,
    group_sizes: tuple[int, int] = (2, 2),
    size_px: int = 256,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Writes an evaluation set in the MixedParts record format.

    The result depends on every argument but `workers`. It is written beside `folder` and renamed,
    so the folder is there completely or not at all.

    Args:
        folder: must be missing or empty.
        groups: how many to write, at least 1.
        seed: at least 0.
        split: hold-out to draw from.
        group_sizes: smallest and largest number of images per group, within 1 to 8.
        size_px: image side, at least 32.
        workers: processes; each is started afresh.
        on_progress: called with the number of finished groups.

    Raises:
        InvalidConfigError: an argument out of range, or a folder that is not empty.
    """
    _check_plan(folder, groups, seed, group_sizes, size_px, workers)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (staged / IMAGES_FOLDER).mkdir()
        work = partial(_write_group, staged / IMAGES_FOLDER, seed, split, group_sizes, size_px)
        documents = []
        for document in _run(work, groups, workers):
            documents.append(document)
            if on_progress is not None:
                on_progress(len(documents))
        _write_documents(staged, documents)
        staged.chmod(0o755)
        staged.replace(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _check_plan(
    folder: Path,
    groups: int,
    seed: int,
    group_sizes: tuple[int, int],
    size_px: int,
    workers: int,
) -> None:
    """Raises InvalidConfigError for the first argument of `write_groups` out of range."""
    for name, value, least in (
        ("groups", groups, 1),
        ("seed", seed, 0),
        ("size_px", size_px, _MIN_SIZE_PX),
        ("workers", workers, 1),
    ):
        if value < least:
            raise InvalidConfigError(f"{name}: expected at least {least}, got {value}")
    if not 1 <= group_sizes[0] <= group_sizes[1] <= MAX_GROUP_SIZE:
        raise InvalidConfigError(
            f"group_sizes: expected two rising numbers in 1 to {MAX_GROUP_SIZE}, got {group_sizes}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidConfigError(f"folder: expected a new or empty folder, got {folder}")


def _run(
    work: Callable[[int], GroupDocument], groups: int, workers: int
) -> Iterator[GroupDocument]:
    """Yields the document of each group in order, computed here or in fresh processes."""
    if workers == 1:
        yield from map(work, range(groups))
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, groups), cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap(work, range(groups), chunksize=4)


def _write_group(
    images_folder: Path,
    seed: int,
    split: SceneSplit,
    group_sizes: tuple[int, int],
    size_px: int,
    index: int,
) -> GroupDocument:
    """Draws group `index`, writes its images and returns what the records say about it."""
    rng = group_rng(Stream.EVALUATION, seed, index)
    group_size = int(rng.integers(group_sizes[0], group_sizes[1] + 1))
    scenes = draw_group(rng, split=split, group_size=group_size, size_px=size_px)
    document = describe_group(scenes, index, f"calico-synthetic-{split}")
    for scene, image in zip(scenes, document.images, strict=True):
        path = images_folder / image.file_name
        if not cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"cannot write {path}")
    return document


def _write_documents(folder: Path, documents: list[GroupDocument]) -> None:
    """Writes the two JSON files of a finished set."""
    coco = CocoDocument(
        images=tuple(image for document in documents for image in document.images),
        annotations=tuple(mask for document in documents for mask in document.annotations),
        categories=name_tables(),
    )
    records = [record for document in documents for record in document.records]
    (folder / ANNOTATIONS_FILE).write_bytes(msgspec.json.encode(coco))
    (folder / RECORDS_FILE).write_bytes(msgspec.json.encode(records))


def _draw_picture(
    rng: np.random.Generator,
    main: DrawnObject,
    shared: str | None,
    mains: tuple[str, ...],
    style: Style,
    size_px: int,
) -> Scene:
    """Draws one picture, again if another object shows more or the shared one shows too little."""
    count = int(rng.choice(3, p=(0.45, 0.4, 0.15)))
    taken = [*mains] if shared is None else [*mains, shared]
    names = [draw_other(rng, taken) for _ in range(count)]
    if shared is not None:
        names = [shared, *names[:1]]
    others = [draw_instance(rng, name, draw_extras(rng, name)) for name in dict.fromkeys(names)]
    for _ in range(_MAX_TRIES):
        scene = compose_scene(rng, main, others, style=style, size_px=size_px)
        areas = np.bincount(scene.object_map.ravel(), minlength=len(others) + 2)[1:]
        is_shared_visible = shared is None or areas[1] >= 1.5 * MIN_OBJECT_SHARE * size_px**2
        if areas.argmax() == 0 and is_shared_visible:
            break
    return scene
