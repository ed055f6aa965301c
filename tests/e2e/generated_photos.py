"""Pictures that look like photographs to the model, with true masks: carts in rough light.

Drawn by chance, so nobody's rights are touched: coloured noise of natural spectra, shaded shapes,
blur, grain and JPEG. The line between drawings and photographs takes them for photographs.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from calico_model.types import (
    BoolMask,
    ComparedObject,
    ImageGroup,
    LabeledGroup,
    PartMask,
    RegionKind,
    RgbImage,
)

_HEIGHT, _WIDTH = 360, 480
_ROUGH, _SMOOTH = 0.8, 1.7  # exponents of the noise: of the world, and of paint


def cart_groups(count: int, seed: int = 5) -> list[LabeledGroup]:
    """Pairs of photographs of a cart with a window and two wheels."""
    rng = np.random.default_rng(seed)
    return [_group(rng, number) for number in range(count)]


def _group(rng: np.random.Generator, number: int) -> LabeledGroup:
    images, parts, objects = [], [], []
    for index in range(2):
        image, masks = _cart(rng)
        images.append(image)
        for name, mask in masks.items():
            kind = RegionKind.COMMON_OBJECT if name == "cart" else RegionKind.COMMON_PART
            owner = None if name == "cart" else "cart"
            parts.append(PartMask(index, kind, name, mask, owner, f"{kind.value}:{name}"))
        objects.append(ComparedObject(index, "cart", masks["cart"]))
    parts.sort(key=lambda part: part.kind is not RegionKind.COMMON_OBJECT)
    group = ImageGroup(tuple(images), (f"cart-{number}-a", f"cart-{number}-b"))
    return LabeledGroup(group, tuple(parts), objects=tuple(objects))


def _cart(rng: np.random.Generator) -> tuple[RgbImage, dict[str, BoolMask]]:
    grey = 28 * _noise(rng, _ROUGH)
    image = np.stack([110 + grey + 14 * _noise(rng, _ROUGH) for _ in range(3)], -1)
    height = np.linspace(-0.4, 0.6, _HEIGHT)[:, None, None]
    image += height * np.array((30, 20, -20))  # sky above, ground below
    x, y = _WIDTH // 2 + int(rng.integers(-50, 50)), _HEIGHT // 2 + int(rng.integers(-25, 35))
    size = float(rng.uniform(0.8, 1.25))
    body = _ellipse(x, y, 130 * size, 55 * size)
    window = _ellipse(x - 20 * size, y - 22 * size, 52 * size, 20 * size)
    wheels = _ellipse(x - 75 * size, y + 48 * size, 28 * size, 28 * size)
    wheels |= _ellipse(x + 75 * size, y + 48 * size, 28 * size, 28 * size)
    light = np.clip(1 - (np.arange(_HEIGHT)[:, None] - y) / (0.6 * _HEIGHT), 0.5, 1.5)
    paint = (150.0, float(rng.integers(50, 130)), 40.0)
    for mask, colour in ((body, paint), (window, (60.0, 80.0, 95.0)), (wheels, (35.0, 35.0, 38.0))):
        shade = _noise(rng, _SMOOTH)
        for channel in range(3):
            seen = (colour[channel] + 16 * shade) * light
            image[..., channel][mask] = seen[mask]
    image = cv2.GaussianBlur(image, (0, 0), 1.0) + rng.normal(0, 4, image.shape)
    taken = np.clip(image, 0, 255).astype(np.uint8)
    _, packed = cv2.imencode(".jpg", taken, [cv2.IMWRITE_JPEG_QUALITY, 75])
    found: RgbImage = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return found, {"cart": body | wheels, "window": window, "wheel": wheels}


def _noise(rng: np.random.Generator, exponent: float) -> NDArray[np.float64]:
    """Noise whose amplitudes fall with frequency, as those of natural pictures do."""
    spectrum = np.fft.rfft2(rng.normal(size=(_HEIGHT, _WIDTH)))
    down, across = np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH)[None]
    frequency = np.sqrt(down**2 + across**2)
    frequency[0, 0] = 1.0
    values = np.fft.irfft2(spectrum / frequency**exponent, s=(_HEIGHT, _WIDTH))
    return (values - values.mean()) / values.std()


def _ellipse(x: float, y: float, across: float, down: float) -> BoolMask:
    mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    cv2.ellipse(mask, (int(x), int(y)), (int(across), int(down)), 0, 0, 360, 1, -1)
    return mask > 0
