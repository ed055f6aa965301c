"""What read_rgb makes of every picture a labeling project can meet."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from calico_model.errors import InvalidImageError
from calico_model.picture import plain_format, read_rgb, read_size


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 9, columns * 7, rows + columns], -1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries next to nothing."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    pixels = zlib.compress(b"\0" * 64)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(read_rgb(encode(gradient(), kind)), np.asarray(gradient()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_stay_close(kind: str) -> None:
    pixels = read_rgb(encode(gradient(), kind, quality=95)).astype(int)
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels - np.asarray(gradient())).mean() < 6


def test_file_and_its_bytes_give_the_same_array(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient()))
    assert np.array_equal(read_rgb(path), read_rgb(path.read_bytes()))
    assert read_rgb(path).flags.c_contiguous


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(  # type: ignore[no-untyped-def]
    kind: str, orientation: int, turn
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_rgb(encode(gradient(), kind, exif=exif))
    assert np.array_equal(pixels, turn(np.asarray(gradient())))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("tags", [{}, {0x010E: "a title"}])
def test_orientation_in_xmp_turns_nothing(kind: str, tags: dict[int, str]) -> None:
    # Browsers look at EXIF alone, and masks live in the frame that a browser shows.
    exif = Image.Exif()
    exif.update(tags)
    options: dict[str, object] = {"exif": exif} if tags else {}
    if kind == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"] = text
    else:
        options["xmp"] = XMP
    data = encode(gradient(), kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6  # Pillow itself would turn it
    assert read_rgb(data).shape == (16, 24, 3)


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    pixels = read_rgb(encode(cmyk, "TIFF"))
    assert pixels.shape == (3, 4, 3)
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_keep_their_high_byte() -> None:
    wide = Image.fromarray(np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], np.uint16))
    expected = [[0, 0, 1], [0x12, 0x80, 0xFF]]
    for kind in ("PNG", "TIFF"):
        pixels = read_rgb(encode(wide, kind))
        assert pixels[:, :, 0].tolist() == expected
        assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_float_grey_spans_zero_to_one() -> None:
    wide = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))
    assert read_rgb(encode(wide, "TIFF"))[0, :, 0].tolist() == [0, 127, 255, 0]


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 127))
    pixels = read_rgb(encode(image))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [200, 0, 0]
    assert pixels[0, 2].tolist() == [128, 128, 128]


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = read_rgb(encode(image, "PNG", transparency=1))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_few_channels_become_three(mode: str) -> None:
    assert read_rgb(encode(Image.new(mode, (5, 4)))).shape == (4, 5, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_first_frame_stands_for_an_animation(kind: str) -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    data = encode(red, kind, save_all=True, append_images=[blue])
    assert np.abs(read_rgb(data)[4, 4].astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(InvalidImageError, match="image: "):
        read_rgb(data[: len(data) // 2])


def test_forty_thousand_pixel_side_is_refused_by_its_header() -> None:
    with pytest.raises(InvalidImageError, match="at most 16384 px, got 40000 x 1"):
        read_rgb(png_header(40_000, 1))


def test_too_many_pixels_are_refused_by_the_header() -> None:
    with pytest.raises(InvalidImageError, match="at most 40000000 pixels, got 8000 x 8000"):
        read_rgb(png_header(8_000, 8_000))


@pytest.mark.parametrize("side", [12_000, 16_000])
def test_bomb_is_an_error_not_a_warning(side: int) -> None:
    with pytest.raises(InvalidImageError, match="expected at most 40000000 pixels"):
        read_rgb(png_header(side, side))


def test_generous_limit_does_not_lift_the_bomb_limit() -> None:
    with pytest.raises(InvalidImageError, match="pixels"):
        read_rgb(png_header(12_000, 12_000), max_pixels=10**9)


def test_limits_can_be_set_by_the_caller() -> None:
    data = encode(gradient(24, 16))
    assert read_rgb(data, max_side=24, max_pixels=24 * 16).shape == (16, 24, 3)
    with pytest.raises(InvalidImageError, match="at most 23 px"):
        read_rgb(data, max_side=23)
    with pytest.raises(InvalidImageError, match="at most 383 pixels"):
        read_rgb(data, max_pixels=24 * 16 - 1)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>",
        b"<!doctype html><title>404</title>",
        b"\x00",
        b"%PDF-1.4",
        encode(Image.new("RGB", (4, 4)), "ICO"),
        encode(Image.new("RGB", (4, 4)), "PPM"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match="expected one of PNG, JPEG, WEBP, BMP, GIF, TIFF"):
        read_rgb(data)


def test_no_bytes_are_refused() -> None:
    with pytest.raises(InvalidImageError, match="image: expected a picture, got 0 bytes"):
        read_rgb(b"")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match=r"nowhere\.png: no such file"):
        read_rgb(tmp_path / "nowhere.png")
    with pytest.raises(InvalidImageError, match="no such file"):
        read_rgb(tmp_path)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about odd metadata before it gives up
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    keep=st.floats(0.0, 1.0),
)
def test_damage_gives_pixels_or_one_kind_of_error(
    kind: str, edits: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(encode(gradient(), kind))
    for where, value in edits:
        data[int(where * len(data))] = value
    with suppress(InvalidImageError):
        pixels = read_rgb(bytes(data[: int(keep * len(data)) + 1]))
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


def _noise(shape: tuple[int, ...], dtype: type, top: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def _large(kind: str) -> bytes:
    """A picture of 12 megapixels; only the mode matters, so most of it is flat."""
    size = (3000, 4000)
    if kind == "16 bit":
        return encode(Image.fromarray(np.full(size, 40_000, np.uint16)))
    if kind == "32 bit":
        return encode(Image.fromarray(np.full(size, 40_000, np.int32)), "TIFF")
    if kind == "float":
        return encode(Image.fromarray(np.full(size, 0.5, np.float32)), "TIFF")
    if kind == "palette":
        image = Image.new("P", size[::-1], 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        return encode(image, transparency=0)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        return encode(Image.new("RGB", size[::-1], (1, 2, 3)), "JPEG", exif=exif)
    return encode(Image.new(kind, size[::-1]), "TIFF" if kind == "CMYK" else "PNG")


@pytest.mark.parametrize(
    "kind", ["16 bit", "32 bit", "float", "palette", "turned", "RGBA", "LA", "1", "CMYK", "RGB"]
)
def test_a_pixel_takes_few_bytes_whatever_it_is_made_of(kind: str, tmp_path: Path) -> None:
    """Peak of a process of its own, Pillow's and NumPy's memory alike."""
    path = tmp_path / "large"
    path.write_bytes(_large(kind))
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from PIL import Image\n"
        "from calico_model.picture import read_rgb\n"
        "small = Path(sys.argv[1]).with_name('small.png')\n"
        "Image.new('RGB', (9, 9)).save(small)\n"
        "read_rgb(small)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_rgb(Path(sys.argv[1])).nbytes == 36_000_000\n"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    grown = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert grown < 10 * 12_000_000 + 40_000_000


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "P", "RGB", "1", "CMYK"])
@pytest.mark.parametrize("band", [1, 7, 24, 1000])
def test_bands_are_not_seen(mode: str, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (17, 24)
    image = {
        "I;16": lambda: Image.fromarray(_noise(shape, np.uint16, 65_536)),
        "F": lambda: Image.fromarray(_noise(shape, np.float32, 2)),
        "RGBA": lambda: Image.fromarray(_noise((*shape, 4), np.uint8, 256), "RGBA"),
        "CMYK": lambda: Image.fromarray(_noise((*shape, 4), np.uint8, 256), "CMYK"),
        "P": lambda: Image.fromarray(_noise((*shape, 3), np.uint8, 256)).quantize(16),
        "RGB": lambda: Image.fromarray(_noise((*shape, 3), np.uint8, 256)),
        "1": lambda: Image.fromarray(_noise(shape, np.uint8, 2) * 255).convert("1"),
    }[mode]()
    data = encode(image, "PNG" if mode != "F" and mode != "CMYK" else "TIFF")
    whole = read_rgb(data)
    monkeypatch.setattr("calico_model.picture._BAND_PIXELS", band)
    assert np.array_equal(read_rgb(data), whole)


def test_the_size_is_read_from_the_header() -> None:
    assert read_size(encode(gradient(24, 16))) == (16, 24)
    assert read_size(png_header(5000, 4000)) == (4000, 5000)
    for broken in (b"", b"no picture", encode(gradient())[:20]):
        assert read_size(broken) is None


def test_a_plain_file_is_one_that_every_reader_shows_alike() -> None:
    turn = Image.Exif()
    turn[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    first = gradient()
    assert plain_format(encode(first)) == "PNG"
    assert plain_format(encode(first, "JPEG", exif=upright)) == "JPEG"
    assert plain_format(encode(first, "JPEG") + b"more of a phone") == "JPEG"
    assert plain_format(encode(first, "WEBP", lossless=True)) == "WEBP"
    assert plain_format(encode(first.convert("L"), "BMP")) == "BMP"
    differing = {
        "turned": encode(first, "JPEG", exif=turn),
        "cmyk": encode(first.convert("CMYK"), "JPEG"),
        "16 bits": encode(Image.fromarray(np.zeros((4, 4), np.uint16))),
        "animated": encode(first, "WEBP", save_all=True, append_images=[gradient().rotate(90)]),
        "other format": encode(first, "TIFF"),
        "cut off": encode(first, "JPEG")[:-40],
        "no picture": b"hello",
    }
    assert {name: plain_format(data) for name, data in differing.items()} == dict.fromkeys(
        differing
    )
