"""One result -> what it outlines: a bitmap (brush, bitmask) or a line around something.

Knows in which fields of a result each tool of the editor keeps its shape. Masks stay encoded until
they are looked at. Does not know labels or regions.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import msgspec
import numpy as np
from PIL import Image

from backend.errors import InvalidRleError
from backend.label_studio import brush
from backend.label_studio.outline import (
    Box,
    Ring,
    box_ring,
    ellipse_ring,
    fill,
    places,
    polygon_ring,
    vector_ring,
)
from backend.label_studio.wire import WireResult, WireValue
from backend.rle import Runs
from calico_model.types import BoolMask

BITMAPS = frozenset({"brush", "bitmask", "magicwand"})
OUTLINES = frozenset({"rectangle", "ellipse", "polygon", "vector"})
# What these results say belongs to a region, or to the whole task; nothing is drawn with them.
ATTRIBUTES = frozenset(
    {
        "labels", "choices", "taxonomy", "textarea", "number", "rating", "datetime", "pairwise",
        "ranker", "relation",
    }
)  # fmt: skip
_PNG_PREFIX = "data:image/png;base64,"


@dataclass(frozen=True)
class Shape:
    """What a result outlines.

    Attributes:
        encoding: the shape as it came; equal bytes are equal masks.
        load_mask: makes the (H, W) mask; raises InvalidRleError.
        load_runs: finds the runs without the mask, or None.
        is_outline: a line around something, not a bitmap.
    """

    encoding: bytes
    load_mask: Callable[[], BoolMask]
    load_runs: Callable[[], Runs] | None = None
    is_outline: bool = False


def tool_of(result: WireResult) -> str:
    """Which tool a result was drawn with: "brush" for "brush" and "brushlabels"."""
    return result.type if result.type == "labels" else result.type.removesuffix("labels")


def size_of(result: WireResult) -> tuple[int, int] | None:
    """(height, width) in pixels, or None when not stated."""
    height, width = result.original_height, result.original_width
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return int(height), int(width)


def box_of(result: WireResult) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) in pixels around a rectangle or a point; the wire has percent."""
    size, value = size_of(result), result.value
    if size is None or value is None:
        return None
    is_box = tool_of(result) == "rectangle"  # a keypoint's width is how large it is drawn
    width, height = (value.width or 0.0, value.height or 0.0) if is_box else (0.0, 0.0)
    box = places(value.x, value.y, width, height, value.rotation or 0.0)
    if box is None:
        return None
    ring = box_ring(Box(*box), size)
    (x0, y0), (x1, y1) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    return x0, y0, x1, y1


def shape_of(value: WireValue | None, tool: str, size_hw: tuple[int, int] | None) -> Shape | None:
    """Returns what a value outlines if it was drawn with a tool; None if that is nothing.

    Args:
        value: of a result.
        tool: one of BITMAPS or OUTLINES; any other outlines nothing.
        size_hw: (height, width) in pixels of the image.
    """
    if value is None or size_hw is None:
        return None
    if tool in BITMAPS:
        return _bitmap(value, size_hw)
    ring_of = _ring_of(value, tool, size_hw)
    if ring_of is None:
        return None
    return Shape(place_of(value), lambda: fill(ring_of(), size_hw), load_runs=None, is_outline=True)


def guess_tool(value: WireValue) -> str:
    """The tool a value looks drawn with, as the editor guesses; "" for none."""
    if _has_bitmap(value):
        return "brush"
    if bytes(value.points):
        return "polygon"
    if bytes(value.vertices):
        return "vector"
    if value.radiusX is not None:
        return "ellipse"
    box = places(value.x, value.y, value.width, value.height)
    return "" if box is None else "rectangle"


def place_of(value: WireValue) -> bytes:
    """The shape as it came, without the spaces that depend on who wrote it; b"" for none."""
    if value.imageDataURL is not None:
        return value.imageDataURL.encode()
    if _has_bitmap(value):
        return bytes(value.rle).translate(None, b" \t\r\n")
    lines = bytes(value.points) + bytes(value.vertices)
    numbers = (value.x, value.y, value.width, value.height, value.radiusX, value.radiusY)
    if not lines and all(number is None for number in numbers):
        return b""
    return lines.translate(None, b" \t\r\n") + repr((*numbers, value.rotation)).encode()


def _bitmap(value: WireValue, size_hw: tuple[int, int]) -> Shape | None:
    if not _has_bitmap(value):
        return None
    encoding = place_of(value)
    if value.imageDataURL is not None:
        return Shape(encoding, partial(_load_bitmask, value.imageDataURL, size_hw))
    return Shape(
        encoding,
        lambda: brush.decode_mask(_bytes_of(encoding), size_hw=size_hw),
        load_runs=partial(_known_runs, encoding, size_hw),
    )


def _has_bitmap(value: WireValue) -> bool:
    return bytes(value.rle) not in (b"", b"null") or value.imageDataURL is not None


def _ring_of(value: WireValue, tool: str, size_hw: tuple[int, int]) -> Callable[[], Ring] | None:
    """What finds the line around a shape; None for a line that is open, or not all there."""
    rotation = value.rotation or 0.0
    if tool == "rectangle":
        box = places(value.x, value.y, value.width, value.height, rotation)
        return None if box is None else partial(box_ring, Box(*box), size_hw)
    if tool == "ellipse":
        found = places(value.x, value.y, value.radiusX, value.radiusY)
        return (
            None
            if found is None
            else partial(ellipse_ring, found[:2], found[2:], rotation, size_hw)
        )
    # A polygon is closed unless it says otherwise, a vector only if it says so.
    if tool == "polygon" and bytes(value.points) and value.closed is not False:
        return partial(polygon_ring, bytes(value.points), size_hw)
    if tool == "vector" and bytes(value.vertices) and value.closed:
        return partial(vector_ring, bytes(value.vertices), size_hw)
    return None


@lru_cache(maxsize=1024)
def _known_runs(encoding: bytes, size_hw: tuple[int, int]) -> Runs:
    """Every click repeats all regions of its task: their runs are read once."""
    runs = brush.decode_runs(_bytes_of(encoding), size_hw=size_hw)
    runs.setflags(write=False)
    return runs


def _bytes_of(rle: bytes) -> list[int]:
    try:
        return msgspec.json.decode(rle, type=list[int])
    except msgspec.MsgspecError as error:
        raise InvalidRleError("rle: expected a list of integers 0 to 255") from error


def _load_bitmask(url: str, size_hw: tuple[int, int]) -> BoolMask:
    """Mask in the alpha of a PNG data URL."""
    if size_hw[0] * size_hw[1] > brush.MAX_PIXELS:
        raise InvalidRleError(f"expected at most {brush.MAX_PIXELS} pixels, got {size_hw}")
    if not url.startswith(_PNG_PREFIX):
        raise InvalidRleError(f"imageDataURL: expected {_PNG_PREFIX}..., got {url[:40]!r}")
    try:
        data = base64.b64decode(url[len(_PNG_PREFIX) :], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (size_hw[1], size_hw[0]) or not image.has_transparency_data:
                raise InvalidRleError(
                    f"imageDataURL: expected {size_hw[1]} x {size_hw[0]} with alpha, "
                    f"got {image.size[0]} x {image.size[1]} {image.mode}"
                )
            alpha = np.asarray(image.convert("RGBA"))[:, :, 3]  # (H, W)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRleError("imageDataURL: expected a PNG that can be decoded") from error
    mask: BoolMask = alpha >= brush.ALPHA_THRESHOLD
    return mask
