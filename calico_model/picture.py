"""Bytes or a file -> one RGB array, safely.

Owns every decision between an untrusted picture and the pixels the product works in: which formats
are read, how large a picture may be, which way is up, and what happens to 16-bit, CMYK, transparent
and animated ones. Does not know where the bytes came from, groups, or the model's sizes.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from calico_model.errors import InvalidImageError
from calico_model.types import RgbImage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384

_ORIENTATION = ExifTags.Base.Orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise on hostile or damaged input; a bomb is an Exception of its own kind.
_DECODE_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_rgb(
    source: bytes | Path, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE
) -> RgbImage:
    """Decodes one picture into the frame every mask of this product lives in.

    The size is checked in the header, before any pixel is decoded. EXIF orientation is applied,
    transparency is laid over white, CMYK, grey and palettes become RGB, 16-bit values keep their
    high byte, and the first frame stands for an animation.

    Args:
        source: the encoded bytes, or the file that holds them.
        max_pixels: largest width x height; never above Pillow's own bomb limit.
        max_side: largest width or height in pixels.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        InvalidImageError: missing, empty, unknown format, too large, truncated or damaged. The
            message names the file (or "image" for bytes) and the limit that was broken.
    """
    if isinstance(source, Path):
        if not source.is_file():
            raise InvalidImageError(f"{source}: no such file")
        try:
            with source.open("rb") as file:
                return _decode(file, str(source), max_pixels, max_side)
        except PermissionError as error:
            raise InvalidImageError(f"{source}: cannot be read (permission denied)") from error
    return _decode(io.BytesIO(source), "image", max_pixels, max_side)


def _decode(file: BinaryIO, name: str, max_pixels: int, max_side: int) -> RgbImage:
    """Checks the header of an open file, then decodes it."""
    if not file.read(1):
        raise InvalidImageError(f"{name}: expected a picture, got 0 bytes")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image.size, name, max_pixels, max_side)
            image.load()
            pixels = np.array(_to_rgb(_upright(image)), dtype=np.uint8)  # (H, W, 3)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"{name}: expected at most {max_pixels} pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(
            f"{name}: no readable picture, expected one of {', '.join(FORMATS)}"
        ) from error
    except _DECODE_ERRORS as error:
        raise InvalidImageError(f"{name}: truncated or damaged picture ({error})") from error
    return pixels


def _check_size(size_wh: tuple[int, int], name: str, max_pixels: int, max_side: int) -> None:
    width, height = size_wh
    if max(width, height) > max_side:
        raise InvalidImageError(
            f"{name}: expected sides of at most {max_side} px, got {width} x {height}"
        )
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if width * height > limit:
        raise InvalidImageError(
            f"{name}: expected at most {limit} pixels, got {width} x {height} = {width * height}"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Applies EXIF orientation as browsers do: no other metadata counts, nor a damaged block.

    Pillow's own `exif_transpose` would also follow XMP. A TIFF is turned by its decoder.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        turn = _TURNS.get(exif.get(_ORIENTATION, 1))
    except _DECODE_ERRORS:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB of 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """One channel of 16 or 32 bits -> RGB: integers keep their high byte, floats span 0..1."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))  # (H, W)
    if image.mode == "F":
        grey = values * 255.0 if values.max(initial=0.0) <= 1.0 else values
    else:
        grey = values // 256.0
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
