"""Decoder of untrusted pictures: bytes or a file to one RGB array.

Decides which formats are read, how large a picture may be, its orientation, and how 16-bit, CMYK,
transparent and animated pictures become RGB. Does not know groups, the source of the bytes, or the
model's sizes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from calico_model.errors import InvalidImageError
from calico_model.types import RgbImage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384

_PLAIN_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_PLAIN_MODES = frozenset({"RGB", "RGBA", "L", "LA", "P", "1"})
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

_BAND_PIXELS = 1024 * 1024
_Pixels = Callable[[RgbImage], RgbImage]

_ORIENTATION = ExifTags.Base.Orientation
_TAKEN, _CHANGED = ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime
_EXIF_TIME = "%Y:%m:%d %H:%M:%S"
_TURNS: dict[int, _Pixels] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

_QUARTER_TURNS = (5, 6, 7, 8)

# Errors of Pillow's decoders for hostile or damaged input; decompression bombs have their own type.
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


@dataclass(frozen=True, eq=False)
class ReducedPicture:
    """A picture that was decoded only as large as needed.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, EXIF orientation applied.
        size_hw: height and width of the whole picture in pixels, EXIF orientation applied.
        taken: when the camera says that it was taken, in local time, or None.
    """

    pixels: RgbImage
    size_hw: tuple[int, int]
    taken: datetime | None


def read_rgb(
    source: bytes | Path, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE
) -> RgbImage:
    """Decodes one picture, in the pixel frame of all masks of the product.

    The size is checked in the header, before any pixel is decoded. Decoding takes at most 10 bytes
    of memory per pixel beside the file, for every format. EXIF orientation is applied,
    transparency is laid over white, CMYK, grey and palettes become RGB, 16-bit values keep their
    high byte, and an animation becomes its first frame.

    Args:
        source: the encoded bytes, or the path of the file.
        max_pixels: largest width x height; never above Pillow's own bomb limit.
        max_side: largest width or height in pixels.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        InvalidImageError: missing, empty, unknown format, too large, truncated or damaged. The
            message names the file (or "image" for bytes) and the exceeded limit.
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


def read_reduced(source: bytes, least_side: int, *, name: str = "image") -> ReducedPicture:
    """Decodes a picture for a small view of it; JPEG files are decoded at a fraction of their size.

    Args:
        source: the encoded bytes.
        least_side: no side becomes smaller than this, unless it was.
        name: how messages call the picture.

    Raises:
        InvalidImageError: as `read_rgb`.
    """
    box = (least_side, least_side)
    pixels, size_wh, exif = _decode_file(io.BytesIO(source), name, MAX_PIXELS, MAX_SIDE, box)
    return ReducedPicture(pixels, (size_wh[1], size_wh[0]), _taken_at(exif))


def read_size(source: bytes) -> tuple[int, int] | None:
    """Returns (height, width) from the header of a picture, None if the header cannot be read.

    The size is that in the file, before EXIF orientation is applied.
    """
    try:
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            return image.height, image.width
    except _DECODE_ERRORS:  # an unknown format is an OSError
        return None


def plain_format(source: bytes) -> str | None:
    """Returns the format of a file that every reader shows alike: JPEG, PNG, WEBP or BMP.

    None if readers may differ: EXIF turns it, it is animated, has 16 bits or CMYK, has another
    format, or lacks its end.
    """
    try:
        with Image.open(io.BytesIO(source), formats=_PLAIN_FORMATS) as image:
            # Phones append further pictures to a JPEG; everybody shows the first.
            name = "JPEG" if image.format == "MPO" else image.format or ""
            is_plain = image.mode in _PLAIN_MODES
            is_animated = name != "JPEG" and getattr(image, "n_frames", 1) > 1
            if not is_plain or is_animated or _turn_of(_exif_of(image)) is not None:
                return None
            if name not in _ENDS or not source.endswith(_ENDS[name]):
                image.load()  # other bytes may follow a whole picture
            return name or None
    except _DECODE_ERRORS:
        return None


def _decode(file: BinaryIO, name: str, max_pixels: int, max_side: int) -> RgbImage:
    """Checks the header of an open file, then decodes it."""
    return _decode_file(file, name, max_pixels, max_side, None)[0]


def _decode_file(
    file: BinaryIO, name: str, max_pixels: int, max_side: int, least: tuple[int, int] | None
) -> tuple[RgbImage, tuple[int, int], Image.Exif]:
    """Returns the pixels, the width and height of the whole picture as it is shown, and its EXIF.

    With `least`, a width and height, JPEG files are decoded at the smallest size above it.
    """
    if not file.read(1):
        raise InvalidImageError(f"{name}: expected a picture, got 0 bytes")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image.size, name, max_pixels, max_side)
            size_wh = image.size
            if least is not None:
                image.draft(None, least)
            image.load()
            exif = _exif_of(image)
            pixels, turn = _to_rgb(image), _turn_of(exif)
        if turn is not None:
            pixels = np.ascontiguousarray(turn(pixels))
            if exif[_ORIENTATION] in _QUARTER_TURNS:
                size_wh = size_wh[1], size_wh[0]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"{name}: expected at most {max_pixels} pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(
            f"{name}: no readable picture, expected one of {', '.join(FORMATS)}"
        ) from error
    except _DECODE_ERRORS as error:
        raise InvalidImageError(f"{name}: truncated or damaged picture ({error})") from error
    return pixels, size_wh, exif


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


def _exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF block, empty without one or if it is damaged.

    Pillow's own `getexif` would also read XMP. The decoder of TIFF turns the picture itself.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
    except _DECODE_ERRORS:
        return Image.Exif()
    return exif


def _turn_of(exif: Image.Exif) -> _Pixels | None:
    """The turn that EXIF asks for, as in browsers."""
    try:
        return _TURNS.get(exif.get(_ORIENTATION, 1))
    except _DECODE_ERRORS:
        return None


def _taken_at(exif: Image.Exif) -> datetime | None:
    """When the picture was taken, or else last changed; None where EXIF does not say."""
    try:
        written = exif.get_ifd(ExifTags.IFD.Exif).get(_TAKEN) or exif.get(_CHANGED)
        return datetime.strptime(str(written).strip("\0 "), _EXIF_TIME) if written else None
    except _DECODE_ERRORS:
        return None


def _to_rgb(image: Image.Image) -> RgbImage:
    """(H, W, 3) uint8 of a decoded picture of any Pillow mode, converted in bands of rows."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    white = _white_of(image, bands)
    for band in bands:
        pixels[band] = _band_to_rgb(_rows_of(image, band), white)
    return pixels


def _rows_of(image: Image.Image, band: slice) -> Image.Image:
    return image.crop((0, band.start, image.width, band.stop))


def _white_of(image: Image.Image, bands: Sequence[slice]) -> float:
    """The value that becomes white: 65535 for integers; 1 or 255 for floats, by the largest."""
    if image.mode != "F":
        return 65_535.0
    largest = max(float(_finite(_rows_of(image, band)).max(initial=0.0)) for band in bands)
    return 1.0 if largest <= 1.0 else 255.0


def _band_to_rgb(band: Image.Image, white: float) -> NDArray[np.uint8]:
    """(h, W, 3) or (h, W, 1) uint8 of a band of rows."""
    if band.mode.startswith("I") or band.mode == "F":
        values = _finite(band)
        grey = values * (255.0 / white) if band.mode == "F" else values // 256.0
        return np.clip(grey, 0, 255).astype(np.uint8)[..., None]
    if band.has_transparency_data:
        layer = band.convert("RGBA")
        white_layer = Image.new("RGBA", layer.size, "white")
        band = Image.alpha_composite(white_layer, layer)
    return np.asarray(band.convert("RGB"))


def _finite(band: Image.Image) -> NDArray[np.float64]:
    """(h, W) float64 of one channel of 16 or 32 bits, without NaN and infinity."""
    return np.nan_to_num(np.asarray(band).astype(np.float64))
