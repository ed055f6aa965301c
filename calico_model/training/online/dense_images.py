"""Images with the name of every cell, and augmented views of them, for the dense head.

A handful of corrected images shows too little of a domain; cropped, enlarged, mirrored and
recoloured they show the same parts in other places and other light. Every view is encoded once by
the photo trunk and then kept.
Legend: L logit side.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calico_model.training.online.example import DenseImage, Example
from calico_model.types import BoolMask, PartMask, RegionKind, RgbImage
from calico_model.vocabulary import SIDED, normalise

S = TypeVar("S", bound=np.generic)
EncodePhoto = Callable[[RgbImage], tuple[Tensor, ...]]
"""An (H, W, 3) uint8 image to the photo trunk's maps of it alone, each (1, C, h, w)."""

_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})
_CROP = (0.55, 1.0)  # side of the crop, of the image's
_GAIN, _SHIFT = 0.3, 38.0
_OTHER_SIDE = {"left": "right", "right": "left"}


GroupViews = tuple[tuple[DenseImage, ...], ...]
"""Per image of a group, views of it."""


def plain_image(example: Example, index: int) -> DenseImage:
    """Returns one image of an example as it is."""
    maps = tuple(level[index] for level in example.features.photo)
    return _image(example, maps, parts_of(example, index), objects_of(example, index))


def other_view(
    example: Example,
    index: int,
    image: RgbImage,
    number: int,
    encode: EncodePhoto,
    names: Collection[str],
) -> DenseImage:
    """Returns an augmented view of one image of an example.

    Args:
        example: that holds the image.
        index: of the image.
        image: its (H, W, 3) uint8 RGB pixels.
        number: of the view; equal numbers give equal views.
        encode: an image to the photo trunk's maps.
        names: normal forms of all names of the project.
    """
    parts, objects = parts_of(example, index), objects_of(example, index)
    source = random.Random(f"{number}/{int(image.sum())}")
    shown = {normalise(region.label) for region in (*parts, *objects)}
    can_mirror = all(other_side(name) in names for name in shown)
    change = draw_change(source, can_mirror=can_mirror)
    maps = tuple(level[0].contiguous() for level in encode(change.image(image)))
    return _image(example, maps, _changed(parts, change), _changed(objects, change))


def group_views(
    example: Example,
    images: Sequence[RgbImage],
    views: int,
    encode: EncodePhoto,
    names: Collection[str],
) -> GroupViews:
    """Returns so many views of every image of an example; arguments as in `other_view`."""
    return tuple(
        tuple(other_view(example, k, images[k], n, encode, names) for n in range(views))
        for k in range(len(example))
    )


def with_dense(example: Example, others: GroupViews) -> Example:
    """Adds images for the dense head to an example: its own, and augmented views of them."""
    dense = tuple((plain_image(example, k), *several) for k, several in enumerate(others))
    return replace(example, dense=dense)


def parts_of(example: Example, image: int) -> list[PartMask]:
    """The true parts of one image."""
    return [
        region
        for region in example.truth
        if region.image_index == image and region.kind is not RegionKind.COMMON_OBJECT
    ]


def objects_of(example: Example, image: int) -> list[PartMask]:
    """The common objects of one image, and the object whose parts are compared."""
    objects = [
        region
        for region in example.truth
        if region.image_index == image and region.kind is RegionKind.COMMON_OBJECT
    ]
    compared = example.objects[image]
    named = {normalise(region.label) for region in objects}
    if compared is not None and normalise(compared.label) not in named:
        objects.append(PartMask(image, RegionKind.COMMON_OBJECT, compared.label, compared.mask))
    return objects


@dataclass(frozen=True)
class ViewChange:
    """The difference between a view and its image.

    Attributes:
        top, left, height, width: of the crop, as shares of the image.
        mirrored: left becomes right, in the names as well.
        gain, shift: of the brightness, in 0-255.
    """

    top: float
    left: float
    height: float
    width: float
    mirrored: bool
    gain: float
    shift: float

    def image(self, image: RgbImage) -> RgbImage:
        """Changes an (H, W, 3) uint8 image."""
        crop = self._crop(image).astype(np.float32)
        changed: RgbImage = np.clip(crop * self.gain + self.shift, 0, 255).astype(np.uint8)
        return changed

    def mask(self, mask: BoolMask) -> BoolMask:
        """Changes an (H, W) mask."""
        return np.ascontiguousarray(self._crop(mask))

    def name(self, name: str) -> str:
        """Changes a name: in a mirrored view the left wheel is the right wheel."""
        return other_side(normalise(name)) if self.mirrored else name

    def _crop(self, array: NDArray[S]) -> NDArray[S]:
        height, width = array.shape[:2]
        top, left = int(self.top * height), int(self.left * width)
        down, across = max(1, int(self.height * height)), max(1, int(self.width * width))
        crop = array[top : top + down, left : left + across]
        return crop[:, ::-1] if self.mirrored else crop


def draw_change(source: random.Random, *, can_mirror: bool) -> ViewChange:
    """Draws the difference between a view and its image."""
    side = source.uniform(*_CROP)
    return ViewChange(
        top=source.uniform(0, 1 - side),
        left=source.uniform(0, 1 - side),
        height=side,
        width=side,
        mirrored=source.random() < 0.5 and can_mirror,
        gain=source.uniform(1 - _GAIN, 1 + _GAIN),
        shift=source.uniform(-_SHIFT, _SHIFT),
    )


def other_side(name: str) -> str:
    """Swaps left and right in a name; a name without sides stays as it is."""
    return SIDED.sub(lambda side: _OTHER_SIDE[side[0].lower()], name)


def _changed(regions: Sequence[PartMask], change: ViewChange) -> list[PartMask]:
    return [
        replace(region, mask=change.mask(region.mask), label=change.name(region.label))
        for region in regions
    ]


def _image(
    example: Example,
    maps: tuple[Tensor, ...],
    parts: Sequence[PartMask],
    objects: Sequence[PartMask],
) -> DenseImage:
    cells = maps[0].shape[-1]
    part_names, object_names = (
        tuple(sorted({normalise(region.label) for region in regions}))
        for regions in (parts, objects)
    )
    return DenseImage(
        maps,
        cell_codes(parts, part_names, cells),
        cell_codes(objects, object_names, cells),
        part_names,
        object_names,
        knows_parts=example.known >= _PARTS,
        knows_objects=RegionKind.COMMON_OBJECT in example.known,
    )


def cell_codes(regions: Sequence[PartMask], names: Sequence[str], cells: int) -> Tensor:
    """Draws the regions of one image as cells.

    Args:
        regions: of one image; a smaller one lies over a larger one.
        names: normal forms.
        cells: L.

    Returns:
        (L, L) uint8, 0 or 1 + index into `names` of the region that covers most of the cell.
    """
    codes = np.zeros((cells, cells), np.uint8)
    for region in sorted(regions, key=lambda region: -np.count_nonzero(region.mask)):
        shares = cv2.resize(
            region.mask.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA
        )
        codes[shares >= 0.5] = 1 + names.index(normalise(region.label))
    return torch.from_numpy(codes)


class ViewCache:
    """Views of corrected groups between updates, the most recently used up to a byte ceiling.

    A view holds the truth as it was then: a group that is corrected again has another key.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[object, GroupViews] = OrderedDict()

    def get(self, key: object, views: int) -> GroupViews | None:
        """Returns the first so many views of each image of a group, or None."""
        kept = self._kept.get(key)
        if kept is None or min(map(len, kept)) < views:
            return None
        self._kept.move_to_end(key)
        return tuple(image_views[:views] for image_views in kept)

    def put(self, key: object, views: GroupViews) -> None:
        """Keeps the views of a group."""
        self._kept[key] = views
        self._kept.move_to_end(key)
        while self._kept and sum(map(_bytes_of, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)


def _bytes_of(views: GroupViews) -> int:
    return sum(view.nbytes for image_views in views for view in image_views)
