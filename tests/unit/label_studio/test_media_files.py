"""Images in a folder that Label Studio and the backend share."""

from __future__ import annotations

import os

import pytest

from backend.errors import (
    ForbiddenAddressError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from backend.label_studio.image_decoding import MediaLimits
from backend.label_studio.names import StudioNames
from tests.unit.label_studio.image_hosts import (
    PUBLIC,
    STUDIO,
    Web,
    answer,
    fetcher,
    picture,
)


@pytest.fixture
def shared_folder(tmp_path):
    root = tmp_path / "shared"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a b.png").write_bytes(picture())
    (tmp_path / "secret.png").write_bytes(picture())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe")
    return root


def test_local_file_is_read_from_the_shared_folder(shared_folder):
    web = Web()
    image = fetcher(web, local_files_root=shared_folder).fetch("/data/local-files/?d=in/a%20b.png")
    assert image.shape == (6, 8, 3)
    assert not web.requests


def test_a_local_file_has_a_path_and_others_have_none(shared_folder):
    media = fetcher(Web(), local_files_root=shared_folder)
    local = "/data/local-files/?d=in/a%20b.png"
    assert media.local_path(local) == shared_folder / "in" / "a b.png"
    assert media.fetch_file(local)[0] == (shared_folder / "in" / "a b.png").read_bytes()
    others = ("link.png", "gone.png", "../secret.png")
    urls = (*(f"/data/local-files/?d={path}" for path in others), "/data/upload/1/a.png")
    assert {media.local_path(url) for url in (*urls, "https://a.example/b.png")} == {None}
    assert fetcher(Web()).local_path(local) is None


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "in/../../secret.png", "link.png", "in", "pipe", "", "%2e%2e/secret.png"],
)
def test_path_out_of_the_shared_folder_is_refused(shared_folder, path):
    with pytest.raises(ForbiddenAddressError, match="inside the folder"):
        fetcher(Web(), local_files_root=shared_folder).fetch(f"/data/local-files/?d={path}")


@pytest.mark.parametrize("path", ["gone.png", "%00", "a" * 5000, "/etc/passwd"])
def test_missing_local_file(shared_folder, path):
    with pytest.raises(MediaUnavailableError, match="no file"):
        fetcher(Web(), local_files_root=shared_folder).fetch(f"/data/local-files/?d={path}")


def test_local_file_has_the_byte_limit_too(shared_folder):
    media = fetcher(Web(), local_files_root=shared_folder, limits=MediaLimits(max_bytes=10))
    with pytest.raises(MediaTooLargeError, match="at most 10 bytes"):
        media.fetch("/data/local-files/?d=in/a b.png")


def test_without_shared_folder_label_studio_serves_local_files():
    web = Web(page=answer())
    fetcher(web).fetch("/data/local-files/?d=in/a.png")
    assert web.requests[0].url.params["d"] == "in/a.png"
    assert "authorization" in web.requests[0].headers


def test_a_shared_folder_serves_local_files_under_any_name(shared_folder):
    web = Web()
    media = fetcher(web, names=StudioNames([PUBLIC]), local_files_root=shared_folder)
    for start in (PUBLIC, STUDIO):
        assert media.fetch(f"{start}/data/local-files/?d=in/a%20b.png").shape == (6, 8, 3)
    assert not web.requests
