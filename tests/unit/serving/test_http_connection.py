"""A connection on which a request thread never waits, over real sockets."""

from __future__ import annotations

import socket

import pytest

from backend.serving.http_connection import ANSWER_S, ClientSocket, client_disconnected
from backend.serving.http_request import ReceiveLimits

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def pair():
    """A client_socket, and its client's socket."""
    mine, theirs = socket.socketpair()
    client_socket = ClientSocket(mine, ReceiveLimits())
    theirs.settimeout(30)
    yield client_socket, theirs
    client_socket.close()
    theirs.close()


def test_an_answer_leaves_as_fast_as_the_client_takes_it_and_whole(pair):
    client_socket, client = pair
    answer = bytes(range(256)) * 40_000  # more than socket buffers hold
    client_socket.sendall(b"head")
    assert client_socket.send(answer) == len(answer)
    assert not client_socket.deliver()
    taken = b""
    while not client_socket.deliver():
        taken += client.recv(1_000_000)
    client_socket.hang_up()
    taken += b"".join(iter(lambda: client.recv(1_000_000), b""))
    assert taken == b"head" + answer


def test_the_deadline_of_an_answer_grows_with_what_is_left(pair):
    client_socket, _ = pair
    soon = client_socket.answer_deadline()
    client_socket.sendall(bytes(50 * 2**20))
    assert client_socket.answer_deadline() - soon > 100 > ANSWER_S


def test_nothing_to_read_is_no_wait_and_no_end(pair):
    client_socket, _ = pair
    assert client_socket.receive()
    assert client_socket.recv(100) == b""
    assert client_socket.watch()
    assert not client_socket.is_client_gone


def test_what_a_client_sends_behind_a_request_becomes_the_next_one(pair):
    client_socket, client = pair
    client.sendall(GET + GET[:5])
    client_socket.receive()
    assert client_socket.request.is_whole
    assert client_socket.recv(8192) == GET + GET[:5]
    client.sendall(GET[5:10])
    assert client_socket.watch()
    client_socket.renew(unread=GET[:5])
    client.sendall(GET[10:])
    client_socket.receive()
    assert client_socket.request.is_whole
    assert client_socket.recv(8192) + client_socket.recv(8192) + client_socket.recv(8192) == GET


@pytest.mark.parametrize("is_served", [False, True])
def test_a_client_that_leaves_is_noticed(pair, is_served):
    client_socket, client = pair
    is_client_gone = client_disconnected({"gunicorn.socket": client_socket})
    assert not is_client_gone()
    client.close()
    assert not (client_socket.watch() if is_served else client_socket.receive())
    assert is_client_gone()


def test_under_another_server_nobody_leaves():
    assert not client_disconnected({})()
    assert not client_disconnected({"gunicorn.socket": socket.socket})()


def test_a_client_that_talks_without_listening_is_not_read_for_ever(pair):
    client_socket, client = pair
    client.setblocking(False)
    sent = 0
    while client_socket.watch():
        sent += client.send(bytes(8192))
    assert sent < 1_000_000
