"""What a fetched file holds: pictures of all kinds, damaged ones, data URLs, and their limits."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from backend.errors import (
    MediaTooLargeError,
    MediaUnavailableError,
    UnreadableMediaError,
)
from backend.label_studio.image_decoding import MediaLimits
from backend.types import Task
from tests.unit.label_studio.image_hosts import (
    Web,
    answer,
    fetcher,
    picture,
)


def torn() -> bytes:
    """The first half of a PNG."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format="PNG")
    return file.getvalue()[: file.tell() // 2]


def bomb() -> bytes:
    """A PNG that claims 30,000 x 30,000 pixels."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (answer(status=404), MediaUnavailableError, "answered 404"),
        (answer(status=500), MediaUnavailableError, "answered 500"),
        (answer(status=403), MediaUnavailableError, "LABEL_STUDIO_API_KEY"),
        (answer(status=206), MediaUnavailableError, "answered 206"),
        (answer(b"<html>"), UnreadableMediaError, "expected one of PNG"),
        (
            answer(b"<html>", content_type="text/html; charset=utf-8"),
            UnreadableMediaError,
            "text/html",
        ),
        (answer(b"{}", content_type="application/json"), UnreadableMediaError, "application/json"),
        (answer(content_encoding="br"), UnreadableMediaError, "identity or gzip, got 'br'"),
        (answer(gzip.compress(bytes(5000)), content_encoding="gzip"), MediaTooLargeError, "4096"),
        (
            answer(gzip.compress(picture())[:-9], content_encoding="gzip"),
            UnreadableMediaError,
            "gzip",
        ),
        (answer(content_encoding="gzip"), UnreadableMediaError, "Content-Encoding"),
        (answer(b""), UnreadableMediaError, "0 bytes"),
        (answer(torn()), UnreadableMediaError, "truncated or damaged"),
        (answer(bomb()), UnreadableMediaError, "expected at most 20000 pixels"),
        (answer(picture((300, 1))), UnreadableMediaError, "at most 200 px"),
        (answer(picture((150, 150))), UnreadableMediaError, "at most 20000 pixels"),
        (answer(bytes(5000)), MediaTooLargeError, "at most 4096 bytes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_field_and_limit(response, error, message):
    limits = MediaLimits(max_bytes=4096, max_side=200, max_pixels=20_000)
    with pytest.raises(error, match=message) as caught:
        fetcher(Web(page=response), limits=limits).fetch("/data/upload/1/a.png", field="images[3]")
    assert caught.value.field == "images[3]"
    assert str(caught.value).startswith("images[3]: ")
    assert caught.value.http_status == 422


def images_of(*names):
    fields = tuple(f"images[{k}]" for k in range(len(names)))
    return Task(1, 7, tuple(f"/data/upload/1/{name}" for name in names), fields)


@pytest.mark.parametrize(
    "last", [picture((60, 51)), picture((51, 60), "JPEG"), picture((60, 51))[:50]]
)
def test_a_group_is_refused_at_the_image_that_is_too_much_before_that_is_decoded(last):
    pages = {"x.png": answer(picture((50, 40))), "y.png": answer(last)}
    web = Web(**{f"/data/upload/1/{name}": page for name, page in pages.items()})
    media = fetcher(web, limits=MediaLimits(max_group_pixels=7_000))
    with pytest.raises(MediaTooLargeError, match="CALICO_MAX_GROUP_PIXELS") as caught:
        media.fetch_group(images_of("x.png", "x.png", "y.png"))
    assert caught.value.field == "images[2]"
    assert len(media.fetch_group(images_of("x.png", "x.png", "x.png"))) == 3


def test_one_image_has_the_limits_of_images():
    media = fetcher(Web(page=answer(picture((50, 40)))), limits=MediaLimits(max_group_pixels=9))
    assert len(media.fetch_group(images_of("x.png"))) == 1


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", ""])
def test_image_turned_by_exif_has_the_size_a_browser_shows(content_type):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture((8, 6), "JPEG", exif=exif)
    image = fetcher(Web(page=answer(turned, content_type=content_type))).fetch(
        "/data/upload/1/a.jpg"
    )
    assert image.shape == (8, 6, 3)


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "RGBA", "I;16", "1", "P"])
def test_any_kind_of_pixels_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    web = Web(page=answer(picture((8, 6), kind, mode)))
    image = fetcher(web).fetch("/data/upload/1/a")
    assert (image.shape, image.dtype) == ((6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("PNG", "text/plain"),
        ("JPEG", "application/json"),
        ("WEBP", "text/html"),
        ("GIF", "video/x"),
    ],
)
def test_a_picture_under_a_wrong_content_type_is_a_picture(kind, content_type):
    page = answer(picture(kind=kind), content_type=content_type)
    assert fetcher(Web(page=page)).fetch("https://images.example.com/a").shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("Deflate", lambda data: zlib.compress(data)[2:-4]),
    ],
)
def test_a_body_packed_without_being_asked_is_unpacked(encoding, pack):
    page = answer(pack(picture()), content_encoding=encoding)
    assert fetcher(Web(page=page)).fetch("https://images.example.com/a.png").shape == (6, 8, 3)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{encoded(picture())}",
        f"DATA:image/png;charset=utf-8;BASE64,{encoded(picture()).rstrip('=')}",
        f"data:;base64,{encoded(picture()).replace('+', '%2B').replace('/', '%2F')}",
        "data:application/octet-stream;base64," + "\n".join(encoded(picture())),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in picture()),
    ],
)
def test_a_data_url_holds_its_image(url):
    web = Web()
    assert fetcher(web, hosts=()).fetch(url).shape == (6, 8, 3)
    assert not web.requests


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("data:image/png;base64", UnreadableMediaError, "comma"),
        ("data:image/png;base64,!!!!", UnreadableMediaError, "base64"),
        ("data:image/png;base64,iVBORw0KGgo=", UnreadableMediaError, "picture"),
        ("data:text/html,<b>no</b>", UnreadableMediaError, "picture"),
        (f"data:image/png;base64,{encoded(bytes(5000))}", MediaTooLargeError, "4096"),
        (f"data:image/png,{'a' * 20_000}", MediaTooLargeError, "4096"),
    ],
)
def test_a_data_url_without_an_image_is_refused(url, error, message):
    with pytest.raises(error, match=message):
        fetcher(Web(), limits=MediaLimits(max_bytes=4096)).fetch(url, field="images[0]")


def detailed(kind, **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((160, 120)).save(file, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "cut"),
    [
        ("JPEG", {}, 1),
        ("JPEG", {}, 2),
        ("JPEG", {}, 4),
        ("JPEG", {"progressive": True}, 2),
        ("PNG", {}, 12),
        ("GIF", {}, 4),
        ("BMP", {}, 3),
    ],
)
def test_a_picture_that_lacks_its_very_end_is_shown(kind, options, cut):
    whole = detailed(kind, **options)
    fetch = fetcher(Web(**{"/a": answer(whole), "/b": answer(whole[:-cut])})).fetch
    first, second = (fetch(f"https://images.example.com/{name}") for name in "ab")
    assert np.mean((first != second).any(axis=2)) < 0.03


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_picture_that_lacks_more_is_refused(kind):
    whole = detailed(kind)
    page = answer(whole[: len(whole) * 9 // 10])
    with pytest.raises(UnreadableMediaError, match="truncated or damaged"):
        fetcher(Web(page=page)).fetch("https://images.example.com/a")
