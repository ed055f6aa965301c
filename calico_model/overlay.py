"""Draws predicted regions onto their images, for a person to look at.

The same thing has the same colour in every image of its group. The contour shows its kind: thick
for a common object, thin for a common part, dashed for a unique part. Names are in boxes that avoid
each other. Small images are enlarged first, so that names are readable. Knows arrays and text, no
files.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from calico_model.types import (
    BoolMask,
    GroupPrediction,
    ImageGroup,
    PartMask,
    RegionKind,
    RgbImage,
)

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""

MIN_SIDE = 640
KIND_LEGEND = "thick line: common object   thin line: common part   dashed line: unique part"

# Hues far apart, visible on dark and bright images; further hues follow the golden ratio.
PALETTE: tuple[Colour, ...] = (
    (230, 60, 60),
    (50, 140, 240),
    (60, 190, 80),
    (250, 190, 30),
    (170, 90, 220),
    (255, 130, 40),
    (30, 200, 200),
    (240, 90, 180),
    (150, 200, 40),
    (140, 100, 60),
    (120, 150, 255),
    (0, 140, 110),
)
_FILL = {
    RegionKind.COMMON_OBJECT: 0.10,
    RegionKind.COMMON_PART: 0.45,
    RegionKind.UNIQUE_PART: 0.45,
}
_MOST_CHARACTERS = 300  # of a name; no image shows more in one line
_MOST_NAMES = 100  # in one image; more names would hide each other
_ELLIPSIS = "..."
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def draw_overlay(
    group: ImageGroup,
    prediction: GroupPrediction | Sequence[PartMask],
    *,
    min_side: int = MIN_SIDE,
) -> tuple[RgbImage, ...]:
    """Draws masks, contours and names over every image of a group.

    Args:
        group: the images.
        prediction: a prediction, or any regions (for example the truth of a group).
        min_side: an image whose longer side is shorter is enlarged by a whole factor to reach it.

    Returns:
        One (H', W', 3) uint8 picture per image; not in the frame of the masks.
    """
    parts = prediction.parts if isinstance(prediction, GroupPrediction) else tuple(prediction)
    colours = colours_of(parts)
    drawn = []
    for index, image in enumerate(group.images):
        here = [
            (part, colours[thing_key(part)])
            for part in parts
            if part.image_index == index and part.mask.shape == image.shape[:2]
        ]
        drawn.append(_draw_image(image, here, min_side))
    return tuple(drawn)


def colours_of(parts: Sequence[PartMask]) -> dict[str, Colour]:
    """Returns `thing_key` -> colour for the things of a group, in order of first appearance."""
    keys = dict.fromkeys(thing_key(part) for part in parts)
    return {key: _colour(number) for number, key in enumerate(keys)}


def thing_key(part: PartMask) -> str:
    """Returns the key of a region's thing in its group: the part_id, else kind and name."""
    return part.part_id if part.part_id is not None else f"{part.kind}|{part.label}"


def contact_sheet(
    rows: Sequence[Sequence[RgbImage]],
    *,
    titles: Sequence[str] = (),
    height: int = 480,
    footer: str = KIND_LEGEND,
) -> RgbImage:
    """Lays pictures out in rows of one height, each row under its title.

    Args:
        rows: pictures (H, W, 3) of any sizes.
        titles: one per row, or ().
        height: of every picture, in pixels.
        footer: line under all rows; empty for no line.

    Returns:
        (H', W', 3) uint8 on white.
    """
    gap = 12
    strips = [[_resize(picture, height / picture.shape[0]) for picture in row] for row in rows]
    line = height // 16 + gap if titles else 0
    foot = 34 if footer else 0
    width = max((sum(p.shape[1] + gap for p in strip) + gap for strip in strips), default=64)
    sheet = Image.new("RGB", (width, len(rows) * (height + gap + line) + gap + foot), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = gap
    for number, strip in enumerate(strips):
        if titles:
            title, font = _shorten(titles[number], _font(height // 20), width - 2 * gap)
            pen.text((gap, top), title, fill=_INK, font=font)
            top += line
        left = gap
        for picture in strip:
            sheet.paste(Image.fromarray(picture), (left, top))
            left += picture.shape[1] + gap
        top += height + gap
    if footer:
        text, font = _shorten(footer, _font(16), width - 2 * gap)
        pen.text((gap, top), text, fill=_INK, font=font)
    return np.array(sheet)


def _draw_image(
    image: RgbImage, regions: Sequence[tuple[PartMask, Colour]], min_side: int
) -> RgbImage:
    """Draws fills, then contours over them, then names."""
    factor = max(1, -(-min_side // max(image.shape[:2])))
    canvas = _resize(image, factor)
    scale = max(1.0, min(canvas.shape[:2]) / 400)
    # Large regions first, so that a part is never hidden under its object.
    ordered = sorted(regions, key=lambda item: -int(item[0].mask.sum()))
    masks = [_enlarge(part.mask, factor) for part, _ in ordered]
    for mask, (part, colour) in zip(masks, ordered, strict=True):
        alpha = _FILL[part.kind]
        canvas[mask] = (canvas[mask] * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
    for mask, (part, colour) in zip(masks, ordered, strict=True):
        _draw_contour(canvas, mask, part.kind, colour, scale)
    picture = Image.fromarray(canvas)
    _write_names(picture, [(m, *item) for m, item in zip(masks, ordered, strict=True)])
    return np.array(picture)


def _draw_contour(
    canvas: RgbImage, mask: BoolMask, kind: RegionKind, colour: Colour, scale: float
) -> None:
    """Draws a coloured line with a dark edge, which is visible on any image."""
    wide = 3.0 if kind is RegionKind.COMMON_OBJECT else 1.6
    thickness = max(1, round(wide * scale))
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    lines = [outline for outline in outlines if len(outline) > 1]
    closed = kind is not RegionKind.UNIQUE_PART
    if not closed:
        dash = max(8, round(12 * scale))
        lines = [
            line[start : start + round(dash * 0.6)]
            for line in lines
            for start in range(0, len(line), dash)
        ]
    cv2.polylines(canvas, lines, closed, _INK, thickness + 2, cv2.LINE_AA)
    cv2.polylines(canvas, lines, closed, colour, thickness, cv2.LINE_AA)


def _write_names(
    picture: Image.Image, regions: Sequence[tuple[BoolMask, PartMask, Colour]]
) -> None:
    """Writes part names at the centre of their region, or beside it with a line to it.

    Object names are at the top of the object, away from the names of parts. If there are too many
    regions, the largest are named.
    """
    pen = ImageDraw.Draw(picture)
    size = max(11, round(min(picture.size) / 27))
    taken: list[Rect] = []
    # Small regions are named first: a large region has more free space.
    for mask, part, colour in reversed(regions[:_MOST_NAMES]):
        anchor = _top(mask) if part.kind is RegionKind.COMMON_OBJECT else _deepest_pixel(mask)
        if anchor is None:
            continue
        text, font = _shorten(part.label, _font(size), picture.width - size)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        pad = size // 4
        box = _place(
            anchor,
            (round(right - left) + 2 * pad, round(bottom - top) + 2 * pad),
            picture.size,
            taken,
        )
        taken.append(box)
        if not (box[0] <= anchor[0] <= box[2] and box[1] <= anchor[1] <= box[3]):
            middle = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
            pen.line([middle, anchor], fill=colour, width=max(1, size // 10))
        pen.rounded_rectangle(box, radius=pad, fill=_INK, outline=colour, width=max(1, size // 10))
        pen.text((box[0] + pad - left, box[1] + pad - top), text, fill=_PAPER, font=font)


def _deepest_pixel(mask: BoolMask) -> tuple[int, int] | None:
    """(x, y) of the pixel farthest from the edge of a region; None if the region is empty."""
    if not mask.any():
        return None
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x) - 1, int(y) - 1


def _top(mask: BoolMask) -> tuple[int, int] | None:
    """(x, y) of the middle of a region's first row; None if the region is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0]])
    return int(columns[len(columns) // 2]), int(rows[0])


def _place(
    anchor: tuple[int, int], size_wh: tuple[int, int], frame_wh: tuple[int, int], taken: list[Rect]
) -> Rect:
    """The box nearest to `anchor` that hides no taken box, or else the box that hides least."""
    width, height = size_wh
    offsets = np.rint(_spiral() * height).astype(np.int64)  # (S, 2)
    corners = offsets + (anchor[0] - width // 2, anchor[1] - height // 2)
    last = np.maximum(np.array(frame_wh) - (width + 1, height + 1), 0)
    corners = np.clip(corners, 0, last)
    boxes = np.concatenate((corners, corners + (width, height)), axis=1)  # (S, 4)
    left, top = corners[int(_hidden_areas(boxes, taken).argmin())].tolist()
    return left, top, left + width, top + height


@lru_cache(maxsize=1)
def _spiral() -> NDArray[np.float64]:
    """(S, 2) offsets in box heights, near ones first."""
    rings = [(0.0, 0.0)]
    for ring in range(1, 9):
        steps = 6 * ring
        angles = [2 * np.pi * step / steps + 0.5 * np.pi for step in range(steps)]
        rings += [(1.2 * ring * float(np.cos(a)), 1.2 * ring * float(np.sin(a))) for a in angles]
    return np.array(rings)


def _hidden_areas(boxes: NDArray[np.int64], taken: Sequence[Rect]) -> NDArray[np.int64]:
    """(S,) pixels of taken boxes that each of (S, 4) boxes would hide."""
    others = np.array(taken, dtype=np.int64).reshape(1, -1, 4)
    first = np.maximum(boxes[:, None, :2], others[..., :2])
    last = np.minimum(boxes[:, None, 2:], others[..., 2:])
    areas: NDArray[np.int64] = np.maximum(last - first + 1, 0).prod(axis=2).sum(axis=1)
    return areas


def _colour(number: int) -> Colour:
    if number < len(PALETTE):
        return PALETTE[number]
    red, green, blue = colorsys.hsv_to_rgb((number * 0.618034) % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _resize(image: RgbImage, factor: float) -> RgbImage:
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return np.array(image)
    how = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize((width, height), how))


def _enlarge(mask: BoolMask, factor: int) -> BoolMask:
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(8, size))


def _shorten(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Cuts a text to one line of a width in pixels, with an ellipsis; at least one character."""
    # A name may be as long as a request: measure only the characters that can be shown.
    line = " ".join(text[:_MOST_CHARACTERS].split())
    if len(text) <= _MOST_CHARACTERS and font.getlength(line) <= width:
        return line, font
    kept, cut = 0, len(line)
    while kept < cut:
        middle = (kept + cut + 1) // 2
        if font.getlength(line[:middle].rstrip(".") + _ELLIPSIS) <= width:
            kept = middle
        else:
            cut = middle - 1
    return (line[:kept].rstrip(".") + _ELLIPSIS if kept else line[:1]), font
