"""Who may use the backend, whatever bytes the header holds; and how many requests at once."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Blueprint, Flask
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UnauthorizedError
from backend.serving.failures import answer_failures
from backend.serving.request_checks import ConcurrencyLimit, Credentials
from backend.settings import load_settings

LIMIT = 3


def basic(text: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(text.encode(encoding)).decode()


def test_the_right_credentials_are_accepted():
    Credentials("studio", "s3cret:with:colons").check(basic("studio:s3cret:with:colons"))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_other_letters_are_accepted_in_both_spellings(encoding):
    Credentials("müller", "pässwörd").check(basic("müller:pässwörd", encoding))


def test_letters_outside_latin_1_are_accepted():
    Credentials("studio", "пароль").check(basic("studio:пароль"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic \xe9\xe9",
        "Basic " + "A" * 100_000,
        "Bearer abc",
        "Token abc",
        basic("studio:wrong"),
        basic("studio"),
        basic("other:s3cret"),
        basic("studio:s3cret "),
        basic("stüdio:s3cret", "latin-1"),
        basic(":"),
    ],
)
def test_everything_else_is_refused(header):
    with pytest.raises(UnauthorizedError) as caught:
        Credentials("studio", "s3cret").check(header)
    assert caught.value.field == "header Authorization"


@given(st.text())
def test_no_header_breaks_the_comparison(header):
    with pytest.raises(UnauthorizedError):
        Credentials("studio", "s3cret").check(header)


def test_without_settings_everybody_may():
    assert Credentials.of(load_settings()) is None
    guarded = Credentials.of(load_settings(basic_auth_user="a", basic_auth_password="b"))
    assert guarded is not None
    guarded.check(basic("a:b"))


@pytest.fixture
def gate():
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.fixture
def drawing():
    """Released once by every request that began to draw."""
    return threading.Semaphore(0)


@pytest.fixture
def client(gate, drawing):
    app = Flask("limited")
    answer_failures(app)
    app.add_url_rule("/health", view_func=lambda: "UP")
    pictures = Blueprint("pictures", "pictures")

    @pictures.get("/draw")
    def draw():
        drawing.release()
        assert gate.wait(30)
        return "drawn"

    @pictures.get("/fail")
    def fail():
        raise RuntimeError("on purpose")

    ConcurrencyLimit(LIMIT, "pictures").guard(pictures)
    app.register_blueprint(pictures)
    return app.test_client


def test_requests_beyond_the_limit_take_no_thread(client, gate, drawing):
    with ThreadPoolExecutor(LIMIT) as threads:
        served = [threads.submit(lambda: client().get("/draw")) for _ in range(LIMIT)]
        assert all(drawing.acquire(timeout=30) for _ in range(LIMIT))
        for _ in range(5):
            refused = client().get("/draw")
            assert refused.status_code == 503
            assert refused.get_json()["error"] == "BusyError"
            assert int(refused.headers["Retry-After"]) > 0
        assert client().get("/health").text == "UP"
        gate.set()
        assert {answer.result().text for answer in served} == {"drawn"}


def test_a_place_is_free_again_however_its_request_ended(client, gate):
    gate.set()
    for _ in range(2 * LIMIT):
        assert client().get("/fail").status_code == 500
        assert client().get("/draw").status_code == 200
        assert client().post("/draw").status_code == 405
