"""A region accepted on one image of an ordered series, carried to the images that follow it.

Each cell of the next image takes its chance from the most similar cells that are remembered: those
of the accepted image, and those of the last images on which the region was surely found. Cells
count as similar by their frozen features and a little by their place relative to the region. A mask
is sharpened on the pixels before it is remembered.

Drift is seen by the way back: the cells of the found mask must find the accepted region again, and
the cells of the accepted region the found mask. Where they do not, the region is lost: no mask is
drawn and nothing is remembered. It is sought again on the next image, then in the whole image.
Legend: M images, S side of the cells, N = S * S, D width of a cell, n cells of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model.errors import InvalidMaskError
from calico_model.inference.images import mask_shares, whole_shares
from calico_model.inference.mask_refinement import draw_outlines, picture_of, refine_masks
from calico_model.inference.segments import sizes_of
from calico_model.interactive.propagate.transfer import Proposal
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, PartMask, RgbImage

_PHOTO_SIDE = 48
_PHOTO_LEVELS = (1, 2, 3)  # strides 8, 16 and 32
_REMEMBERED = 3
"""Found images that are remembered beside the accepted ones."""
_NEAREST, _TEMPERATURE = 7, 0.05
_PLACE = 0.5  # weight of the squared distance of places, which run from -1 to 1
_MARGIN = 0.5  # of the region's longer side: the window in which it is sought
_LEAST_MARGIN = 5  # cells
_FOUND, _SURE = 0.5, 0.6
"""Agreement of the ways there and back from which a region is found, and is remembered."""


@dataclass(frozen=True, eq=False)
class Carried:
    """The region on one image of the series.

    Attributes:
        image: 0-based position in the series.
        mask: (H, W) bool; empty if the region is lost.
        agreement: of the ways there and back, in [0, 1].
    """

    image: int
    mask: BoolMask
    agreement: float

    @property
    def is_lost(self) -> bool:
        """Whether the image does not show the region, as far as is known."""
        return not self.mask.any()


@dataclass(frozen=True, eq=False)
class _Memory:
    """What is remembered of one image: the cells around the region.

    Attributes:
        cells: (n, D) unit vectors.
        shares: (n,) share of each cell inside the region.
        places: (n, 2) relative to the region's middle.
    """

    cells: Tensor
    shares: Tensor
    places: Tensor


@torch.inference_mode()
def carry(
    model: Calico,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    accepted: Mapping[int, BoolMask],
    *,
    remembers: bool = True,
) -> tuple[Carried, ...]:
    """Carries a region to the images that follow the first image where it was accepted.

    Args:
        model: in evaluation mode, on the device of the features.
        features: of the series, in order; M may be larger than a group.
        images: (H_i, W_i, 3) uint8, the series' pixels.
        accepted: position -> (H, W) bool, the region as people outlined it; at least one.
        remembers: False compares with accepted images alone.

    Returns:
        One per image after the first accepted one that has no accepted mask, in order.

    Raises:
        InvalidMaskError: no accepted mask, or one that is empty or of another size.
    """
    _check(accepted, images)
    track = _Track(model, features, images, remembers=remembers)
    carried = []
    for image in range(min(accepted), len(images)):
        if image in accepted:
            track.accept(image, accepted[image])
        else:
            carried.append(track.find(image))
    return tuple(carried)


def as_proposal(carried: Carried, part: PartMask) -> Proposal:
    """Returns a carried region as a proposal that is named like the outlined part."""
    if carried.is_lost:
        return Proposal(carried.image, (), carried.agreement)
    region = replace(
        part,
        image_index=carried.image,
        mask=carried.mask,
        score=carried.agreement,
        evidence=None,
    )
    return Proposal(carried.image, (region,), carried.agreement)


class _Track:
    """One region on its way through a series."""

    def __init__(
        self, model: Calico, features: ImageFeatures, images: Sequence[RgbImage], *, remembers: bool
    ) -> None:
        self._model, self._features, self._images = model, features, images
        self._is_photo = model.photo_refiner is not None and not model.is_familiar(features)
        self._side = _PHOTO_SIDE if self._is_photo else model.config.mask_side
        self._cells = _photo_cells(features) if self._is_photo else _cells(features, self._side)
        along = (torch.arange(self._side, device=self._cells.device) + 0.5) / self._side * 2 - 1
        self._places = torch.cartesian_prod(along, along)
        self._most = _REMEMBERED if remembers else 0
        self._accepted: list[_Memory] = []
        self._found: list[_Memory] = []
        self._last = self._places.new_zeros(self._side, self._side)  # shares where last seen
        self._is_lost = False

    def accept(self, image: int, mask: BoolMask) -> None:
        """Remembers what people outlined, and forgets what was found before."""
        shares = self._shares(mask)
        self._accepted.append(self._remember(image, shares))
        self._found.clear()
        self._last, self._is_lost = shares, False

    def find(self, image: int) -> Carried:
        """Finds the region on the next image."""
        window = slice(None) if self._is_lost else self._window(self._last)
        chances = self._chances(image, window)
        mask = self._draw(image, chances)
        shares = self._shares(mask)
        agreement = self._agreement(image, shares) if bool(shares.any()) else 0.0
        if agreement < (_SURE if self._is_lost else _FOUND):
            self._is_lost = True
            return Carried(image, np.zeros_like(mask), agreement)
        self._last, self._is_lost = shares, False
        if agreement >= _SURE and self._most:
            self._found = [*self._found, self._remember(image, shares)][-self._most :]
        return Carried(image, mask, agreement)

    def _chances(self, image: int, window: Tensor | slice) -> Tensor:
        """(S, S) chance of each cell to be of the region; 0 outside the window."""
        memories = [*self._accepted, *self._found]
        places = self._places[window] - self._middle(self._last)
        similar = torch.cat(
            [self._similarity(self._cells[image][window], places, memory) for memory in memories],
            dim=1,
        )
        shares = torch.cat([memory.shares for memory in memories])
        nearest = similar.topk(min(_NEAREST, similar.shape[1]), 1)
        weights = (nearest.values / _TEMPERATURE).softmax(1)
        chances = self._places.new_zeros(self._side * self._side)
        chances[window] = (weights * shares[nearest.indices]).sum(1)
        return chances.view(self._side, self._side)

    def _similarity(self, cells: Tensor, places: Tensor, memory: _Memory) -> Tensor:
        """(m, n) similarity of cells with remembered ones; by looks alone while it is lost."""
        similar = cells @ memory.cells.T
        if self._is_lost:
            return similar
        return similar - _PLACE * torch.cdist(places, memory.places) ** 2

    def _agreement(self, image: int, shares: Tensor) -> float:
        """Share of cells that come back, of the found region and of the accepted one."""
        found = self._remember(image, shares)
        here = found.shares > _half(found.shares)
        best = 0.0
        for memory in self._accepted:
            there = memory.shares > _half(memory.shares)
            similar = self._similarity(found.cells, found.places, memory)
            back = there[similar[here].argmax(1)].float().mean()
            forth = here[similar[:, there].argmax(0)].float().mean()
            best = max(best, float(2 * back * forth / (back + forth).clamp(min=1e-6)))
        return best

    def _remember(self, image: int, shares: Tensor) -> _Memory:
        window = self._window(shares)
        places = self._places[window] - self._middle(shares)
        return _Memory(self._cells[image][window], shares.flatten()[window], places)

    def _window(self, shares: Tensor) -> Tensor:
        """Numbers of the cells in the region and around it."""
        rows, columns = (shares > _half(shares)).nonzero(as_tuple=True)
        longer = int(max(rows.max() - rows.min(), columns.max() - columns.min())) + 1
        margin = max(_LEAST_MARGIN, round(_MARGIN * longer))
        window = torch.zeros_like(shares, dtype=torch.bool)
        window[
            max(0, int(rows.min()) - margin) : int(rows.max()) + margin + 1,
            max(0, int(columns.min()) - margin) : int(columns.max()) + margin + 1,
        ] = True
        return window.flatten().nonzero()[:, 0]

    def _middle(self, shares: Tensor) -> Tensor:
        """(2,) middle of the region, from -1 to 1."""
        weights = shares.flatten()[:, None]
        middle: Tensor = (weights * self._places).sum(0) / weights.sum().clamp(min=1e-6)
        return middle

    def _shares(self, mask: BoolMask) -> Tensor:
        """(S, S) share of each cell inside a mask."""
        if self._is_photo:
            shares = whole_shares(mask, self._side)
        else:
            shares = mask_shares(mask, self._model.config.image_size, self._side)
        return shares.to(self._cells.device).float()

    def _draw(self, image: int, chances: Tensor) -> BoolMask:
        """(H, W) mask of chances, sharpened on the pixels."""
        picture = self._images[image]
        if not self._is_photo:
            logits = (chances - 0.5) * 20
            sizes = sizes_of(self._images)
            return draw_outlines(
                self._model, self._features, sizes, [image], [logits], self._images
            )[0]
        height, width = picture.shape[:2]
        level = cv2.resize(chances.cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
        rough: BoolMask = np.asarray(level) > 0.5
        refiner = self._model.photo_refiner
        if refiner is None or not rough.any():
            return rough
        shown = picture_of(self._model, self._features, image, picture)
        return refine_masks(refiner, [shown], [rough], [None])[0]


def _half(shares: Tensor) -> Tensor:
    """Share from which a cell counts as inside: half a cell, less for a region of thin lines."""
    return shares.max().clamp(max=1.0) * 0.5 - 1e-6


def _cells(features: ImageFeatures, side: int) -> Tensor:
    """(M, N, D) unit vectors of the mask decoder's maps, each map with the same weight."""
    maps = (features.mask.embedding, *features.mask.fine)
    return _joined([level.float() for level in maps], side)


def _photo_cells(features: ImageFeatures) -> Tensor:
    """(M, N, D) unit vectors of the photo trunk's maps."""
    return _joined([features.photo[level].float() for level in _PHOTO_LEVELS], _PHOTO_SIDE)


def _joined(maps: Sequence[Tensor], side: int) -> Tensor:
    levels = []
    for level in maps:
        size = level.shape[-1]
        if size != side:
            how = {"mode": "area"} if size > side else {"mode": "bilinear", "align_corners": False}
            level = functional.interpolate(level, size=(side, side), **how)
        vectors = level.flatten(2).transpose(1, 2)
        mean, deviation = vectors.mean((0, 1)), vectors.std((0, 1)) + 1e-3
        levels.append(functional.normalize((vectors - mean) / deviation, dim=2))
    return functional.normalize(torch.cat(levels, 2), dim=2)


def _check(accepted: Mapping[int, BoolMask], images: Sequence[RgbImage]) -> None:
    if not accepted:
        raise InvalidMaskError("accepted: expected at least one mask, got none")
    for image, mask in accepted.items():
        if not 0 <= image < len(images):
            raise InvalidMaskError(f"accepted: expected 0 to {len(images) - 1}, got {image}")
        if mask.shape != images[image].shape[:2]:
            raise InvalidMaskError(
                f"accepted[{image}]: expected {images[image].shape[:2]}, got {mask.shape}"
            )
        if not mask.any():
            raise InvalidMaskError(f"accepted[{image}]: expected a region, got an empty mask")
