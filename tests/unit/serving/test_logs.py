"""Log lines are JSON and carry the id of their request."""

from __future__ import annotations

import io
import json
import logging

import pytest

from backend.serving.logs import (
    JsonFormatter,
    LogFormat,
    TextFormatter,
    new_request_id,
    request_id,
)


@pytest.fixture
def log():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("calico-test")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel("INFO")
    yield logger, lambda: json.loads(stream.getvalue().splitlines()[-1])
    logger.handlers[:] = []


def test_a_line_has_the_extra_fields_and_the_request(log):
    logger, last = log
    token = request_id.set("abc")
    logger.info('said "%s"', "hi", extra={"event": "greeting", "task": 4})
    request_id.reset(token)
    line = last()
    assert line["message"] == 'said "hi"'
    assert (line["event"], line["task"], line["request_id"]) == ("greeting", 4, "abc")
    assert line["ts"].endswith("+00:00")


def test_a_traceback_stays_on_one_line(log):
    logger, last = log
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    assert "ValueError: broken" in last()["traceback"]
    assert "request_id" not in last()


@pytest.mark.parametrize("offered", [None, "", "a b", "x" * 65, "<script>", "é", "a\n"])
def test_odd_ids_are_replaced(offered):
    fresh = new_request_id(offered)
    assert fresh != offered
    assert len(fresh) == 32


def test_a_harmless_id_is_kept():
    assert new_request_id("Trace-1.2_3") == "Trace-1.2_3"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_people_at_a_terminal_read_text_and_everything_else_gets_json():
    assert LogFormat.AUTO.is_text(Terminal())
    assert not LogFormat.AUTO.is_text(io.StringIO())
    assert LogFormat.TEXT.is_text(io.StringIO())
    assert not LogFormat.JSON.is_text(Terminal())


def test_plain_lines_say_the_next_step_and_keep_every_field(log):
    logger, _ = log
    stream = io.StringIO()
    logger.handlers[0].setStream(stream)
    logger.handlers[0].setFormatter(TextFormatter())
    logger.info("ready at %s", "http://x", extra={"event": "ready", "next_step": "connect"})
    logger.warning("slow", extra={"event": "slow", "ms": 431})
    ready, following, slow = stream.getvalue().splitlines()
    assert ready.endswith("  ready at http://x")
    assert following.split() == ["Next:", "connect"]
    assert slow.endswith("  WARNING slow (ms 431)")
