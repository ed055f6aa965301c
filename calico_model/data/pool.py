"""A growing store of rendered training scenes on disk, and groups drawn from it again and again.

Rendering is cheap but not free on two cores: scenes are rendered once at full size, kept at the
network's size, and met by training in ever new groups. Workers write whole chunks and rename them,
so a reader may start with the first chunk and refresh while the rest is written.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.data.catalogue import TRAINED_CATEGORIES, WITHHELD_PAIRS, parts_of
from calico_model.data.scene import Scene
from calico_model.data.synthetic import Stream, draw_group, group_rng
from calico_model.errors import InvalidRecordError

GROUPS_PER_CHUNK = 128
_ORIGIN = "pool.json"
_RENDER_FACTOR = 2
_SAME_CATEGORY, _AS_DRAWN = 0.45, 0.5
_GROUP_SIZES = (0.5, 0.14, 0.12, 0.12, 0.12)
"""Chance of groups of 2, 3, ... images."""


def fill_pool(
    folder: Path,
    *,
    scenes: int,
    seed: int,
    size_px: int,
    workers: int = 1,
    groups_per_chunk: int = GROUPS_PER_CHUNK,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Renders training scenes until the folder holds at least `scenes`; existing chunks stay.

    Args:
        folder: made when missing.
        scenes: how many to hold in total.
        seed: of the training stream; the same folder must be continued with the same seed.
        size_px: side of the stored images; they are rendered at twice that and reduced.
        workers: processes.
        groups_per_chunk: groups a worker renders at a time; fixed for the life of a folder.
        on_progress: called with the number of scenes after each chunk.

    Raises:
        InvalidRecordError: the folder was begun with another seed, size or chunk length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_origin(folder, {"seed": seed, "size_px": size_px, "groups_per_chunk": groups_per_chunk})
    done = 0
    chunk = 0
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        while done < scenes:
            batch = range(chunk, chunk + max(1, workers))
            work = partial(_write_chunk, folder, seed, size_px, groups_per_chunk)
            for count in processes.imap(work, batch):
                done += count
                if on_progress is not None:
                    on_progress(done)
            chunk = batch.stop


def _check_origin(folder: Path, wanted: dict[str, int]) -> None:
    """Notes what a new folder is made of; refuses to mix anything else into it."""
    path = folder / _ORIGIN
    if path.is_file():
        try:
            origin = dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InvalidRecordError(f"{folder.name}/{_ORIGIN}: expected an object") from error
        for name, value in wanted.items():
            if origin.get(name) != value:
                raise InvalidRecordError(
                    f"{folder.name}/{_ORIGIN}: {name}: the scenes were rendered with "
                    f"{origin.get(name)!r}, got {value!r}; choose another folder"
                )
        return
    if any(folder.glob("scenes-*")):
        raise InvalidRecordError(
            f"{folder.name}/{_ORIGIN}: missing, so the seed of the scenes in this "
            f"folder is unknown; write {json.dumps(wanted)} there if that is it, or choose "
            "another folder"
        )
    staged = folder / f".{_ORIGIN}.{os.getpid()}"
    staged.write_text(json.dumps(wanted), "utf-8")
    staged.replace(path)


def _write_chunk(folder: Path, seed: int, size_px: int, groups: int, chunk: int) -> int:
    path = folder / f"scenes-{chunk:05d}"
    if (path / "scenes.json").is_file():
        return len(json.loads((path / "scenes.json").read_text())["categories"])
    cv2.setNumThreads(1)
    scenes: list[Scene] = []
    sizes: list[int] = []
    for index in range(chunk * groups, (chunk + 1) * groups):
        rng = group_rng(Stream.TRAINING, seed, index)
        size = int(rng.choice(len(_GROUP_SIZES), p=_GROUP_SIZES)) + 2
        drawn = draw_group(rng, group_size=size, size_px=size_px * _RENDER_FACTOR)
        scenes.extend(_reduce(scene, size_px) for scene in drawn)
        sizes.append(size)
    staged = folder / f".{path.name}"
    staged.mkdir(exist_ok=True)
    np.save(staged / "images.npy", np.stack([s.image for s in scenes]))
    np.save(staged / "object_maps.npy", np.stack([s.object_map for s in scenes]))
    np.save(staged / "part_maps.npy", np.stack([s.part_map for s in scenes]))
    meta = {
        "categories": [s.categories for s in scenes],
        "styles": [s.style for s in scenes],
        "groups": sizes,
    }
    (staged / "scenes.json").write_text(json.dumps(meta))
    staged.rename(path)
    return len(scenes)


def _reduce(scene: Scene, size_px: int) -> Scene:
    image = cv2.resize(scene.image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    step = _RENDER_FACTOR
    return Scene(
        image.astype(np.uint8),
        np.ascontiguousarray(scene.object_map[step // 2 :: step, step // 2 :: step]),
        np.ascontiguousarray(scene.part_map[step // 2 :: step, step // 2 :: step]),
        scene.categories,
        scene.style,
    )


class ScenePool:
    """Scenes of a pool folder, mapped into memory.

    Raises:
        InvalidRecordError: the folder holds no finished chunk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._arrays: list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]] = []
        self._where: list[tuple[int, int]] = []
        self._categories: list[tuple[str, ...]] = []
        self._styles: list[str] = []
        self._groups: list[range] = []
        self._of_category: dict[str, list[int]] = {name: [] for name in TRAINED_CATEGORIES}
        self.refresh()
        if not self._where:
            raise InvalidRecordError(f"{folder.name}: expected finished chunks of scenes")

    def __len__(self) -> int:
        return len(self._where)

    def refresh(self) -> None:
        """Reads chunks that were finished since the last look."""
        for path in sorted(self._folder.glob("scenes-*")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            arrays = tuple(
                np.load(path / f"{name}.npy", mmap_mode="r")
                for name in ("images", "object_maps", "part_maps")
            )
            meta = json.loads((path / "scenes.json").read_text())
            first = len(self._where)
            for offset, (names, style) in enumerate(
                zip(meta["categories"], meta["styles"], strict=True)
            ):
                self._where.append((len(self._arrays), offset))
                self._categories.append(tuple(names))
                self._styles.append(style)
                self._of_category[names[0]].append(first + offset)
            for size in meta["groups"]:
                self._groups.append(range(first, first + size))
                first += size
            self._arrays.append(arrays)

    def scene(self, index: int) -> Scene:
        """Returns one scene; the arrays are copies."""
        chunk, offset = self._where[index]
        images, object_maps, part_maps = self._arrays[chunk]
        return Scene(
            np.array(images[offset]),
            np.array(object_maps[offset]),
            np.array(part_maps[offset]),
            self._categories[index],
            self._styles[index],
        )

    def draw_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Draws single scenes."""
        return [self.scene(int(i)) for i in rng.integers(len(self._where), size=count)]

    def draw_group(self, rng: np.random.Generator, size: int) -> list[Scene]:
        """Draws a group: as it was rendered, or newly matched by category or by shared part."""
        return [self.scene(i) for i in self.draw_indices(rng, size)]

    def draw_indices(self, rng: np.random.Generator, size: int) -> list[int]:
        """Draws what `draw_group` would, as positions of its scenes."""
        if size > 1 and rng.random() < _AS_DRAWN:
            drawn = self._groups[int(rng.integers(len(self._groups)))]
            if len(drawn) >= size:
                return [int(i) for i in rng.permutation(list(drawn))[:size]]
        first = int(rng.integers(len(self._where)))
        main = self._categories[first][0]
        names = [main] if rng.random() < _SAME_CATEGORY else comparable(main)
        picks = [first]
        while len(picks) < size:
            options = self._of_category[names[int(rng.integers(len(names)))]]
            if options and all(_may_meet(self._categories, options[0], p) for p in picks):
                picks.append(options[int(rng.integers(len(options)))])
        return [int(i) for i in rng.permutation(picks)]


def comparable(name: str) -> list[str]:
    """Categories of training that share a part with `name` and may be compared with it."""
    parts = set(parts_of(name))
    return [
        other
        for other in TRAINED_CATEGORIES
        if parts & set(parts_of(other)) and frozenset({name, other}) not in WITHHELD_PAIRS
    ]


def _may_meet(categories: Sequence[tuple[str, ...]], a: int, b: int) -> bool:
    return frozenset({categories[a][0], categories[b][0]}) not in WITHHELD_PAIRS
