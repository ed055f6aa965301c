"""Images under the several names that one Label Studio has."""

from __future__ import annotations

import httpx
import pytest

from backend.errors import (
    ForbiddenAddressError,
    MediaUnavailableError,
)
from backend.label_studio.names import StudioNames
from tests.unit.label_studio.image_hosts import (
    PUBLIC,
    Web,
    answer,
    fetcher,
)


@pytest.mark.parametrize(
    ("names", "url"),
    [
        ([PUBLIC], f"{PUBLIC}/data/local-files/?d=in/a%20b.png"),
        (["label.example.com"], f"{PUBLIC}/data/local-files/?d=in/a b.png"),
        (["label.example.com"], "http://label.example.com/data/local-files/?d=in/a%20b.png"),
        ([f"{PUBLIC}:8443/studio"], f"{PUBLIC}:8443/studio/data/local-files/?d=in/a%20b.png"),
        (["LABEL.example.com."], "HTTPS://label.example.COM/data/local-files/?d=in/a%20b.png"),
    ],
)
@pytest.mark.parametrize("is_announced", [False, True])
def test_a_file_under_another_name_of_label_studio_is_asked_for_at_its_address(
    names, url, is_announced
):
    known = StudioNames([] if is_announced else names)
    if is_announced:
        known.announce(names[0] if "://" in names[0] else f"http://{names[0]}/")
    web = Web(page=answer())
    fetcher(web, names=known).fetch(url)
    (request,) = web.requests
    assert request.headers["host"] == "studio.local:8080"
    assert request.url.path == "/data/local-files/"
    assert request.url.params["d"] == "in/a b.png"
    assert request.headers["authorization"] == "Bearer 0"


def test_a_name_of_label_studio_gets_neither_the_token_nor_other_requests():
    known = StudioNames()
    known.announce("https://images.example.com")  # whoever may call /setup
    web = Web(page=answer())
    fetch = fetcher(web, names=known).fetch
    fetch("https://images.example.com/cats/a.png")
    fetch("https://images.example.com/data/a.png")
    assert [request.headers["host"] for request in web.requests] == [
        "images.example.com",
        "studio.local:8080",
    ]
    assert "authorization" not in web.requests[0].headers
    with pytest.raises(ForbiddenAddressError, match="CALICO_LABEL_STUDIO_NAMES"):
        fetch("https://other.example.com/data/a.png")


def test_local_names_of_one_port_are_one_label_studio():
    web = Web(page=answer())
    media = fetcher(web, label_studio_url="http://localhost:8080")
    for host in ("127.0.0.1", "[::1]", "localhost"):
        media.fetch(f"http://{host}:8080/data/upload/1/a.png")
    assert {request.headers["host"] for request in web.requests} == {"localhost:8080"}
    with pytest.raises(ForbiddenAddressError):
        media.fetch("http://127.0.0.1:9090/data/upload/1/a.png")


def test_label_studio_that_insists_on_another_name_says_which():
    web = Web(page=httpx.Response(301, headers={"location": f"{PUBLIC}/data/upload/1/a.png"}))
    with pytest.raises(MediaUnavailableError, match="redirects to https://label.example.com/"):
        fetcher(web, names=StudioNames([PUBLIC])).fetch("/data/upload/1/a.png")


def test_announced_names_reach_other_processes_and_are_few(tmp_path):
    file = tmp_path / "names.json"
    server, trainer = StudioNames(file=file), StudioNames(file=file)
    assert trainer.prefix_of(f"{PUBLIC}/data/a") is None
    server.announce(f"{PUBLIC}/studio/")
    assert trainer.prefix_of(f"{PUBLIC}/data/a") == "/studio"
    for odd in ("", None, "no address", "ftp://a.example", "http://user:word@a.example", "x" * 999):
        server.announce(odd)
    for number in range(40):
        server.announce(f"http://n{number}.example")
    assert StudioNames(file=file).prefix_of("http://n39.example") == ""
    assert StudioNames(file=file).prefix_of(PUBLIC) is None
    file.write_text("{")
    assert StudioNames(file=file).prefix_of(PUBLIC) is None
