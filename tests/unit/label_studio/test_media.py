"""Fetching images: where they are, who gets the token, and every limit."""

from __future__ import annotations

import base64
import itertools
import os
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
from backend.label_studio.names import StudioNames
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


PUBLIC = "https://label.example.com"


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


def test_a_shared_folder_serves_local_files_under_any_name(shared_folder):
    web = Web()
    media = fetcher(web, names=StudioNames([PUBLIC]), local_files_root=shared_folder)
    for start in (PUBLIC, STUDIO):
        assert media.fetch(f"{start}/data/local-files/?d=in/a%20b.png").shape == (6, 8, 3)
    assert not web.requests


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
