"""What read_reduced makes of pictures that only need to be seen small."""

from __future__ import annotations

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image

from calico_model.errors import InvalidImageError
from calico_model.picture import read_reduced, read_rgb


def photograph(size: tuple[int, int], kind: str, exif: Image.Exif | None = None) -> bytes:
    columns = np.linspace(0, 255, size[0], dtype=np.uint8)
    pixels = np.repeat(np.tile(columns, (size[1], 1))[..., None], 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({} if exif is None else {"exif": exif}))
    return file.getvalue()


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    content = photograph((1600, 1200), "JPEG")
    picture = read_reduced(content, 128)
    assert picture.size_hw == (1200, 1600)
    assert picture.pixels.shape == (150, 200, 3)
    small = Image.fromarray(read_rgb(content)).reduce(8)
    assert np.abs(picture.pixels.astype(int) - np.asarray(small)).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_small_picture_stays_as_it_is(kind: str) -> None:
    content = photograph((40, 30), kind)
    assert np.array_equal(read_reduced(content, 128).pixels, read_rgb(content))


@pytest.mark.parametrize(("turn", "size_hw"), [(3, (1200, 1600)), (6, (1600, 1200))])
def test_orientation_turns_pixels_and_size(turn: int, size_hw: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    picture = read_reduced(photograph((1600, 1200), "JPEG", exif), 128)
    assert picture.size_hw == size_hw
    assert picture.pixels.shape[:2] == tuple(side // 8 for side in size_hw)
    assert picture.pixels[0, 0, 0] > picture.pixels[-1, -1, 0] or turn == 6


def test_the_time_is_that_of_the_shutter_else_of_the_last_change() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2026:05:02 10:00:00"
    changed = photograph((20, 20), "JPEG", exif)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:01 09:30:10"
    taken = photograph((20, 20), "JPEG", exif)
    assert read_reduced(changed, 16).taken == datetime(2026, 5, 2, 10)
    assert read_reduced(taken, 16).taken == datetime(2026, 5, 1, 9, 30, 10)


@pytest.mark.parametrize("written", ["", "0000:00:00 00:00:00", "yesterday"])
def test_a_time_that_makes_no_sense_is_none(written: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = written
    assert read_reduced(photograph((20, 20), "JPEG", exif), 16).taken is None


def test_a_truncated_file_is_refused_by_name() -> None:
    content = photograph((1600, 1200), "JPEG")
    with pytest.raises(InvalidImageError, match=r"a/b.jpg: truncated"):
        read_reduced(content[: len(content) // 2], 128, name="a/b.jpg")
