"""Views of labeled images for the photo refiner, on disk: pixels, maps and true masks.

A view is a whole image or a rectangle around one of its regions. The photo trunk is frozen, so
its maps are computed once; files are memory-mapped, so a training reads only the views it draws.
Legend: V side of a view, n views.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.inference.mask_refinement import EncodeView, Focus
from calico_model.masks import extent_of
from calico_model.modeling.mask_refiner import VIEW
from calico_model.staging import replace_text
from calico_model.training.add_ons.annotators import pieces_of
from calico_model.types import BoolMask, LabeledGroup, RegionKind, RgbImage

_ZOOMS = 5  # of one image, beside the whole of it
_WIDER = (1.15, 3.0)  # the rectangle's side, of the region's
_UNEVEN = 0.15  # by which one side may be wider than the other
_LEAST_SHARE = 0.004  # of a view: smaller masks are not asked for
_LEAST_SEEN = 0.5  # of a region that a view shows
_LEAST_SIDE = 12  # of a rectangle in pixels
_DONE = "done.json"


class Wish(IntEnum):
    """The kind of region a mask outlines."""

    PART = 0
    """One connected part, or a piece of a part that has several."""
    SPLIT = 1
    """A part in several pieces."""
    OBJECT = 2


@dataclass(frozen=True, eq=False)
class View:
    """A whole image, or a rectangle of it, at the refiner's size.

    Attributes:
        image: (V, V, 3) uint8.
        maps: of the photo trunk, (C, V/2, V/2) float16 and three of half the side each.
        masks: (V, V) bool each, not empty.
        wishes: kind of each mask.
    """

    image: RgbImage
    maps: tuple[NDArray[np.float16], ...]
    masks: tuple[BoolMask, ...]
    wishes: tuple[Wish, ...]


class PhotoViews:
    """The views of a folder.

    Args:
        folder: that `fill_views` has filled.
    """

    def __init__(self, folder: Path) -> None:
        self._images = np.load(folder / "images.npy", mmap_mode="r")
        self._maps = [np.load(folder / f"maps{level}.npy", mmap_mode="r") for level in range(4)]
        self._masks = np.load(folder / "masks.npy")
        self._wishes = np.load(folder / "wishes.npy")
        self._starts = np.load(folder / "starts.npy")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> View:
        """Reads one view."""
        rows = slice(int(self._starts[index]), int(self._starts[index + 1]))
        bits = np.unpackbits(self._masks[rows], axis=1).reshape(-1, VIEW, VIEW)
        return View(
            np.array(self._images[index]),
            tuple(np.array(level[index]) for level in self._maps),
            tuple(bits.astype(np.bool_)),
            tuple(Wish(wish) for wish in self._wishes[rows]),
        )


def fill_views(
    folder: Path,
    groups: Sequence[LabeledGroup],
    encode: EncodeView,
    *,
    seed: int,
    on_group: Callable[[int, int], None] = lambda _done, _total: None,
) -> PhotoViews:
    """Writes the views of all images of groups, or opens the folder if they are there already.

    Args:
        folder: of the views.
        groups: images with true masks.
        encode: pixels of a rectangle -> the photo trunk's maps of it.
        seed: of the rectangles.
        on_group: called with the number of groups done, and of all.
    """
    if (folder / _DONE).exists():
        return PhotoViews(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[RgbImage] = []
    masks: list[NDArray[np.uint8]] = []
    wishes: list[int] = []
    starts = [0]
    files = [(folder / f"maps{level}.raw").open("wb") for level in range(4)]
    shapes: list[tuple[int, ...]] = []
    rng = np.random.default_rng((seed, 0))
    for done, labeled in enumerate(groups, start=1):
        for index, image in enumerate(labeled.group.images):
            regions = list(_regions(labeled, index))
            for place in _places(image, regions, rng):
                shown = [(_mask_in_view(place, mask), wish) for mask, wish in regions]
                kept = [(mask, wish) for mask, wish in shown if mask is not None]
                if not kept:
                    continue
                levels = encode(np.ascontiguousarray(place.of(image)))
                maps = [level[0].half().numpy() for level in levels]
                shapes = [level.shape for level in maps]
                for file, level in zip(files, maps, strict=True):
                    file.write(level.tobytes())
                images.append(_resized(place.of(image)))
                masks += [np.packbits(mask) for mask, _ in kept]
                wishes += [wish for _, wish in kept]
                starts.append(len(masks))
        on_group(done, len(groups))
    for number, (file, shape) in enumerate(zip(files, shapes, strict=True)):
        file.close()
        raw = np.memmap(folder / f"maps{number}.raw", np.float16, "r", shape=(len(images), *shape))
        np.save(folder / f"maps{number}.npy", raw)
        (folder / f"maps{number}.raw").unlink()
    np.save(folder / "images.npy", np.stack(images))
    np.save(folder / "masks.npy", np.stack(masks))
    np.save(folder / "wishes.npy", np.array(wishes, np.uint8))
    np.save(folder / "starts.npy", np.array(starts))
    replace_text(folder / _DONE, json.dumps({"views": len(images), "seed": seed}))
    return PhotoViews(folder)


def stack_maps(views: Sequence[View]) -> list[Tensor]:
    """The maps of n views, (n, C, V/2, V/2) float32 and three of half the side each."""
    return [
        torch.from_numpy(np.stack([view.maps[level] for view in views])).float()
        for level in range(4)
    ]


def _regions(labeled: LabeledGroup, image: int) -> Iterator[tuple[BoolMask, Wish]]:
    """The masks of one image, and the pieces of parts in several pieces, with their kinds."""
    for part in labeled.parts:
        if part.image_index != image or not part.mask.any():
            continue
        if part.kind is RegionKind.COMMON_OBJECT:
            yield part.mask, Wish.OBJECT
            continue
        pieces = pieces_of(part.mask)
        if len(pieces) < 2:
            yield part.mask, Wish.PART
        else:
            yield part.mask, Wish.SPLIT
            yield from ((piece, Wish.PART) for piece in pieces)


def _places(
    image: RgbImage, regions: Sequence[tuple[BoolMask, Wish]], rng: np.random.Generator
) -> Iterator[Focus]:
    """The whole image, then rectangles around regions drawn from its own."""
    height, width = image.shape[:2]
    yield Focus(0, 0, width, height)
    order = rng.permutation(len(regions))[:_ZOOMS]
    for number in order:
        extent = extent_of(regions[int(number)][0])
        assert extent is not None
        x0, y0, x1, y1 = extent
        wider = float(np.exp(rng.uniform(*np.log(_WIDER))))
        (left, right), (top, bottom) = (
            _around(low, high, wider * rng.uniform(1 - _UNEVEN, 1 + _UNEVEN), side, rng)
            for low, high, side in ((x0, x1, width), (y0, y1, height))
        )
        yield Focus(left, top, right, bottom)


def _around(
    low: float, high: float, wider: float, side: int, rng: np.random.Generator
) -> tuple[int, int]:
    """First and last pixel of a side of a rectangle around a region from `low` to `high`."""
    length = max(_LEAST_SIDE, wider * (high - low))
    spare = max(0.0, length - (high - low))
    first = low - spare * rng.uniform(0.15, 0.85)
    start = int(max(0, min(first, side - 1)))
    return start, int(max(start + 1, min(side, round(first + length))))


def _mask_in_view(place: Focus, mask: BoolMask) -> BoolMask | None:
    """(V, V) part of a mask that a view shows, None if it is too small."""
    inside = place.of(mask)
    if np.count_nonzero(inside) < _LEAST_SEEN * np.count_nonzero(mask):
        return None
    shown: BoolMask = _resized(inside.astype(np.uint8) * np.uint8(255)) > 127
    return shown if shown.mean() >= _LEAST_SHARE else None


def _resized(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if max(values.shape[:2]) > VIEW else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (VIEW, VIEW), interpolation=how), np.uint8)
