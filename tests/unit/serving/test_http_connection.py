"""A connection on which a request thread never waits, over real sockets."""

from __future__ import annotations

import socket

import pytest

from backend.serving.http_connection import ANSWER_S, Line, left_of
from backend.serving.http_request import ArrivalLimits

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def pair():
    """A line, and its client's socket."""
    mine, theirs = socket.socketpair()
    line = Line(mine, ArrivalLimits())
    theirs.settimeout(30)
    yield line, theirs
    line.close()
    theirs.close()


def test_an_answer_leaves_as_fast_as_the_client_takes_it_and_whole(pair):
    line, client = pair
    answer = bytes(range(256)) * 40_000  # more than socket buffers hold
    line.sendall(b"head")
    assert line.send(answer) == len(answer)
    assert not line.deliver()
    taken = b""
    while not line.deliver():
        taken += client.recv(1_000_000)
    line.hang_up()
    taken += b"".join(iter(lambda: client.recv(1_000_000), b""))
    assert taken == b"head" + answer


def test_the_deadline_of_an_answer_grows_with_what_is_left(pair):
    line, _ = pair
    soon = line.answer_deadline()
    line.sendall(bytes(50 * 2**20))
    assert line.answer_deadline() - soon > 100 > ANSWER_S


def test_nothing_to_read_is_no_wait_and_no_end(pair):
    line, _ = pair
    assert line.receive()
    assert line.recv(100) == b""
    assert line.watch()
    assert not line.has_left


def test_what_a_client_sends_behind_a_request_becomes_the_next_one(pair):
    line, client = pair
    client.sendall(GET + GET[:5])
    line.receive()
    assert line.arrival.is_whole
    assert line.recv(8192) == GET + GET[:5]
    client.sendall(GET[5:10])
    assert line.watch()
    line.renew(unread=GET[:5])
    client.sendall(GET[10:])
    line.receive()
    assert line.arrival.is_whole
    assert line.recv(8192) + line.recv(8192) + line.recv(8192) == GET


@pytest.mark.parametrize("is_served", [False, True])
def test_a_client_that_leaves_is_noticed(pair, is_served):
    line, client = pair
    has_left = left_of({"gunicorn.socket": line})
    assert not has_left()
    client.close()
    assert not (line.watch() if is_served else line.receive())
    assert has_left()


def test_under_another_server_nobody_leaves():
    assert not left_of({})()
    assert not left_of({"gunicorn.socket": socket.socket})()


def test_a_client_that_talks_without_listening_is_not_read_for_ever(pair):
    line, client = pair
    client.setblocking(False)
    sent = 0
    while line.watch():
        sent += client.send(bytes(8192))
    assert sent < 1_000_000
