"""The real process: gunicorn on loopback, killed, stopped and refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.cli.label_studio_process import free_port
from backend.storage.store import open_store
from research.bench.server import BenchError, BenchServer
from research.label_studio.sample import click_body, event_body, predict_body, setup_body
from tests.unit.sources.test_sam import save as save_sam

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}

# A server whose model never ends a prediction by itself.
STUCK_SERVER = """
import sys
from tests.integration.conftest import DrawnImages
from tests.integration.fake_predictor import FakePredictor
from backend._wsgi import Server
from backend.app import create_app
from backend.settings import load_settings

class StuckServer(Server):
    def load(self):
        predictor = FakePredictor()
        predictor.gate.clear()
        settings = load_settings(
            port=int(sys.argv[1]), data_dir=sys.argv[2], refine_clicks=False
        )
        return create_app(settings, load=lambda: predictor, images=DrawnImages())

StuckServer(load_settings(port=int(sys.argv[1]), data_dir=sys.argv[2])).run()
"""


@contextmanager
def server_process(port, *arguments, **variables):
    """A server in a process group of its own, so that the worker dies with it.

    `variables` are those of its environment.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_"))}
    environment["CALICO_COMMIT_TIMEOUT_MS"] = "30000"  # however busy the machine
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    server = BenchServer(port, Path("unused"))
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.ask("GET", "/health", timeout_s=5)
                break
            except BenchError:
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield server, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
        process.wait()


def serve(port, data_dir, **variables):
    broken = data_dir / "broken-weights"  # the server starts, and no time goes into a model
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "model.safetensors").write_bytes(b"")
    command = ["-m", "backend.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    command += ["--no-trainer", "--weights", str(broken), "--log-level", "ERROR"]
    return server_process(port, *command, **variables)


def test_acknowledged_events_survive_kill_9_of_the_server(tmp_path):
    acknowledged = set()
    for round_number in range(2):
        with serve(free_port(), tmp_path) as (server, process):
            _post_until_killed(server, process, round_number * 100_000, acknowledged)
    store = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}")
    kept = {head.annotation_id for head in store.heads(14)}
    store.close()
    assert len(acknowledged) >= 2 * 40
    assert acknowledged <= kept


def _post_until_killed(server, process, first_id, acknowledged):
    enough, before = threading.Event(), len(acknowledged)

    def post(mine):
        for number in range(10_000):
            body = json.dumps(event_body(first_id + number * 4 + mine, rle=[1] * 5000)).encode()
            try:
                reply = server.ask("POST", "/webhook", body, JSON)
            except BenchError:
                return
            if reply.status == 201:
                acknowledged.add(first_id + number * 4 + mine)
            if len(acknowledged) >= before + 40:
                enough.set()

    threads = [threading.Thread(target=post, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()


def test_stopping_answers_who_waits_and_ends_the_process(tmp_path):
    port = free_port()
    with server_process(port, "-c", STUCK_SERVER, str(port), str(tmp_path)) as (server, process):
        replies = []
        body = json.dumps(predict_body([["a.png"], ["b.png"]])).encode()
        waiting = threading.Thread(
            target=lambda: replies.append(server.ask("POST", "/predict", body, JSON))
        )
        waiting.start()
        under_way = b'calico_predict_stage_seconds_count{stage="fetch"} 2.0'
        while under_way not in server.ask("GET", "/metrics").body:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        waiting.join(30)
        assert process.wait(30) == 0
    assert replies[0].status == 200
    assert json.loads(replies[0].body)["results"] == [{"model_version": "fake-00000001"}] * 2


def test_probes_answer_while_every_prediction_seat_is_taken(tmp_path):
    port = free_port()
    with server_process(port, "-c", STUCK_SERVER, str(port), str(tmp_path)) as (server, _process):
        bodies = [
            json.dumps(predict_body([[f"{number}.png"]], first_task_id=number)).encode()
            for number in range(40)
        ]

        def ask(body):
            with pytest.raises(BenchError):
                server.ask("POST", "/predict", body, JSON, timeout_s=3)

        replies = []

        def ask_beyond():
            replies.append(server.ask("POST", "/predict", bodies[-1], JSON, timeout_s=20))

        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies[:24]]
        for thread in threads:
            thread.start()
        while b"calico_queue_depth 22.0" not in server.ask("GET", "/metrics").body:
            time.sleep(0.01)
        # Whoever waited for a seat would wait for the budget of a prediction, 85 s.
        setup = json.dumps(setup_body()).encode()
        for _ in range(20):
            assert server.ask("POST", "/setup", setup, JSON, timeout_s=20).status == 200
            assert server.ask("GET", "/health", timeout_s=20).status == 200
        ask_beyond()
        for thread in threads:
            thread.join()
    assert json.loads(replies[0].body)["results"] == [{"model_version": "fake-00000001"}]


def test_what_was_clicked_is_dropped_when_its_client_leaves(tmp_path):
    port = free_port()
    with server_process(port, "-c", STUCK_SERVER, str(port), str(tmp_path)) as (server, _process):

        def wait_for_depth(depth):
            deadline = time.monotonic() + 60
            while b"calico_queue_depth %d.0" % depth not in server.ask("GET", "/metrics").body:
                assert time.monotonic() < deadline
                time.sleep(0.01)

        def send(body):
            client = socket.create_connection(("127.0.0.1", port))
            data = json.dumps(body).encode()
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(data) + data)
            return client

        batch = send(predict_body([["a.png"], ["b.png"], ["c.png"]]))
        wait_for_depth(1)  # two are looked at
        clicks = [send(click_body(["d.png"], x=number, y=9)) for number in range(1, 4)]
        wait_for_depth(4)
        clicks[0].close()
        wait_for_depth(3)
        for client in (batch, *clicks[1:]):
            client.close()
        wait_for_depth(1)  # what is no click is finished for later


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "CALICO_BASIC_AUTH_USER"),
        (["--port", "99999"], "--port: "),
        (["--data-dir", "/dev/null/x"], "cannot open"),
    ],
)
def test_a_start_that_cannot_work_is_said_in_one_line(tmp_path, arguments, words):
    finished = subprocess.run(
        [sys.executable, "-m", "backend.cli", "serve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CALICO_DATA_DIR": str(tmp_path)},
    )
    assert finished.returncode == 2
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr


HOST = b"Host: x\r\nConnection: close\r\n"


def ask_raw(port, data):
    """Status and body of the answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(data)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_requests_that_break_http_are_refused_in_the_same_form(tmp_path):
    post = b"POST /webhook HTTP/1.1\r\n" + HOST
    cases = {
        b"GET /" + b"x" * 6000 + b" HTTP/1.1\r\n" + HOST + b"\r\n": (414, "path"),
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 10_000 + b"\r\n\r\n": (431, "headers"),
        b"NONSENSE\r\n\r\n": (400, "request line"),
        b"get / HTTP/1.1\r\n" + HOST + b"\r\n": (400, "method"),
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n": (400, "HTTP version"),
        b"GET / HTTP/1.1\r\n" + HOST + b"SCRIPT_NAME: /x\r\n\r\n": (400, "headers"),
        post + b"Content-Length: -5\r\n\r\n": (400, "headers"),
        post + b"Expect: x\r\nContent-Length: 0\r\n\r\n": (417, "header Expect"),
        post + b"Transfer-Encoding: x\r\n\r\n": (400, "header Transfer-Encoding"),
        post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n": (400, "body"),
        post + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": (400, "body"),
    }
    port = free_port()
    with serve(port, tmp_path):
        for request, (status, field) in cases.items():
            found, body = ask_raw(port, request)
            problem = json.loads(body)
            assert (found, problem["field"]) == (status, field), request[:60]
            assert problem["request_id"]
            assert field in problem["detail"]


def test_a_server_loads_its_sources_beside_the_model(tmp_path):
    save_sam(tmp_path / "sources" / "sam-base", is_hq=False)
    with serve(free_port(), tmp_path, CALICO_SOURCES="sam-base,edgetam") as (server, _):
        deadline = time.monotonic() + 120
        while True:
            status = json.loads(server.ask("GET", "/status", timeout_s=30).body)
            states = {source["name"]: source["state"] for source in status["sources"]}
            if "loading" not in states.values():
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert states == {"sam-base": "ready", "edgetam": "failed"}
    (problem,) = [s["problem"] for s in status["sources"] if s["name"] == "edgetam"]
    assert "yonigozlan/EdgeTAM-hf" in problem
