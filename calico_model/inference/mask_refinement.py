"""Refinement of masks: the rectangle around a mask, the refiner's view of it, and the way back.

Everything is in pixels of the original image; only views have a fixed size.
Legend: H x W image, V = `VIEW`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calico_model.inference.images import SAM_MEAN, SAM_STD, scaled_size_hw, to_photo
from calico_model.inference.low_res_mask import Coarse, Decoded, Logits, mask_of
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.loading.placement import is_fast_in_half
from calico_model.masks import extent_of
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner, Plane
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, RgbImage

LIMIT = 4.0
"""Bound of the logits of a coarse mask, so that the refiner can overrule them. A mask drawn by an
annotator counts as logits of that size."""
_MARGIN = 0.2  # of the mask's extent, on each side: 1.4 times as large in all (FocalClick)
_LEAST = 1 / 10  # of the image's longest side; a smaller rectangle shows too little around a mask
_REACH = 1 / 3  # of the image's longest side, on each side of a click without a mask
_DISC_RADIUS = 4  # of a click, in pixels of the view
_MEAN = np.array(SAM_MEAN, np.float32)[:, None, None]
_STD = np.array(SAM_STD, np.float32)[:, None, None]

S = TypeVar("S", bound=np.generic)
EncodeView = Callable[[RgbImage], tuple[Tensor, ...]]
"""An (h, w, 3) uint8 rectangle of an image -> the photo trunk's maps of it, (1, C, V/2, V/2) and
three maps of half, a quarter and an eighth of that side."""


@dataclass(frozen=True)
class Focus:
    """A rectangle of whole pixels inside an image, [x0, x1) by [y0, y1)."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, array: NDArray[S]) -> NDArray[S]:
        """Returns the part of an (H, W, ...) array inside; a view, not a copy."""
        return array[self.y0 : self.y1, self.x0 : self.x1]

    def iou(self, other: Focus) -> float:
        """Returns the intersection over union of two rectangles."""
        across = min(self.x1, other.x1) - max(self.x0, other.x0)
        down = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(0, across) * max(0, down)
        return shared / (self._area + other._area - shared)

    @property
    def _area(self) -> int:
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with the inputs that the refiner takes from it.

    Attributes:
        image: (H, W, 3) uint8.
        fine: (F, L, L) the decoder's finest map of the padded square frame; F is 0 without one.
        shown: share of the frame that the image covers, (down, across).
        encode: returns the photo trunk's maps of a rectangle; None without a refiner of
            photographs.
        maps: results of `encode` by rectangle: no rectangle is encoded twice.
    """

    image: RgbImage
    fine: Tensor
    shown: tuple[float, float]
    encode: EncodeView | None = None
    maps: dict[Focus, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)


def photo_encoder(model: Calico) -> EncodeView:
    """Returns the function that encodes rectangles for a model's refiner of photographs."""

    def encode(image: RgbImage) -> tuple[Tensor, ...]:
        device = model.mask_decoder.mask_decoder.iou_token.weight.device
        return model.encode_photos([to_photo(image, 2 * VIEW).to(device)], VIEW // 2)

    return encode


def picture_of(model: Calico, features: ImageFeatures, index: int, image: RgbImage) -> Picture:
    """Joins an image's pixels with its features.

    Args:
        model: that encoded the image.
        features: of M images.
        index: of the image, 0-based.
        image: (H, W, 3) uint8.
    """
    maps = features.mask.fine
    fine = maps[-1][index] if maps else features.mask.embedding[index, :0]
    side = model.config.image_size
    down, across = scaled_size_hw((image.shape[0], image.shape[1]), side)
    encode = photo_encoder(model) if model.photo_refiner is not None else None
    return Picture(image, fine.float(), (down / side, across / side), encode)


def refine_masks(
    refiner: MaskRefiner,
    pictures: Sequence[Picture],
    coarse: Sequence[Coarse],
    prompts: Sequence[MaskPrompt | None],
    places: Sequence[Focus | None] | None = None,
) -> list[BoolMask]:
    """Refines masks; where a coarse mask is empty, draws the mask that the prompt means.

    Args:
        refiner: in evaluation mode.
        pictures: the image of each mask.
        coarse: masks of their image's size; an empty mask counts as no mask.
        prompts: prompt of the annotator for each mask, or None.
        places: rectangles to refine; None takes those around the masks and prompts.

    Returns:
        (H_i, W_i) bool each; an empty mask without a prompt stays empty.
    """
    if places is None:
        places = [focus_on(mask, prompt) for mask, prompt in zip(coarse, prompts, strict=True)]
    rows = list(zip(pictures, places, coarse, prompts, strict=True))
    shown = [
        (picture, place, mask, prompt) for picture, place, mask, prompt in rows if place is not None
    ]
    added = iter(_run_refiner(refiner, shown) if shown else ())
    return [
        mask_of(mask) if place is None else merge(mask, place, next(added))
        for _, place, mask, _ in rows
    ]


def _run_refiner(
    refiner: MaskRefiner,
    shown: Sequence[tuple[Picture, Focus, Coarse, MaskPrompt | None]],
) -> Logits:
    """Logits that the refiner adds in each rectangle, (n, V, V)."""
    device = refiner.spread.weight.device
    views = torch.stack(
        [view_of(picture.image, place, mask, prompt) for picture, place, mask, prompt in shown]
    )
    fine = torch.stack([fine_map_of(picture, place) for picture, place, _, _ in shown])
    maps: list[Tensor] = []
    if refiner.reads_maps:
        fine = fine[:, :0]
        encoded = [photo_maps_of(picture, place) for picture, place, _, _ in shown]
        maps = [torch.stack(level).to(device).float() for level in zip(*encoded, strict=True)]
    with torch.autocast(device.type, torch.bfloat16, enabled=is_fast_in_half(device)):
        added = refiner(views.to(device), fine.to(device), maps)
    logits: Logits = added.float().cpu().numpy()
    return logits


def draw_outlines(
    model: Calico,
    features: ImageFeatures,
    sizes_hw: Sequence[tuple[int, int]],
    at: Sequence[int],
    logits: Sequence[Tensor],
    images: Sequence[RgbImage] | None,
) -> list[BoolMask]:
    """Brings decoded masks to their images, refined where the model has a refiner.

    Args:
        model: that decoded the masks.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        at: image of each of n masks, 0-based positions in the group.
        logits: n (L, L) in the network's frame.
        images: the group's pixels; None refines nothing.

    Returns:
        n (H, W) bool.
    """
    side = model.config.image_size
    coarse = [Decoded.of(mask, sizes_hw[k], side) for k, mask in zip(at, logits, strict=True)]
    if model.mask_refiner is None or images is None:
        return [mask.mask() for mask in coarse]
    pictures = {k: picture_of(model, features, k, images[k]) for k in sorted(set(at))}
    shown = [pictures[k] for k in at]
    return refine_masks(model.mask_refiner, shown, coarse, [None] * len(coarse))


def focus_on(coarse: Coarse, prompt: MaskPrompt | None) -> Focus | None:
    """Returns the rectangle around a mask and its prompt, or None if both are empty.

    Args:
        coarse: mask of an image's size.
        prompt: in pixels of the same image, or None.
    """
    if isinstance(coarse, Decoded):
        (height, width), boxes = coarse.size_hw, [coarse.extent()]
    else:
        (height, width), boxes = coarse.shape, [extent_of(coarse)]
    if prompt is not None:
        boxes += [(c.x, c.y, c.x, c.y) for c in prompt.clicks]
        if prompt.previous is not None:
            boxes.append(extent_of(prompt.previous))
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            boxes.append((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
    known = np.array([box for box in boxes if box is not None])
    if not len(known):
        return None
    least = _LEAST * max(height, width)
    x0, x1 = _widened(known[:, 0].min(), known[:, 2].max(), least, width)
    y0, y1 = _widened(known[:, 1].min(), known[:, 3].max(), least, height)
    return Focus(x0, y0, x1, y1)


def around(click: Click, size_hw: tuple[int, ...]) -> Focus:
    """Returns a wide rectangle around a click without a mask: its region may be of any size."""
    height, width = size_hw
    reach = _REACH * max(height, width)
    x = min(max(click.x, 0.0), width - 1.0)
    y = min(max(click.y, 0.0), height - 1.0)
    return Focus(
        int(max(0, x - reach)),
        int(max(0, y - reach)),
        int(min(width, x + reach + 1)),
        int(min(height, y + reach + 1)),
    )


def view_of(image: RgbImage, place: Focus, coarse: Coarse, prompt: MaskPrompt | None) -> Tensor:
    """Returns the (planes, V, V) float32 view of a rectangle; see `Plane`.

    Args:
        image: (H, W, 3) uint8.
        place: the rectangle, inside the image.
        coarse: the mask to refine, of the image's size; an empty drawn mask counts as no mask.
        prompt: of the annotator, or None.
    """
    view = np.zeros((len(Plane), VIEW, VIEW), np.float32)
    colours = view[Plane.RED : Plane.BLUE + 1]
    colours[:] = _resized(place.of(image)).transpose(2, 0, 1)
    colours -= _MEAN
    colours /= _STD
    if isinstance(coarse, Decoded) or coarse.any():
        view[Plane.COARSE] = _signed(coarse, place)
    if prompt is None:
        return torch.from_numpy(view)
    if prompt.previous is not None and prompt.previous.any():
        is_coarse = prompt.previous is coarse
        view[Plane.PREVIOUS] = view[Plane.COARSE] if is_coarse else _signed(prompt.previous, place)
    across, down = VIEW / (place.x1 - place.x0), VIEW / (place.y1 - place.y0)
    for click in prompt.clicks:
        at = int((click.x - place.x0) * across), int((click.y - place.y0) * down)
        plane = view[Plane.POSITIVE if click.is_positive else Plane.NEGATIVE]
        cv2.circle(plane, at, _DISC_RADIUS, 1.0, thickness=-1)
    if prompt.box is not None:
        xs = sorted(round((x - place.x0) * across) for x in prompt.box[::2])
        ys = sorted(round((y - place.y0) * down) for y in prompt.box[1::2])
        view[Plane.BOX] = -1.0
        view[Plane.BOX, max(0, ys[0]) : ys[1], max(0, xs[0]) : xs[1]] = 1.0
    return torch.from_numpy(view)


def photo_maps_of(picture: Picture, place: Focus) -> tuple[Tensor, ...]:
    """Returns the photo trunk's maps of a rectangle, as `EncodeView` without the first axis.

    Even the rectangle of the whole image is encoded: the image's features have its maps in another
    resolution.
    """
    if place not in picture.maps:
        assert picture.encode is not None
        maps = picture.encode(np.ascontiguousarray(place.of(picture.image)))
        picture.maps[place] = tuple(level[0] for level in maps)
    return picture.maps[place]


def fine_map_of(picture: Picture, place: Focus) -> Tensor:
    """Returns the (F, V/2, V/2) part of the decoder's finest map that shows a rectangle."""
    height, width = picture.image.shape[:2]
    down, across = picture.shown
    cells = (torch.arange(VIEW // 2) + 0.5) / (VIEW // 2)
    xs = (place.x0 + cells * (place.x1 - place.x0)) / width * across
    ys = (place.y0 + cells * (place.y1 - place.y0)) / height * down
    grid = torch.stack(torch.meshgrid(2 * xs - 1, 2 * ys - 1, indexing="xy"), -1)
    sampled = functional.grid_sample(
        picture.fine[None], grid[None].to(picture.fine), padding_mode="border", align_corners=False
    )
    return sampled[0]


def merge(coarse: Coarse, place: Focus, added: Logits) -> BoolMask:
    """Returns the (H, W) bool mask after the refiner added its logits in a rectangle.

    Args:
        coarse: the mask to refine; an empty drawn mask counts as no mask.
        place: the rectangle; pixels of a decoded mask outside it are removed.
        added: (V, V) logits; zeros leave the mask as it is, bit for bit.
    """
    if not added.any():
        return mask_of(coarse)
    size = place.x1 - place.x0, place.y1 - place.y0
    if isinstance(coarse, Decoded):
        level = cv2.resize(_bounded(coarse, place) + added, size, interpolation=cv2.INTER_LINEAR)
        mask = np.zeros(coarse.size_hw, np.bool_)
        place.of(mask)[:] = level > 0
        return mask
    more = cv2.resize(added, size, interpolation=cv2.INTER_LINEAR)
    mask = coarse.copy()
    inside = place.of(mask)
    inside |= more > (LIMIT if coarse.any() else 0)
    inside &= more > -LIMIT
    return mask


def _bounded(coarse: Decoded, place: Focus) -> Logits:
    """The logits of a decoded mask in a rectangle, (V, V) in ±`LIMIT`."""
    logits = coarse.sample((place.x0, place.y0, place.x1, place.y1), (VIEW, VIEW))
    return logits.clip(-LIMIT, LIMIT)


def _signed(coarse: Coarse, place: Focus) -> Logits:
    """A mask in a rectangle, (V, V) in [-1, 1]."""
    if isinstance(coarse, Decoded):
        return _bounded(coarse, place) / np.float32(LIMIT)
    drawn = _resized(np.multiply(place.of(coarse), 255, dtype=np.uint8, casting="unsafe"))
    return np.multiply(drawn, 2 / 255, dtype=np.float32) - np.float32(1)


def _widened(low: float, high: float, least: float, side: int) -> tuple[int, int]:
    """An interval with its margin, inside [0, side) and at least one pixel long."""
    middle, extent = (low + high) / 2, max(least, (1 + 2 * _MARGIN) * (high - low))
    first = min(max(0, int(np.floor(middle - extent / 2))), side - 1)
    return first, max(first + 1, min(side, int(np.ceil(middle + extent / 2))))


def _resized(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A uint8 array of any size resized to (V, V, ...)."""
    while min(values.shape[:2]) >= 4 * VIEW:  # halving is fast, and the mean of means is the mean
        height, width = (size // 2 * 2 for size in values.shape[:2])
        half = width // 2, height // 2
        halved = cv2.resize(values[:height, :width], half, interpolation=cv2.INTER_AREA)
        values = np.asarray(halved, np.uint8)
    is_shrinking = max(values.shape[:2]) > VIEW
    how = cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (VIEW, VIEW), interpolation=how), np.uint8)
