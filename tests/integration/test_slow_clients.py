"""Clients that send slowly, never, too much, or do not listen: everybody else is answered.

More of them than the server has threads. Nothing here is timed: before an answer could come because
a slow client was given up, the request of the others would have failed.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from contextlib import ExitStack, contextmanager, suppress

import pytest

from backend.cli.label_studio_process import free_port
from backend.serving.http_request import HEAD_S
from research.label_studio.sample import event_body
from tests.integration.test_server import JSON, serve, server_process

CLIENTS = 40
PATIENCE_S = HEAD_S / 2

JSON_HEADER = b"Content-Type: application/json\r\nConnection: close\r\n"
HEAD = b"POST /webhook HTTP/1.1\r\nHost: x\r\n"
OPENINGS = {
    "nothing": b"",
    "one byte": b"P",
    "half a header": b"POST /webhook HTTP/1.1\r\nX-Slow: ",
    "headers without an end": HEAD + b"Content-Length: 10\r\n",
    "half a body": HEAD + b"Content-Length: 10\r\n\r\n{",
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "waits to be asked": HEAD + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
    "kept alive": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "does not hang up": b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "refused, does not hang up": b"NONSENSE\r\n\r\n",
    "body too large": HEAD + b"Content-Length: 999999999\r\n\r\n{",
}


@contextmanager
def clients(port, opening):
    """Clients that have sent an opening."""
    open_ones = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    try:
        for one in open_ones:
            one.sendall(opening)
        yield open_ones
    finally:
        for one in open_ones:
            one.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    port = free_port()
    with serve(port, tmp_path_factory.mktemp("slow")) as (server, _process):
        yield server


def answers_others(server, number):
    body = json.dumps(event_body(number, rle=[1] * 100)).encode()
    assert server.ask("GET", "/health", timeout_s=PATIENCE_S).status == 200
    assert server.ask("POST", "/webhook", body, JSON, timeout_s=PATIENCE_S).status == 201


@pytest.mark.parametrize("name", OPENINGS)
def test_slow_clients_hold_nobody_up(running, name):
    number = 1000 + 10 * list(OPENINGS).index(name)
    with clients(running.port, OPENINGS[name]) as slow:
        answers_others(running, number)
        for byte in (b"a", b"b"):
            for one in slow:
                with suppress(OSError):  # the server may have closed it
                    one.send(byte)
            answers_others(running, number + byte[0])


def test_clients_that_do_not_listen_hold_nobody_up(running):
    """Each asks for far more than its own and the server's socket buffers hold."""
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1500
    deaf = []
    try:
        for _ in range(CLIENTS):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", running.port))
            one.sendall(asked)
            deaf.append(one)
        answers_others(running, 5000)
    finally:
        for one in deaf:
            one.close()


def test_more_idle_connections_than_the_server_keeps_shut_nobody_out(running):
    idle = []
    try:
        idle.extend(socket.create_connection(("127.0.0.1", running.port)) for _ in range(700))
        answers_others(running, 6000)
    finally:
        for one in idle:
            one.close()


def test_a_request_that_takes_too_long_is_told_so_and_closed(running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=3 * HEAD_S) as slow:
        slow.sendall(OPENINGS["half a header"])
        answer = b"".join(iter(lambda: slow.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["field"] == "headers"


def ask_pieces(port, pieces):
    """The answers to bytes that are sent one piece after the other."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_requests_are_understood_however_they_are_cut(running):
    body = json.dumps(event_body(7001, rle=[1] * 100)).encode()
    length = HEAD + JSON_HEADER + b"Content-Length: %d\r\n\r\n" % len(body) + body
    body = json.dumps(event_body(7002, rle=[1] * 100)).encode()
    chunked = HEAD + JSON_HEADER + b"Transfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(body), 50):
        piece = body[at : at + 50]
        chunked += b"%X\r\n%s\r\n" % (len(piece), piece)
    chunked += b"0\r\n\r\n"
    for request in (length, chunked):
        answer = ask_pieces(
            running.port, [request[at : at + 13] for at in range(0, len(request), 13)]
        )
        assert answer.startswith(b"HTTP/1.1 201 "), answer


def test_requests_sent_at_once_are_answered_one_after_the_other(running):
    one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    event = json.dumps(event_body(7003, rle=[1] * 100)).encode()
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(event) + event
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(one * 20 + post + post + last)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", answer)
    assert statuses == [b"200"] * 20 + [b"201", b"200", b"200"]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(running):
    body = json.dumps(event_body(7004, rle=[1] * 100)).encode()
    head = HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(head % len(body))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 201 ")


BOUNDED_SERVER = """
import sys
from backend._wsgi import run_server
from backend.settings import load_settings

run_server(load_settings(
    port=int(sys.argv[1]), data_dir=sys.argv[2], weights=sys.argv[2], trainer=False,
    max_body_bytes=2_000_000, basic_auth_user="user", basic_auth_password="word",
))
"""
RIGHT = b"Authorization: Basic " + base64.b64encode(b"user:word") + b"\r\n"
LARGE = b"Content-Length: 2000000\r\n\r\n"


def test_unfinished_bodies_hold_little_memory_and_only_with_credentials(tmp_path):
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(server_process(port, "-c", BOUNDED_SERVER, str(port), str(tmp_path)))

        def connect(data):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            stack.enter_context(one).sendall(data)
            return one

        assert connect(HEAD + LARGE).recv(12) == b"HTTP/1.1 401"
        # Three of the largest may arrive at once: the fourth takes the place of the first.
        unfinished = HEAD + RIGHT + LARGE + b"[" * 1_900_000
        large = [connect(unfinished) for _ in range(4)]
        assert large[0].recv(12) == b"HTTP/1.1 503"
        large[1].sendall(b"[" * 100_000)
        assert large[1].recv(12) == b"HTTP/1.1 400"
        body = json.dumps(event_body(1, rle=[1] * 100)).encode()
        small = HEAD + RIGHT + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert connect(small).recv(12) == b"HTTP/1.1 201"
