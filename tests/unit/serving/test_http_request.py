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
    IncomingRequest,
    ReceiveLimits,
)

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /webhook HTTP/1.1\r\nHost: x\r\ncontent-length : 11\r\n\r\nhello world"
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\n0\r\n\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
)


def fed(data, step=None, limits=None):
    """Feeds pieces of `step` bytes; returns the request and how many bytes it took to be whole."""
    request = IncomingRequest(limits or ReceiveLimits())
    step = step or len(data)
    for at in range(0, len(data), step):
        request.feed(data[at : at + step], 0.0)
        if request.is_whole:
            return request, min(at + step, len(data))
    return request, None


@pytest.mark.parametrize("request_bytes", [GET, POST, CHUNKED])
def test_a_request_is_whole_with_its_last_byte_and_not_before(request_bytes):
    request, at = fed(request_bytes, 1)
    assert at == len(request_bytes)
    assert not request.is_truncated
    assert fed(request_bytes[:-1])[1] is None


@given(st.sampled_from([GET, POST, CHUNKED]), st.integers(1, 80), st.binary(max_size=30))
def test_pieces_of_any_size_tell_the_same_and_nothing_is_lost(request_bytes, step, behind):
    request, at = fed(request_bytes + behind, step)
    assert at is not None
    assert not request.is_truncated
    request.feed((request_bytes + behind)[at:], 0.0)
    taken = b"".join(iter(lambda: request.take(7), b""))
    assert taken == request_bytes + behind


@pytest.mark.parametrize("pause_s", [0.5, 4.0, 9.0])
def test_headers_have_one_deadline_however_often_a_byte_comes(pause_s):
    request, now = IncomingRequest(ReceiveLimits()), 100.0
    for byte in GET:
        request.feed(bytes([byte]), now)
        if now + pause_s > 100.0 + HEAD_S:
            break
        now += pause_s
    assert not request.is_whole
    assert request.deadline(0.0, 20.0) == 100.0 + HEAD_S


@pytest.mark.parametrize("head_end", [POST[:-11], CHUNKED[: CHUNKED.index(b"5;a")]])
def test_a_body_that_trickles_has_a_deadline_too(head_end):
    request = IncomingRequest(ReceiveLimits())
    request.feed(head_end, 100.0)
    request.feed(b"1", 104.0)
    request.feed(b"0", 108.0)
    assert 100.0 + BODY_S <= request.deadline(0.0, 20.0) < 100.0 + BODY_S + 0.01


def test_a_large_body_may_take_longer_the_more_of_it_is_here():
    request = IncomingRequest(ReceiveLimits())
    head = b"POST / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n"
    request.feed(head + b"x" * (40 * BYTES_PER_S), 0.0)
    assert BODY_S + 40 <= request.deadline(0.0, 20.0) < BODY_S + 41


def test_a_connection_without_a_request_may_idle():
    assert IncomingRequest(ReceiveLimits()).deadline(7.0, 20.0) == 27.0


@pytest.mark.parametrize("length", [b"1001", b"999999999999999999"])
def test_a_body_over_the_limit_is_not_received(length):
    head = b"POST / HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n"
    request, at = fed(head + b"x" * 10, len(head), ReceiveLimits(max_body_bytes=1000))
    assert at == len(head)
    assert request.is_truncated


def test_chunks_over_the_limit_are_not_received():
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    limits = ReceiveLimits(max_body_bytes=1000)
    request, _ = fed(head + b"3E8\r\n" + b"x" * 1000 + b"\r\n1\r\nx", 10, limits)
    assert request.is_truncated


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-1\r\n", b"f" * 9000])
def test_broken_chunks_end_the_wait(broken):
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert fed(head + broken)[0].is_truncated


def test_who_may_not_send_a_body_is_not_listened_to():
    limits = ReceiveLimits(may_send_body=lambda given: given == "Basic right")
    for authorization, is_truncated in [
        (b"", True),
        (b"Authorization: Basic wrong\r\n", True),
        (b"AUTHORIZATION:Basic right\r\n", False),
    ]:
        head = b"POST / HTTP/1.1\r\n" + authorization + b"Content-Length: 9\r\n\r\n"
        assert fed(head, limits=limits)[0].is_truncated is is_truncated
        assert fed(GET, limits=limits)[0].is_truncated is False


@pytest.mark.parametrize("strange", [b"-5", b"5, 5", b"x", b"5\r\nContent-Length: 6", b"9" * 30])
def test_what_the_parser_refuses_is_not_waited_for(strange):
    head = b"POST / HTTP/1.1\r\nContent-Length: " + strange + b"\r\n\r\n"
    assert fed(head)[0].is_whole


def test_headers_without_an_end_are_noticed():
    request, _ = fed(b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES)
    assert request.is_head_too_long
    assert not request.is_line_too_long
    assert fed(b"GET /" + b"y" * HEAD_BYTES)[0].is_line_too_long
    assert fed(b"GET / HTTP/1.1\nHost: x\n\n")[0].is_whole


def test_a_client_that_leaves_in_mid_body_ends_the_wait():
    request, _ = fed(POST[:-3])
    request.end()
    assert request.is_whole
    assert request.is_truncated
    request, _ = fed(GET[:-3])
    request.end()
    assert not request.is_whole


def test_who_waits_before_sending_a_body_is_told_to_go_on():
    expecting = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert fed(expecting)[0].expects_continue
    assert not fed(expecting, limits=ReceiveLimits(max_body_bytes=4))[0].expects_continue
