"""Images with the name of every cell, and other views of them, as the dense head learns from them.

A handful of corrected images shows too little of a domain; cut out, enlarged, mirrored and
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
_CUT = (0.55, 1.0)  # side of what is cut out, of the image's
_GAIN, _SHIFT = 0.3, 38.0
_OTHER_SIDE = {"left": "right", "right": "left"}


GroupViews = tuple[tuple[DenseImage, ...], ...]
"""Per image of a group, views of it."""


def plain_image(example: Example, index: int) -> DenseImage:
    """Returns one image of an example as it is."""
    maps = tuple(one[index] for one in example.features.photo)
    return _image(example, maps, parts_of(example, index), objects_of(example, index))


def other_view(
    example: Example,
    index: int,
    image: RgbImage,
    number: int,
    encode: EncodePhoto,
    names: Collection[str],
) -> DenseImage:
    """Returns another view of one image of an example.

    Args:
        example: whose image it is.
        index: of the image.
        image: its pixels.
        number: which view; equal numbers give equal views.
        encode: an image to the photo trunk's maps.
        names: normal forms of all names of the project.
    """
    parts, objects = parts_of(example, index), objects_of(example, index)
    source = random.Random(f"{number}/{int(image.sum())}")
    here = {normalise(one.label) for one in (*parts, *objects)}
    can_mirror = all(other_side(name) in names for name in here)
    change = draw_change(source, can_mirror=can_mirror)
    maps = tuple(one[0].contiguous() for one in encode(change.image(image)))
    return _image(example, maps, _changed(parts, change), _changed(objects, change))


def group_views(
    example: Example,
    images: Sequence[RgbImage],
    views: int,
    encode: EncodePhoto,
    names: Collection[str],
) -> GroupViews:
    """Returns so many other views of every image of an example; arguments as in `other_view`."""
    return tuple(
        tuple(other_view(example, k, images[k], n, encode, names) for n in range(views))
        for k in range(len(example))
    )


def with_dense(example: Example, others: GroupViews) -> Example:
    """Adds to an example what the dense head learns from: its images, and other views of them."""
    dense = tuple((plain_image(example, k), *several) for k, several in enumerate(others))
    return replace(example, dense=dense)


def parts_of(example: Example, image: int) -> list[PartMask]:
    """The true parts of one image."""
    here = [one for one in example.truth if one.image_index == image]
    return [one for one in here if one.kind is not RegionKind.COMMON_OBJECT]


def objects_of(example: Example, image: int) -> list[PartMask]:
    """The common objects of one image and the one whose parts are compared, named."""
    here = [one for one in example.truth if one.image_index == image]
    found = [one for one in here if one.kind is RegionKind.COMMON_OBJECT]
    compared = example.objects[image]
    named = {normalise(one.label) for one in found}
    if compared is not None and normalise(compared.label) not in named:
        found.append(PartMask(image, RegionKind.COMMON_OBJECT, compared.label, compared.mask))
    return found


@dataclass(frozen=True)
class Change:
    """How a view differs from its image.

    Attributes:
        top, left, height, width: what is cut out, as shares of the image.
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
        cut = self._cut(image).astype(np.float32)
        seen: RgbImage = np.clip(cut * self.gain + self.shift, 0, 255).astype(np.uint8)
        return seen

    def mask(self, mask: BoolMask) -> BoolMask:
        """Changes an (H, W) mask."""
        return np.ascontiguousarray(self._cut(mask))

    def name(self, name: str) -> str:
        """In the mirror the left wheel is the right one."""
        return other_side(normalise(name)) if self.mirrored else name

    def _cut(self, array: NDArray[S]) -> NDArray[S]:
        height, width = array.shape[:2]
        top, left = int(self.top * height), int(self.left * width)
        down, across = max(1, int(self.height * height)), max(1, int(self.width * width))
        seen = array[top : top + down, left : left + across]
        return seen[:, ::-1] if self.mirrored else seen


def draw_change(source: random.Random, *, can_mirror: bool) -> Change:
    """Draws how a view differs."""
    side = source.uniform(*_CUT)
    return Change(
        top=source.uniform(0, 1 - side),
        left=source.uniform(0, 1 - side),
        height=side,
        width=side,
        mirrored=source.random() < 0.5 and can_mirror,
        gain=source.uniform(1 - _GAIN, 1 + _GAIN),
        shift=source.uniform(-_SHIFT, _SHIFT),
    )


def other_side(name: str) -> str:
    """Swaps left and right in a name; a name without sides comes back."""
    return SIDED.sub(lambda found: _OTHER_SIDE[found[0].lower()], name)


def _changed(regions: Sequence[PartMask], change: Change) -> list[PartMask]:
    return [
        replace(one, mask=change.mask(one.mask), label=change.name(one.label)) for one in regions
    ]


def _image(
    example: Example,
    maps: tuple[Tensor, ...],
    parts: Sequence[PartMask],
    objects: Sequence[PartMask],
) -> DenseImage:
    cells = maps[0].shape[-1]
    part_names, object_names = (
        tuple(sorted({normalise(one.label) for one in regions})) for regions in (parts, objects)
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
        (L, L) uint8, 0 or 1 + index into `names`, of what covers most of each cell.
    """
    codes = np.zeros((cells, cells), np.uint8)
    for one in sorted(regions, key=lambda region: -np.count_nonzero(region.mask)):
        shown = cv2.resize(
            one.mask.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA
        )
        codes[shown >= 0.5] = 1 + names.index(normalise(one.label))
    return torch.from_numpy(codes)


class ViewCache:
    """Other views of corrected groups between updates, the ones used last under a byte ceiling.

    A view holds the truth of its time: a group that is corrected again has another key.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[object, GroupViews] = OrderedDict()

    def get(self, key: object, views: int) -> GroupViews | None:
        """Returns the first so many views of each image of a group, or None."""
        found = self._kept.get(key)
        if found is None or min(map(len, found)) < views:
            return None
        self._kept.move_to_end(key)
        return tuple(several[:views] for several in found)

    def put(self, key: object, views: GroupViews) -> None:
        """Keeps the views of a group."""
        self._kept[key] = views
        self._kept.move_to_end(key)
        while self._kept and sum(map(_bytes_of, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)


def _bytes_of(views: GroupViews) -> int:
    return sum(one.nbytes for several in views for one in several)
