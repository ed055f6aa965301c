"""Where a request ends, and how long it may take, however its bytes are cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.serving.http_request import (
    BODY_S,
    BYTES_PER_S,
    HEAD_BYTES,
    HEAD_S,
    Arrival,
    ArrivalLimits,
)

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /webhook HTTP/1.1\r\nHost: x\r\ncontent-length : 11\r\n\r\nhello world"
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\n0\r\n\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
)


def fed(data, step=None, limits=None):
    """Feeds pieces of `step` bytes; returns the arrival and how many bytes it took to be whole."""
    arrival = Arrival(limits or ArrivalLimits())
    step = step or len(data)
    for at in range(0, len(data), step):
        arrival.feed(data[at : at + step], 0.0)
        if arrival.is_whole:
            return arrival, min(at + step, len(data))
    return arrival, None


@pytest.mark.parametrize("request_bytes", [GET, POST, CHUNKED])
def test_a_request_is_whole_with_its_last_byte_and_not_before(request_bytes):
    arrival, at = fed(request_bytes, 1)
    assert at == len(request_bytes)
    assert not arrival.is_cut
    assert fed(request_bytes[:-1])[1] is None


@given(st.sampled_from([GET, POST, CHUNKED]), st.integers(1, 80), st.binary(max_size=30))
def test_pieces_of_any_size_tell_the_same_and_nothing_is_lost(request_bytes, step, behind):
    arrival, at = fed(request_bytes + behind, step)
    assert at is not None
    assert not arrival.is_cut
    arrival.feed((request_bytes + behind)[at:], 0.0)
    taken = b"".join(iter(lambda: arrival.take(7), b""))
    assert taken == request_bytes + behind


@pytest.mark.parametrize("pause_s", [0.5, 4.0, 9.0])
def test_headers_have_one_deadline_however_often_a_byte_comes(pause_s):
    arrival, now = Arrival(ArrivalLimits()), 100.0
    for byte in GET:
        arrival.feed(bytes([byte]), now)
        if now + pause_s > 100.0 + HEAD_S:
            break
        now += pause_s
    assert not arrival.is_whole
    assert arrival.deadline(0.0, 20.0) == 100.0 + HEAD_S


@pytest.mark.parametrize("head_end", [POST[:-11], CHUNKED[: CHUNKED.index(b"5;a")]])
def test_a_body_that_trickles_has_a_deadline_too(head_end):
    arrival = Arrival(ArrivalLimits())
    arrival.feed(head_end, 100.0)
    arrival.feed(b"1", 104.0)
    arrival.feed(b"0", 108.0)
    assert 100.0 + BODY_S <= arrival.deadline(0.0, 20.0) < 100.0 + BODY_S + 0.01


def test_a_large_body_may_take_longer_the_more_of_it_is_here():
    arrival = Arrival(ArrivalLimits())
    head = b"POST / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n"
    arrival.feed(head + b"x" * (40 * BYTES_PER_S), 0.0)
    assert BODY_S + 40 <= arrival.deadline(0.0, 20.0) < BODY_S + 41


def test_a_connection_without_a_request_may_idle():
    assert Arrival(ArrivalLimits()).deadline(7.0, 20.0) == 27.0


@pytest.mark.parametrize("length", [b"1001", b"999999999999999999"])
def test_a_body_over_the_limit_is_not_received(length):
    head = b"POST / HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n"
    arrival, at = fed(head + b"x" * 10, len(head), ArrivalLimits(max_body_bytes=1000))
    assert at == len(head)
    assert arrival.is_cut


def test_chunks_over_the_limit_are_not_received():
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    limits = ArrivalLimits(max_body_bytes=1000)
    arrival, _ = fed(head + b"3E8\r\n" + b"x" * 1000 + b"\r\n1\r\nx", 10, limits)
    assert arrival.is_cut


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-1\r\n", b"f" * 9000])
def test_broken_chunks_end_the_wait(broken):
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert fed(head + broken)[0].is_cut


def test_who_may_not_send_a_body_is_not_listened_to():
    limits = ArrivalLimits(admits=lambda given: given == "Basic right")
    for authorization, is_cut in [
        (b"", True),
        (b"Authorization: Basic wrong\r\n", True),
        (b"AUTHORIZATION:Basic right\r\n", False),
    ]:
        head = b"POST / HTTP/1.1\r\n" + authorization + b"Content-Length: 9\r\n\r\n"
        assert fed(head, limits=limits)[0].is_cut is is_cut
        assert fed(GET, limits=limits)[0].is_cut is False


@pytest.mark.parametrize("strange", [b"-5", b"5, 5", b"x", b"5\r\nContent-Length: 6", b"9" * 30])
def test_what_the_parser_refuses_is_not_waited_for(strange):
    head = b"POST / HTTP/1.1\r\nContent-Length: " + strange + b"\r\n\r\n"
    assert fed(head)[0].is_whole


def test_headers_without_an_end_are_noticed():
    arrival, _ = fed(b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES)
    assert arrival.is_head_too_long
    assert not arrival.is_line_too_long
    assert fed(b"GET /" + b"y" * HEAD_BYTES)[0].is_line_too_long
    assert fed(b"GET / HTTP/1.1\nHost: x\n\n")[0].is_whole


def test_a_client_that_leaves_in_mid_body_ends_the_wait():
    arrival, _ = fed(POST[:-3])
    arrival.end()
    assert arrival.is_whole
    assert arrival.is_cut
    arrival, _ = fed(GET[:-3])
    arrival.end()
    assert not arrival.is_whole


def test_who_waits_before_sending_a_body_is_told_to_go_on():
    expecting = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert fed(expecting)[0].expects_continue
    assert not fed(expecting, limits=ArrivalLimits(max_body_bytes=4))[0].expects_continue
