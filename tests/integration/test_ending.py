"""What a server that is about to end answers those who wait: the answer, or the way to another."""

from __future__ import annotations

import threading
import time

import pytest

from tests.integration.conftest import payload

CLICK = payload("predict_interactive_ui_keypoints_repeater")
OPENED, BATCH = payload("predict_open_task"), payload("predict_batch")
SOON_S = 20.0


@pytest.fixture
def asked(app, predictor):
    """Asks in a thread of its own, and waits until the model has been asked."""
    predictor.gate.clear()
    threads = []

    def ask(body):
        replies, before = [], predictor.asked
        client = app.test_client()
        thread = threading.Thread(target=lambda: replies.append(client.post("/predict", json=body)))
        thread.start()
        threads.append(thread)
        deadline = time.monotonic() + SOON_S
        while predictor.asked == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        def reply():
            thread.join(SOON_S)
            return replies[0]

        return reply

    yield ask
    predictor.gate.set()
    for thread in threads:
        thread.join(SOON_S)


@pytest.mark.parametrize("body", [CLICK, OPENED], ids=["click", "opened"])
def test_what_somebody_waits_for_is_finished(app, client, predictor, asked, body):
    reply = asked(body)
    app.extensions["calico"].stop_waiting()
    refused = client.post("/predict", json=body)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    predictor.gate.set()
    answered = reply()
    assert answered.status_code == 200
    assert len(predictor.seen) == predictor.asked == 1
    assert "result" in answered.get_json()["results"][0]


def test_a_batch_is_answered_not_yet_at_once(app, asked):
    reply = asked(BATCH)
    app.extensions["calico"].stop_waiting()
    items = reply().get_json()["results"]
    assert items == [{"model_version": "fake-00000001"}] * len(BATCH["tasks"])


def test_a_click_that_is_not_done_in_time_is_sent_elsewhere(app, asked):
    reply = asked(CLICK)
    app.extensions["calico"].service.close()
    assert (reply().status_code, reply().headers["Retry-After"]) == (503, "30")
