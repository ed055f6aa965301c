"""From original pixels to the network's frames, and back from mask logits to masks.

Prepares the inputs of the three encoders and of the photo trunk, and brings mask logits to a bool
mask in the original frame. Knows arrays and tensors; does not read files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from calico_model.config import CalicoConfig
from calico_model.masks import window_of
from calico_model.modeling.features import Pixels
from calico_model.types import BoolMask, RgbImage

SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # 0-255 RGB
_OUTSIDE = -20.0
_LONGEST_PHOTO = 4  # sides of the photo trunk's frame
_CLIP_MEAN, _CLIP_STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)


def to_pixels(images: Sequence[RgbImage], config: CalicoConfig) -> Pixels:
    """Prepares the inputs of all encoders for M images.

    Args:
        images: (H_i, W_i, 3) uint8 RGB, sizes may differ.
        config: of the model, with the size of each frame.

    Returns:
        Float tensors; see `Pixels`.
    """
    square = torch.stack([_square(image, config.image_size) for image in images])
    photo: tuple[Tensor, ...] = ()
    if config.photo_trunk is not None:
        photo = tuple(to_photo(image, config.photo_trunk.side) for image in images)
    if config.trunk is not None:
        return Pixels(square.contiguous(memory_format=torch.channels_last), photo=photo)
    eva = [_resized(image, config.eva.input_size, _CLIP_MEAN, _CLIP_STD) for image in images]
    dino = [_resized(image, config.dino.input_size, SAM_MEAN, SAM_STD) for image in images]
    return Pixels(square, torch.stack(eva), torch.stack(dino), photo)


def scaled_size_hw(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns a size with the longest side scaled to `side`, rounded as in SAM, at least 1."""
    scale = side / max(size_hw)
    height, width = (max(1, int(s * scale + 0.5)) for s in size_hw)
    return height, width


def to_mask(logits: Tensor, size_hw: tuple[int, int], side: int) -> BoolMask:
    """Returns the (H, W) bool mask of logits, True above zero; see `to_image` for the arguments."""
    return to_image(logits, size_hw, side) > 0


def to_image(logits: Tensor, size_hw: tuple[int, int], side: int) -> NDArray[np.float32]:
    """Brings one mask's logits back to its image.

    Args:
        logits: (L, L) in the padded square frame of `side` pixels.
        size_hw: original height and width.
        side: the network's square side.

    Returns:
        (H, W) interpolated logits.
    """
    height, width = scaled_size_hw(size_hw, side)
    square = functional.interpolate(
        logits[None, None].float(), size=(side, side), mode="bilinear", align_corners=False
    )
    image = functional.interpolate(
        square[..., :height, :width], size=size_hw, mode="bilinear", align_corners=False
    )
    values: NDArray[np.float32] = image[0, 0].cpu().numpy()
    return values


def mask_shares(mask: BoolMask, side: int, logit_side: int) -> Tensor:
    """Brings a mask into the decoder's frame.

    Args:
        mask: (H, W) in its image's frame.
        side: the network's square side S.
        logit_side: L.

    Returns:
        (L, L) float share of each cell that belongs to the mask; padding is 0.
    """
    shares = torch.zeros(logit_side, logit_side)
    window = window_of(mask)
    if window is None:
        return shares
    height, width = mask.shape
    shown_h, shown_w = scaled_size_hw((height, width), side)
    rows, columns = window
    down = _area_weights(height, shown_h, side, logit_side)[:, rows]
    across = _area_weights(width, shown_w, side, logit_side)[:, columns]
    inside = torch.from_numpy(mask[window].astype(np.float32))
    return (down @ inside @ across.T).clamp_(0.0, 1.0)


@lru_cache(maxsize=16)  # both sides of the images of a group
def _area_weights(size: int, shown: int, side: int, logit_side: int) -> Tensor:
    """(L, size) share of each cell of the padded frame that each pixel of the image covers."""
    cell = side / logit_side * size / shown  # pixels of the image
    low = torch.arange(logit_side, dtype=torch.float64)[:, None] * cell
    pixel = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(low + cell, pixel + 1) - torch.maximum(low, pixel)
    return (overlap.clamp(min=0.0) / cell).float()


def normalise(image: NDArray[Any]) -> Tensor:
    """Returns (..., 3) RGB in 0-255 as SAM's normalised floats, same shape."""
    values = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (values - torch.tensor(SAM_MEAN)) / torch.tensor(SAM_STD)


def to_photo(image: RgbImage, side: int) -> Tensor:
    """Prepares one image for the photo trunk.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: P, side of the photo trunk's frame in pixels.

    Returns:
        (3, h, w) float32 in 0-255 of about P * P pixels. h and w are multiples of 32, nearest to
        the image's aspect ratio, and at most 4 P.
    """
    scale = side / math.sqrt(image.shape[0] * image.shape[1])
    most = _LONGEST_PHOTO * side // 32
    height, width = (min(most, max(1, round(scale * size / 32))) * 32 for size in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=how)
    return torch.from_numpy(np.asarray(scaled, dtype=np.float32)).permute(2, 0, 1)


def whole_to_padded(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Brings logits that cover a whole image into the padded square frame.

    Args:
        logits: (L, L), the whole image stretched to a square.
        size_hw: height and width of the image in pixels.

    Returns:
        (2L, 2L) logits, far below zero in the padding.
    """
    side = 2 * logits.shape[-1]
    height, width = scaled_size_hw(size_hw, side)
    padded = logits.new_full((side, side), _OUTSIDE)
    padded[:height, :width] = functional.interpolate(
        logits[None, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]
    return padded


def whole_shares(mask: BoolMask, cells: int) -> Tensor:
    """Returns the (cells, cells) float share of each cell of a whole image inside its mask."""
    shares = cv2.resize(mask.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.asarray(shares, dtype=np.float32))


def _square(image: RgbImage, side: int) -> Tensor:
    height, width = scaled_size_hw((image.shape[0], image.shape[1]), side)
    shrinking = max(image.shape[:2]) > side
    scaled = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
    padded = torch.zeros(3, side, side)
    padded[:, :height, :width] = normalise(scaled).permute(2, 0, 1)
    return padded


def _resized(image: RgbImage, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    # Pillow's bicubic filter widens when it shrinks, as in the encoders' own preprocessing.
    scaled = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    values = (
        torch.from_numpy(np.asarray(scaled, dtype=np.float32)) - torch.tensor(mean)
    ) / torch.tensor(std)
    return values.permute(2, 0, 1)
