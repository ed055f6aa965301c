"""How a scene looks: colours, outlines, light, texture and finish of each rendering style.

A style never moves geometry, so the maps of a scene stay exact under every style.
Legend: S is the image side in pixels; images are (S, S, 3) RGB.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from calico_model.types import RgbImage

Field = NDArray[np.float32]
Range = tuple[float, float]
Finish = Callable[[np.random.Generator, RgbImage, NDArray[np.uint8]], RgbImage]

TEXTURE_KINDS = 5
"""0 is plain; 1 stripes, 2 checks, 3 dots, 4 cloud."""


@dataclass(frozen=True)
class Style:
    """Parameters of one rendering style; lengths are fractions of the image side.

    Attributes:
        name: as written in records.
        saturation: range of part colours, in [0, 1].
        value: range of part brightness, in [0, 1].
        ground_value: range of background brightness, in [0, 1].
        outline: range of line width round every piece, 0 for none.
        ink: brightness of that line, 0 black to 1 white.
        texture: amplitude of surface patterns, relative to brightness.
        light: amplitude of the light falling off across the image.
        bevel: darkening towards the borders of a piece.
        shadow: darkness of the cast shadow, 0 for none.
        grain: standard deviation of pixel noise in grey levels.
        finish: last step over the whole picture, or None.
    """

    name: str
    saturation: Range
    value: Range
    ground_value: Range
    ground_saturation: Range = (0.05, 0.5)
    outline: Range = (0.0, 0.0)
    ink: float = 0.0
    texture: float = 0.0
    light: float = 0.0
    bevel: float = 0.0
    shadow: float = 0.0
    grain: float = 0.0
    finish: Finish | None = None

    def colour(self, hue: float, saturation: float, value: float) -> tuple[int, int, int]:
        """Returns the RGB colour of a hue and two positions in [0, 1] within the style's ranges."""
        return _rgb(hue, _within(self.saturation, saturation), _within(self.value, value))

    def ground_colour(self, hue: float, saturation: float, value: float) -> tuple[int, int, int]:
        """Returns the RGB background colour, from positions in [0, 1] within the ranges."""
        return _rgb(
            hue, _within(self.ground_saturation, saturation), _within(self.ground_value, value)
        )


def shade(
    rng: np.random.Generator,
    style: Style,
    canvas: RgbImage,
    piece_map: NDArray[np.uint8],
    solid: NDArray[np.uint8],
    texture_kinds: NDArray[np.uint8],
) -> RgbImage:
    """Lights, textures and finishes a painted canvas.

    Args:
        canvas: (S, S, 3) flat colours of all pieces.
        piece_map: (S, S) number of the visible piece, 0 for background.
        solid: (S, S) 255 where anything stands in front of the background.
        texture_kinds: (256,) texture of each piece number, below `TEXTURE_KINDS`.

    Returns:
        (S, S, 3) uint8.
    """
    size = canvas.shape[0]
    gain = np.ones((size, size), np.float32)
    if style.light:
        gain += style.light * _slope(rng, size)
    if style.texture:
        gain += style.texture * _pick_texture(rng, texture_kinds[piece_map], size)
    if style.bevel:
        edges = cv2.morphologyEx(piece_map, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        _, edges = cv2.threshold(edges, 0, 255, cv2.THRESH_BINARY)
        soft = cv2.GaussianBlur(edges, (0, 0), size * 0.016)
        gain -= soft.astype(np.float32) * (style.bevel / 110.0)
    if style.shadow:
        gain *= _cast_shadow(rng, solid, style.shadow)
    lit = canvas.astype(np.float32) * np.maximum(gain, 0.05)[..., None]
    if style.grain:
        lit += rng.standard_normal((size, size, 1), np.float32) * style.grain
    image = _to_bytes(lit)
    return image if style.finish is None else style.finish(rng, image, piece_map)


def cloud(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Returns a smooth (S, S) random field in [0, 1] with about `cells` bumps per side."""
    coarse = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _within(limits: Range, position: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * position


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _slope(rng: np.random.Generator, size: int) -> Field:
    """Returns a linear ramp in [-1, 1] across the image in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    ramp: Field = np.float32(np.cos(turn)) * axis + np.float32(np.sin(turn)) * axis[:, None]
    return ramp * np.float32(0.75)


def _pick_texture(rng: np.random.Generator, kinds: NDArray[np.uint8], size: int) -> Field:
    """Returns a pattern in [-1, 1], its kind chosen per pixel."""
    axis = np.arange(size, dtype=np.float32)
    turn, waves = rng.uniform(0, np.pi), rng.uniform(12, 30)
    phase = (np.cos(turn) * axis + np.sin(turn) * axis[:, None]) * (2 * np.pi * waves / size)
    stripes = np.sin(phase.astype(np.float32))
    pitch = np.float32(np.pi * rng.uniform(14, 26) / size)
    across = np.sin(axis * pitch)
    lattice = across * across[:, None]
    patterns = (stripes, np.sign(lattice), np.where(np.abs(lattice) > 0.55, 1, -0.3))
    field = 2 * cloud(rng, size, size // 6) - 1
    for kind, pattern in enumerate(patterns, start=1):
        np.copyto(field, pattern, where=kinds == kind)
    field[kinds == 0] *= 0.25
    return field


def _cast_shadow(rng: np.random.Generator, solid: NDArray[np.uint8], depth: float) -> Field:
    """Returns the brightness factor left by the shadow the solid pixels throw on the ground."""
    size = solid.shape[0]
    dx, dy = rng.uniform(-0.06, 0.06) * size, rng.uniform(0.02, 0.07) * size
    moved = cv2.warpAffine(solid, np.array([[1, 0, dx], [0, 1, dy]], np.float32), (size, size))
    soft = cv2.GaussianBlur(moved, (0, 0), size * 0.02)
    soft[solid > 0] = 0
    factor: Field = 1 - soft.astype(np.float32) * (depth / 255)
    return factor


def _photo(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Adds a colour cast, a vignette and slight defocus."""
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    vignette = 1 - rng.uniform(0.1, 0.35) * (axis + axis[:, None]) / 2
    cast = rng.uniform(0.85, 1.1, 3).astype(np.float32)
    graded = _to_bytes(image * vignette[..., None] * cast)
    return _to_bytes(cv2.GaussianBlur(graded, (0, 0), size * rng.uniform(0.001, 0.0035)))


def _pencil(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Turns brightness into hatching on paper."""
    size = image.shape[0]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    axis = np.arange(size, dtype=np.float32)
    pitch = 2 * np.pi * rng.uniform(40, 60) / size
    slant = rng.uniform(0.5, 1.5) * rng.choice([-1, 1])
    hatch = np.sin((axis + slant * axis[:, None]) * np.float32(pitch))
    drawn = grey + hatch * (255 - grey) * 0.28 + 8 * rng.standard_normal((size, size), np.float32)
    paper = np.array([1.0, rng.uniform(0.95, 1), rng.uniform(0.86, 1)], np.float32)
    return _to_bytes(drawn[..., None] * paper)


def _watercolour(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Lets colours bleed and pool on rough paper."""
    size = image.shape[0]
    wet = cv2.GaussianBlur(image, (0, 0), size * 0.02)
    mixed = cv2.addWeighted(cv2.medianBlur(image, 5), 0.72, wet, 0.28, 0)
    wash = 0.75 + 0.4 * cloud(rng, size, 9) + 0.12 * cloud(rng, size, size // 3)
    pale = 255 - (255 - mixed.astype(np.float32)) * wash[..., None] * rng.uniform(0.75, 0.95)
    return _to_bytes(pale)


def _night(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Darkens all but a pool of light and tints towards blue."""
    size = image.shape[0]
    axis = np.linspace(0, 1, size, dtype=np.float32)
    cx, cy = rng.uniform(0.3, 0.7, 2).astype(np.float32)
    glow = np.exp(-((axis - cx) ** 2 + ((axis - cy) ** 2)[:, None]) * rng.uniform(4, 9))
    tint = np.array([rng.uniform(0.6, 0.85), 0.8, 1.0], np.float32)
    dim = image * (rng.uniform(0.35, 0.5) + 0.4 * glow)[..., None] * tint
    dim += 4 * rng.standard_normal((size, size, 3), np.float32) + 6
    return _to_bytes(dim)


def _pixels(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Shows the picture as coarse square pixels of few colours."""
    size = image.shape[0]
    small = max(size // int(rng.integers(3, 5)), 16)
    coarse = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    coarse = (coarse // 32) * 32 + 16
    return _to_bytes(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_NEAREST))


def _poster(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Prints the picture in few tones through a dot screen."""
    size = image.shape[0]
    axis = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi * rng.uniform(38, 55) / size)
    screen = np.sin(axis) * np.sin(axis)[:, None] * 26
    toned = np.clip(image + screen[..., None], 0, 255)
    return _to_bytes(np.floor(toned / 64) * 64 + 32)


def _blueprint(rng: np.random.Generator, image: RgbImage, _: NDArray[np.uint8]) -> RgbImage:
    """Lays a drafting grid over pale blue paper."""
    size = image.shape[0]
    step = max(size // int(rng.integers(12, 20)), 6)
    sheet = image.astype(np.float32) * np.array([0.72, 0.86, 1.0], np.float32)
    sheet[::step] *= 0.85
    sheet[:, ::step] *= 0.85
    return _to_bytes(sheet)


def _to_bytes(array: npt.ArrayLike) -> RgbImage:
    """Returns the array cut to [0, 255] as uint8."""
    return np.asarray(np.clip(array, 0, 255), dtype=np.uint8)


TRAINED_STYLES: tuple[Style, ...] = (
    Style("flat", (0.3, 0.9), (0.35, 1.0), (0.3, 0.95)),
    Style("gradient", (0.25, 0.85), (0.4, 1.0), (0.25, 0.9), light=0.35, bevel=0.3),
    Style("textured", (0.2, 0.85), (0.35, 0.95), (0.25, 0.85), texture=0.35, light=0.15, grain=4),
    Style("cartoon", (0.5, 1.0), (0.6, 1.0), (0.6, 1.0), outline=(0.006, 0.014), ink=0.05),
    Style(
        "pencil",
        (0.0, 0.1),
        (0.45, 1.0),
        (0.8, 1.0),
        outline=(0.004, 0.008),
        ink=0.15,
        finish=_pencil,
    ),
    Style("watercolour", (0.25, 0.75), (0.5, 0.95), (0.75, 1.0), bevel=0.25, finish=_watercolour),
    Style(
        "photo",
        (0.1, 0.7),
        (0.25, 0.95),
        (0.2, 0.8),
        texture=0.13,
        light=0.3,
        bevel=0.35,
        shadow=0.55,
        grain=5,
        finish=_photo,
    ),
    Style("night", (0.2, 0.8), (0.45, 1.0), (0.15, 0.5), texture=0.1, bevel=0.25, finish=_night),
    Style("pixel", (0.3, 1.0), (0.35, 1.0), (0.2, 0.9), light=0.15, finish=_pixels),
    Style("poster", (0.4, 1.0), (0.4, 1.0), (0.3, 1.0), light=0.15, bevel=0.15, finish=_poster),
)
"""Styles seen in training."""

HELD_OUT_STYLES: tuple[Style, ...] = (
    Style(
        "blueprint",
        (0.0, 0.18),
        (0.8, 1.0),
        (0.85, 1.0),
        (0.05, 0.2),
        outline=(0.012, 0.02),
        ink=0.25,
        finish=_blueprint,
    ),
)
"""Styles kept for evaluation."""

STYLES: tuple[Style, ...] = TRAINED_STYLES + HELD_OUT_STYLES
