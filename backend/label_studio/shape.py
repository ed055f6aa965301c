"""One result -> its shape: a bitmap (brush, bitmask) or an outline (rectangle, polygon, ...).

Each tool of the editor keeps its shape in other fields of the result. A mask stays encoded until it
is needed. Labels and regions are read in annotation.py.
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

from backend.decoding import read_json
from backend.errors import InvalidRleError
from backend.label_studio import brush
from backend.label_studio.outline import (
    Box,
    Ring,
    box_ring,
    coordinates,
    ellipse_ring,
    fill,
    polygon_ring,
    vector_ring,
)
from backend.label_studio.wire import WireResult, WireValue
from backend.rle import Runs
from calico_model.types import BoolMask

BITMAPS = frozenset({"brush", "bitmask", "magicwand"})
OUTLINES = frozenset({"rectangle", "ellipse", "polygon", "vector"})
# Results of these types belong to a region or to the whole task; they draw nothing.
ATTRIBUTES = frozenset(
    {
        "labels", "choices", "taxonomy", "textarea", "number", "rating", "datetime", "pairwise",
        "ranker", "relation",
    }
)  # fmt: skip
_PNG_PREFIX = "data:image/png;base64,"


@dataclass(frozen=True)
class RegionShape:
    """The shape of one result.

    Attributes:
        encoding: the shape as Label Studio sent it; equal bytes are equal masks.
        load_mask: decodes the (H, W) mask; raises InvalidRleError.
        load_runs: decodes the runs of the mask without building it; None for other shapes.
        is_outline: True for a line around the region, False for a bitmap.
    """

    encoding: bytes
    load_mask: Callable[[], BoolMask]
    load_runs: Callable[[], Runs] | None = None
    is_outline: bool = False


def tool_of(result: WireResult) -> str:
    """Returns the tool a result was drawn with: "brush" for "brush" and "brushlabels"."""
    return result.type if result.type == "labels" else result.type.removesuffix("labels")


def size_of(result: WireResult) -> tuple[int, int] | None:
    """Returns (height, width) of the image in pixels, or None if the result does not state it."""
    height, width = result.original_height, result.original_width
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return int(height), int(width)


def box_of(result: WireResult) -> tuple[float, float, float, float] | None:
    """Returns (x0, y0, x1, y1) in pixels around a rectangle or a point; the wire has percent."""
    size, value = size_of(result), result.value
    if size is None or value is None:
        return None
    is_box = tool_of(result) == "rectangle"  # a keypoint's width is how large it is drawn
    width, height = (value.width or 0.0, value.height or 0.0) if is_box else (0.0, 0.0)
    box = coordinates(value.x, value.y, width, height, value.rotation or 0.0)
    if box is None:
        return None
    ring = box_ring(Box(*box), size)
    (x0, y0), (x1, y1) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    return x0, y0, x1, y1


def shape_of(
    value: WireValue | None, tool: str, size_hw: tuple[int, int] | None
) -> RegionShape | None:
    """Returns the shape of a value; None if the tool draws no shape or its fields are missing.

    Args:
        value: of a result.
        tool: one of BITMAPS or OUTLINES; any other tool has no shape.
        size_hw: (height, width) in pixels of the image.
    """
    if value is None or size_hw is None:
        return None
    if tool in BITMAPS:
        return _bitmap(value, size_hw)
    ring_of = _ring_of(value, tool, size_hw)
    if ring_of is None:
        return None
    return RegionShape(
        shape_key(value), lambda: fill(ring_of(), size_hw), load_runs=None, is_outline=True
    )


def guess_tool(value: WireValue) -> str:
    """Returns the tool that the fields of a value point to, as the editor guesses; "" for none."""
    if _has_bitmap(value):
        return "brush"
    if bytes(value.points):
        return "polygon"
    if bytes(value.vertices):
        return "vector"
    if value.radiusX is not None:
        return "ellipse"
    box = coordinates(value.x, value.y, value.width, value.height)
    return "" if box is None else "rectangle"


def shape_key(value: WireValue) -> bytes:
    """Returns the shape as sent, without spaces, as a key for equal shapes; b"" for no shape."""
    if value.imageDataURL is not None:
        return value.imageDataURL.encode()
    if _has_bitmap(value):
        return bytes(value.rle).translate(None, b" \t\r\n")
    lines = bytes(value.points) + bytes(value.vertices)
    numbers = (value.x, value.y, value.width, value.height, value.radiusX, value.radiusY)
    if not lines and all(number is None for number in numbers):
        return b""
    return lines.translate(None, b" \t\r\n") + repr((*numbers, value.rotation)).encode()


def _bitmap(value: WireValue, size_hw: tuple[int, int]) -> RegionShape | None:
    if not _has_bitmap(value):
        return None
    encoding = shape_key(value)
    if value.imageDataURL is not None:
        return RegionShape(encoding, partial(_load_bitmask, value.imageDataURL, size_hw))
    return RegionShape(
        encoding,
        lambda: brush.decode_mask(_bytes_of(encoding), size_hw=size_hw),
        load_runs=partial(_known_runs, encoding, size_hw),
    )


def _has_bitmap(value: WireValue) -> bool:
    return bytes(value.rle) not in (b"", b"null") or value.imageDataURL is not None


def _ring_of(value: WireValue, tool: str, size_hw: tuple[int, int]) -> Callable[[], Ring] | None:
    """Returns a function for the outline in pixels; None for an open or incomplete line."""
    rotation = value.rotation or 0.0
    if tool == "rectangle":
        box = coordinates(value.x, value.y, value.width, value.height, rotation)
        return None if box is None else partial(box_ring, Box(*box), size_hw)
    if tool == "ellipse":
        ellipse = coordinates(value.x, value.y, value.radiusX, value.radiusY)
        if ellipse is None:
            return None
        return partial(ellipse_ring, ellipse[:2], ellipse[2:], rotation, size_hw)
    # A polygon without the field `closed` is closed, a vector without it is open.
    if tool == "polygon" and bytes(value.points) and value.closed is not False:
        return partial(polygon_ring, bytes(value.points), size_hw)
    if tool == "vector" and bytes(value.vertices) and value.closed:
        return partial(vector_ring, bytes(value.vertices), size_hw)
    return None


@lru_cache(maxsize=1024)
def _known_runs(encoding: bytes, size_hw: tuple[int, int]) -> Runs:
    """Decodes runs, once per encoding: every click repeats all regions of its task."""
    runs = brush.decode_runs(_bytes_of(encoding), size_hw=size_hw)
    runs.setflags(write=False)
    return runs


def _bytes_of(rle: bytes) -> list[int]:
    try:
        return read_json(rle, list[int])
    except msgspec.MsgspecError as error:
        raise InvalidRleError("rle: expected a list of integers 0 to 255") from error


def _load_bitmask(url: str, size_hw: tuple[int, int]) -> BoolMask:
    """Returns the (H, W) mask in the alpha channel of a PNG data URL."""
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
