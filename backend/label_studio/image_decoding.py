"""Bytes of an image file -> RGB pixels, within limits; and `data:` URLs -> bytes.

A file that lacks its very end is decoded too: every viewer shows it, a strict decoder does not. The
end is filled in twice with different random bytes. Pixels that are equal in both results were in
the file; if more than a trace of the pixels differ, the file is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import numpy as np

from backend.errors import MediaTooLargeError, UnreadableMediaError
from calico_model.errors import InvalidImageError
from calico_model.picture import read_rgb, read_size
from calico_model.types import RgbImage

_DECODING = threading.Lock()  # a decoder needs several times the memory of the decoded image
_DATA_URL = re.compile(r"data:(?P<kind>[^,]{0,1000}),", re.IGNORECASE)
# Without 0xff, which begins a marker of JPEG.
_FILLS = tuple(
    np.random.default_rng(seed).integers(0, 255, 4096, dtype=np.uint8).tobytes() for seed in (1, 2)
)
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MAX_FILLED_SHARE = 0.02  # of the pixels


@dataclass(frozen=True)
class MediaLimits:
    """What one image may cost.

    Attributes:
        max_bytes: largest file.
        max_pixels: largest width x height.
        max_side: largest width or height in pixels.
        max_group_pixels: largest sum of width x height of the images of a task.
        timeout_s: longest time for everything, redirects included.
        connect_timeout_s: longest wait for a connection.
        read_timeout_s: longest silence of the host.
        max_redirects: redirects followed.
    """

    max_bytes: int = 25 * 1024 * 1024
    max_pixels: int = 40_000_000
    max_side: int = 16_384
    max_group_pixels: int = 160_000_000
    timeout_s: float = 30.0
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    max_redirects: int = 3

    def too_large(self) -> MediaTooLargeError:
        """Returns the error for a file over `max_bytes`."""
        return MediaTooLargeError(f"expected at most {self.max_bytes} bytes")


def decode_image(data: bytes, limits: MediaLimits, *, used_pixels: int) -> RgbImage:
    """Decodes an image file.

    Args:
        data: the bytes of the file.
        limits: what one image may cost.
        used_pixels: sum of width x height of the earlier images of the same task.

    Returns:
        (H, W, 3) uint8 RGB, EXIF orientation applied.

    Raises:
        InvalidImageError: not an image, or one over the limits.
        MediaTooLargeError: too many pixels together with the earlier images.
    """
    height, width = read_size(data) or (0, 0)
    if used_pixels and used_pixels + height * width > limits.max_group_pixels:
        raise MediaTooLargeError(
            f"expected images of together at most {limits.max_group_pixels} pixels, got "
            f"{width} x {height} beside {used_pixels} pixels; see CALICO_MAX_GROUP_PIXELS"
        )

    def read(encoded: bytes) -> RgbImage:
        return read_rgb(encoded, max_pixels=limits.max_pixels, max_side=limits.max_side)

    with _DECODING:
        try:
            return read(data)
        except InvalidImageError:
            image = _read_without_end(data, read)
            if image is None:
                raise
            return image


def read_data_url(url: str, limits: MediaLimits) -> bytes:
    """Returns the bytes of a `data:` URL, read as leniently as browsers do.

    Raises:
        UnreadableMediaError: no comma, or wrong base64.
        MediaTooLargeError: a file over `limits.max_bytes`.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise UnreadableMediaError("expected data:image/...;base64,... with a comma")
    if len(url) > 3 * limits.max_bytes + 1100:  # every byte may be written as %XX
        raise limits.too_large()
    data = unquote_to_bytes(url[head.end() :])
    if head["kind"].lower().rstrip().endswith(";base64"):
        plain = data.translate(None, b" \t\r\n\f").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            data = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except binascii.Error as error:
            raise UnreadableMediaError(f"data: expected base64 ({error})") from error
    if len(data) > limits.max_bytes:
        raise limits.too_large()
    return data


def _read_without_end(data: bytes, read: Callable[[bytes], RgbImage]) -> RgbImage | None:
    """Decodes an image file whose end is missing; None if more than the end is missing.

    Args:
        data: a file that `read` refuses.
        read: decodes a file; raises InvalidImageError.
    """
    is_jpeg = data.startswith(_JPEG_START)
    end = _JPEG_END if is_jpeg else b""
    body = data.rstrip(b"\xff") if is_jpeg else data  # half of a marker
    try:
        first, second = (read(body + fill + end) for fill in _FILLS)
    except InvalidImageError:
        return None
    if first.shape != second.shape:
        return None
    filled = np.count_nonzero((first != second).any(axis=2))
    return first if filled <= _MAX_FILLED_SHARE * first.shape[0] * first.shape[1] else None
