"""Requests of one kind beyond their seats are answered at once, the others as ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Blueprint, Flask

from backend.serving.failures import answer_failures
from backend.serving.request_checks import ConcurrencyLimit

LIMIT = 3


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
    app = Flask("seats")
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


def test_requests_beyond_the_seats_take_no_thread(client, gate, drawing):
    with ThreadPoolExecutor(LIMIT) as threads:
        seated = [threads.submit(lambda: client().get("/draw")) for _ in range(LIMIT)]
        assert all(drawing.acquire(timeout=30) for _ in range(LIMIT))
        for _ in range(5):
            refused = client().get("/draw")
            assert refused.status_code == 503
            assert refused.get_json()["error"] == "BusyError"
            assert int(refused.headers["Retry-After"]) > 0
        assert client().get("/health").text == "UP"
        gate.set()
        assert {answer.result().text for answer in seated} == {"drawn"}


def test_seats_are_free_again_however_a_request_ended(client, gate):
    gate.set()
    for _ in range(2 * LIMIT):
        assert client().get("/fail").status_code == 500
        assert client().get("/draw").status_code == 200
        assert client().post("/draw").status_code == 405
