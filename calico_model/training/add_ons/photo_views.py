"""Places of labeled images as the photo refiner sees them, on disk: pixels, maps and true masks.

A place is a whole image or a rectangle around one of its regions. The photo trunk is frozen, so
its maps are computed once; files are memory-mapped, so a training reads only what it draws.
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

from calico_model.inference.low_res_mask import extent_of
from calico_model.inference.mask_refinement import EncodeView, Focus
from calico_model.modeling.mask_refiner import VIEW
from calico_model.staging import replace_text
from calico_model.training.add_ons.annotators import pieces_of
from calico_model.types import BoolMask, LabeledGroup, RegionKind, RgbImage

_ZOOMS = 5  # of one image, beside the whole of it
_WIDER = (1.15, 3.0)  # the rectangle's side, of the region's
_UNEVEN = 0.15  # by which one side may be wider than the other
_LEAST_SHARE = 0.004  # of a view: what covers less is not asked for
_LEAST_SEEN = 0.5  # of a region that a view shows
_LEAST_SIDE = 12  # of a rectangle in pixels
_DONE = "done.json"


class Wish(IntEnum):
    """What a mask outlines."""

    PART = 0
    """One connected part, or a piece of a part that has several."""
    SPLIT = 1
    """A part in several pieces."""
    OBJECT = 2


@dataclass(frozen=True, eq=False)
class View:
    """A place of an image.

    Attributes:
        image: (V, V, 3) uint8.
        maps: (C, V/2, V/2) float16 and three halves of that side, the photo trunk's.
        masks: (V, V) bool each, not empty.
        wishes: what each is.
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
        own = slice(int(self._starts[index]), int(self._starts[index + 1]))
        bits = np.unpackbits(self._masks[own], axis=1).reshape(-1, VIEW, VIEW)
        return View(
            np.array(self._images[index]),
            tuple(np.array(level[index]) for level in self._maps),
            tuple(bits.astype(np.bool_)),
            tuple(Wish(one) for one in self._wishes[own]),
        )


def fill_views(
    folder: Path,
    groups: Sequence[LabeledGroup],
    encode: EncodeView,
    *,
    seed: int,
    on_group: Callable[[int, int], None] = lambda done, total: None,
) -> PhotoViews:
    """Writes the views of all images of some groups, or opens those that a folder has already.

    Args:
        folder: of the views.
        groups: with truth.
        encode: a rectangle to the photo trunk's maps of it.
        seed: of the rectangles.
        on_group: called with the groups done and all.
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
                shown = [(_seen(place, mask), wish) for mask, wish in regions]
                kept = [(mask, wish) for mask, wish in shown if mask is not None]
                if not kept:
                    continue
                maps = [
                    one[0].half().numpy() for one in encode(np.ascontiguousarray(place.of(image)))
                ]
                shapes = [one.shape for one in maps]
                for file, one in zip(files, maps, strict=True):
                    file.write(one.tobytes())
                images.append(_small(place.of(image)))
                masks += [np.packbits(mask) for mask, _ in kept]
                wishes += [wish for _, wish in kept]
                starts.append(len(masks))
        on_group(done, len(groups))
    for level, (file, shape) in enumerate(zip(files, shapes, strict=True)):
        file.close()
        raw = np.memmap(folder / f"maps{level}.raw", np.float16, "r", shape=(len(images), *shape))
        np.save(folder / f"maps{level}.npy", raw)
        (folder / f"maps{level}.raw").unlink()
    np.save(folder / "images.npy", np.stack(images))
    np.save(folder / "masks.npy", np.stack(masks))
    np.save(folder / "wishes.npy", np.array(wishes, np.uint8))
    np.save(folder / "starts.npy", np.array(starts))
    replace_text(folder / _DONE, json.dumps({"views": len(images), "seed": seed}))
    return PhotoViews(folder)


def stack_maps(views: Sequence[View]) -> list[Tensor]:
    """The maps of n views, (n, C, V/2, V/2) float32 and three halves of that side."""
    return [
        torch.from_numpy(np.stack([one.maps[level] for one in views])).float() for level in range(4)
    ]


def _regions(labeled: LabeledGroup, image: int) -> Iterator[tuple[BoolMask, Wish]]:
    for one in labeled.parts:
        if one.image_index != image or not one.mask.any():
            continue
        if one.kind is RegionKind.COMMON_OBJECT:
            yield one.mask, Wish.OBJECT
            continue
        pieces = pieces_of(one.mask)
        if len(pieces) < 2:
            yield one.mask, Wish.PART
        else:
            yield one.mask, Wish.SPLIT
            yield from ((piece, Wish.PART) for piece in pieces)


def _places(
    image: RgbImage, regions: Sequence[tuple[BoolMask, Wish]], rng: np.random.Generator
) -> Iterator[Focus]:
    """The whole image, then rectangles around some of its regions."""
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
    length = max(_LEAST_SIDE, wider * (high - low))
    spare = max(0.0, length - (high - low))
    first = low - spare * rng.uniform(0.15, 0.85)
    start = int(max(0, min(first, side - 1)))
    return start, int(max(start + 1, min(side, round(first + length))))


def _seen(place: Focus, mask: BoolMask) -> BoolMask | None:
    """What a view shows of a mask, None if that is too little."""
    inside = place.of(mask)
    if np.count_nonzero(inside) < _LEAST_SEEN * np.count_nonzero(mask):
        return None
    seen: BoolMask = _small(inside.astype(np.uint8) * np.uint8(255)) > 127
    return seen if seen.mean() >= _LEAST_SHARE else None


def _small(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if max(values.shape[:2]) > VIEW else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (VIEW, VIEW), interpolation=how), np.uint8)
