"""Fetching images: who is asked at which address, who gets the token, and every limit."""

from __future__ import annotations

import base64
import itertools
import socket
import time

import httpx
import pytest

from backend.errors import (
    ForbiddenAddressError,
    InvalidTaskError,
    LabelStudioAuthError,
    MediaError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from backend.label_studio.image_decoding import MediaLimits
from backend.label_studio.media import MediaFetcher
from backend.types import Task
from tests.unit.label_studio.image_hosts import (
    STUDIO,
    Token,
    Web,
    answer,
    fetcher,
    picture,
)


def test_uploaded_file_is_asked_with_the_token_at_the_checked_address():
    web = Web(page=answer())
    image = fetcher(web).fetch("/data/upload/7/a b.png")
    (request,) = web.requests
    assert image.shape == (6, 8, 3)
    assert request.url.host == "10.0.0.5"
    assert request.url.port == 8080
    assert request.url.raw_path == b"/data/upload/7/a%20b.png"
    assert request.headers["host"] == "studio.local:8080"
    assert request.headers["authorization"] == "Bearer 0"
    assert request.extensions["sni_hostname"] == "studio.local"


def test_second_address_of_a_host_is_tried_when_the_first_does_not_listen():
    def page(request):
        if request.url.host == "::1":
            raise httpx.ConnectError("refused")
        return answer()(request)

    web = Web(page=page)
    media = MediaFetcher(
        label_studio_url="http://localhost:8080",
        authorization=Token(),
        resolve=lambda host, port: ["::1", "127.0.0.1"],
        transport=httpx.MockTransport(web),
    )
    assert media.fetch("/data/upload/1/a.png").shape == (6, 8, 3)
    assert [request.url.host for request in web.requests] == ["::1", "127.0.0.1"]


@pytest.mark.parametrize("path", ["/data/upload/1/a.png", "/studio/data/upload/1/a.png"])
def test_label_studio_below_a_path_gets_its_token(path):
    web = Web(page=answer())
    fetcher(web, label_studio_url=f"{STUDIO}/studio").fetch(path)
    (request,) = web.requests
    assert request.url.path == "/studio/data/upload/1/a.png"
    assert "authorization" in request.headers
    fetcher(web, label_studio_url=f"{STUDIO}/studio").fetch(f"{STUDIO}/studio/api/a.png")
    assert "authorization" not in web.requests[1].headers


def test_other_hosts_and_other_paths_get_no_token():
    web = Web(page=answer())
    fetch = fetcher(web).fetch
    for url in ("https://images.example.com/data/upload/a.png", f"{STUDIO}/api/users/a.png"):
        fetch(url)
    assert ["authorization" in request.headers for request in web.requests] == [False, False]


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
def test_cloud_storage_goes_through_presign_and_loses_the_token(scheme):
    uri = f"{scheme}://bucket/ä/a.png"

    def presign(request):
        encoded = request.url.params["fileuri"]
        assert base64.urlsafe_b64decode(encoded).decode() == uri
        return httpx.Response(303, headers={"location": "https://images.example.com/a.png?sig=1"})

    web = Web(**{"/tasks/12/presign/": presign, "/a.png": answer()})
    fetcher(web).fetch(uri, task_id=12)
    assert [("authorization" in r.headers) for r in web.requests] == [True, False]
    assert web.requests[1].headers["host"] == "images.example.com"


def test_cloud_storage_needs_a_task():
    with pytest.raises(ForbiddenAddressError, match="that Label Studio has stored"):
        fetcher(Web()).fetch("s3://bucket/a.png")


def test_refused_token_is_renewed_once():
    def page(request):
        is_new = request.headers["authorization"] == "Bearer 1"
        return (answer() if is_new else answer(b"", 401))(request)

    token = Token()
    fetcher(Web(page=page), authorization=token).fetch("/data/upload/1/a.png")
    assert token.renewed == 1
    web = Web(page=answer(b"", 401))
    with pytest.raises(MediaUnavailableError, match="refused the token"):
        fetcher(web).fetch("/data/upload/1/a.png")
    assert len(web.requests) == 2


def test_error_of_the_token_names_the_field():
    token = Token(LabelStudioAuthError("refused"))
    with pytest.raises(MediaUnavailableError, match=r"images\[0\]: refused"):
        fetcher(Web(), authorization=token).fetch("/data/upload/1/a.png", field="images[0]")


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/admin",
        "http://localhost:6379/",
        "http://10.0.0.5/",
        "//evil.com/a.png",
        "file:///etc/passwd",
        "http://user@images.example.com/",
        "http://[::ffff:127.0.0.1]/",
        "gopher://images.example.com/",
    ],
)
def test_redirect_is_checked_like_the_first_url(location):
    web = Web(page=httpx.Response(302, headers={"location": location}))
    with pytest.raises(ForbiddenAddressError):
        fetcher(web).fetch("https://images.example.com/a.png")
    assert len(web.requests) == 1


@pytest.mark.parametrize("location", ["http://[::1", "http://images.example.com:99999/", "http://"])
def test_redirect_that_is_no_url_is_refused(location):
    web = Web(page=httpx.Response(302, headers={"location": location}))
    with pytest.raises(MediaError):
        fetcher(web).fetch("https://images.example.com/a.png")
    assert len(web.requests) == 1


@pytest.mark.parametrize(("redirects", "is_allowed"), [(3, True), (4, False)])
def test_redirects_are_counted(redirects, is_allowed):
    def page(request):
        step = int(request.url.path[1:])
        return (
            answer()(request)
            if step == redirects
            else httpx.Response(307, headers={"location": f"/{step + 1}"})
        )

    web = Web(page=page)
    if is_allowed:
        fetcher(web).fetch("https://images.example.com/0")
        assert len(web.requests) == 4
    else:
        with pytest.raises(MediaUnavailableError, match="at most 3 redirects"):
            fetcher(web).fetch("https://images.example.com/0")


def test_name_that_resolves_to_a_private_address_later_is_refused():
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    web = Web(page=httpx.Response(302, headers={"location": "https://rebind.test/b.png"}))
    media = MediaFetcher(
        hosts=("*",),
        resolve=lambda host, port: next(answers),
        transport=httpx.MockTransport(web),
    )
    with pytest.raises(ForbiddenAddressError, match=r"127\.0\.0\.1, which is not public"):
        media.fetch("https://rebind.test/a.png")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://images.example.com/a.png",
        "/etc/passwd",
        "/api/projects/1/",
        "/data/../api/users/",
        "/data/%2e%2e/api/users/",
        "/data/%252e%252e/api/users/",
        "//evil.com/a.png",
        "a.png",
        "C:\\a.png",
        "http://evil.com/a.png",
    ],
)
def test_url_that_is_none_of_ours_is_refused_before_any_request(url):
    web = Web(page=answer())
    with pytest.raises(ForbiddenAddressError, match="^tasks"):
        fetcher(web).fetch(url, field="tasks[0].data.images[0]")
    assert not web.requests


def test_path_without_label_studio_says_which_setting_is_missing():
    with pytest.raises(MediaUnavailableError, match="LABEL_STUDIO_URL"):
        MediaFetcher().fetch("/data/upload/1/a.png")


@pytest.mark.parametrize("sent", [{}, {"content-length": "10"}])
def test_body_is_cut_off_at_the_limit_whatever_its_length_says(sent):
    produced = []

    def endless():
        for _ in range(1000):
            produced.append(1)
            yield bytes(1000)

    response = httpx.Response(200, content=endless(), headers={"content-type": "image/png"} | sent)
    limits = MediaLimits(max_bytes=4000)
    with pytest.raises(MediaTooLargeError, match="4000 bytes"):
        fetcher(Web(page=response), limits=limits).fetch("/data/upload/1/a.png")
    assert len(produced) < 10


def test_body_shorter_than_announced_is_refused():
    response = httpx.Response(200, content=iter([picture()]), headers={"content-length": "9999"})
    with pytest.raises(MediaUnavailableError, match="expected 9999 bytes"):
        fetcher(Web(page=response)).fetch("/data/upload/1/a.png")


def test_slow_body_is_given_up():
    limits = MediaLimits(timeout_s=0.0)
    with pytest.raises(MediaUnavailableError, match="within 0 s"):
        fetcher(Web(page=answer()), limits=limits).fetch("/data/upload/1/a.png")


def test_no_single_wait_lasts_beyond_the_time_of_one_image():
    web = Web(page=answer())
    fetcher(web, limits=MediaLimits(timeout_s=2.0)).fetch("/data/upload/1/a.png")
    fetcher(web).fetch("/data/upload/1/a.png")
    short, normal = (request.extensions["timeout"] for request in web.requests)
    assert 0.0 < short["read"] <= 2.0
    assert 0.0 < short["connect"] <= 2.0
    assert (normal["read"], normal["connect"]) == (10.0, 3.0)


def test_silent_host_is_given_up_after_the_time_of_one_image():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        media = MediaFetcher(label_studio_url=url, limits=MediaLimits(timeout_s=0.2))
        began = time.monotonic()
        with pytest.raises(MediaUnavailableError, match="within 0.2 s"):
            media.fetch("/data/upload/1/a.png")
        assert time.monotonic() - began < 5
        media.close()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (httpx.ConnectError("refused"), "cannot be reached"),
        (httpx.RemoteProtocolError("nonsense"), "cannot be reached"),
        (httpx.ConnectTimeout("slow"), "within 30 s"),
        (httpx.ReadTimeout("slow"), "within 30 s"),
    ],
)
def test_broken_connection(failure, message):
    def page(request):
        raise failure

    with pytest.raises(MediaUnavailableError, match=message):
        fetcher(Web(page=page)).fetch("/data/upload/1/a.png")


def group_task(*urls, **more):
    fields = tuple(f"tasks[0].data.images[{i}]" for i in range(len(urls)))
    return Task(id=1, project_id=1, image_urls=urls, image_fields=fields, **more)


def test_group_has_its_images_in_order():
    web = Web(**{"/data/a": answer(picture((4, 4))), "/data/b": answer(picture((5, 3)))})
    group = fetcher(web).fetch_group(group_task("/data/a", "/data/b"))
    assert group.sizes_hw == ((4, 4), (3, 5))


def test_group_error_names_the_image():
    web = Web(**{"/data/a": answer(), "/data/b": answer(status=404)})
    with pytest.raises(MediaError, match=r"tasks\[0\]\.data\.images\[1\]: the host answered 404"):
        fetcher(web).fetch_group(group_task("/data/a", "/data/b"))


def test_an_error_names_the_file_and_tells_no_signature():
    web = Web(**{"/data/upload/1/a b.png": answer(status=500)})
    with pytest.raises(MediaError, match=r"the host answered 500 for a b\.png$"):
        fetcher(web).fetch_group(group_task("/data/upload/1/a b.png?signature=0123"))


def test_task_with_a_problem_is_refused():
    with pytest.raises(InvalidTaskError, match="no images"):
        fetcher(Web()).fetch_group(group_task(problem="no images"))


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("https://images.example.com/a.png", {}, "images.example.com does not let"),
        ("/data/upload/1/a.png", {"authorization": None}, "set LABEL_STUDIO_API_KEY"),
        ("/data/upload/1/a.png", {}, "check LABEL_STUDIO_API_KEY"),
    ],
)
def test_a_refusal_blames_whoever_refused(url, options, message):
    with pytest.raises(MediaUnavailableError, match=message) as caught:
        fetcher(Web(page=answer(status=403)), **options).fetch(url)
    assert ("API_KEY" in str(caught.value)) == ("/data/" in url)


def test_no_cookie_is_kept_or_sent():
    def page(request):
        return answer(set_cookie="sessionid=secret; Path=/")(request)

    web = Web(page=page)
    media = MediaFetcher(
        label_studio_url=STUDIO,
        authorization=Token(),
        hosts=("images.example.com:8080", "other.example.com:8080"),
        resolve=lambda host, port: ["93.184.216.34" if "example" in host else "10.0.0.5"],
        transport=httpx.MockTransport(web),
    )
    hosts = (STUDIO, "http://images.example.com:8080", "http://other.example.com:8080", STUDIO)
    for start in hosts:
        media.fetch(f"{start}/data/a.png")
    assert [request.headers.get("cookie") for request in web.requests] == [None] * 4


def test_a_redirect_does_not_hand_on_a_cookie():
    steps = itertools.count()

    def page(request):
        if next(steps):
            return answer()(request)
        headers = {"location": "/b.png", "set-cookie": "a=b"}
        return httpx.Response(302, headers=headers)

    web = Web(page=page)
    fetcher(web).fetch("https://images.example.com/a.png")
    assert "cookie" not in web.requests[1].headers


def test_requests_do_not_look_like_those_of_a_library():
    def page(request):
        is_refused = "python" in request.headers["user-agent"].lower()
        return answer(status=403 if is_refused else 200)(request)

    assert fetcher(Web(page=page)).fetch("https://images.example.com/a.png").shape == (6, 8, 3)
