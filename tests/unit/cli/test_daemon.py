from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.cli.daemon import Daemon, DaemonError
from backend.cli.label_studio_process import free_port

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon("sleeper", tmp_path)
    yield daemon
    daemon.stop()


def test_a_new_daemon_does_not_run(daemon: Daemon) -> None:
    assert not daemon.is_running()
    assert not daemon.stop()


def test_a_started_daemon_runs_until_it_is_stopped(daemon: Daemon) -> None:
    daemon.start(SLEEPER, {})
    assert daemon.is_running()

    assert daemon.stop()

    assert not daemon.is_running()
    assert not daemon.pid_file.exists()


def test_another_object_finds_the_same_process(daemon: Daemon) -> None:
    daemon.start(SLEEPER, {})

    assert Daemon("sleeper", daemon.folder).stop()

    assert not daemon.is_running()


def test_a_stale_pid_file_names_nobody(daemon: Daemon) -> None:
    daemon.pid_file.write_text(str(os.getpid()))

    assert not daemon.is_running()
    assert not daemon.stop()


def test_a_second_start_is_refused(daemon: Daemon) -> None:
    daemon.start(SLEEPER, {})

    with pytest.raises(DaemonError, match="already running"):
        daemon.start(SLEEPER, {})


def test_children_end_with_the_daemon(daemon: Daemon) -> None:
    parent = "import os, signal; os.fork(); signal.pause()"
    daemon.start([sys.executable, "-c", parent], {})

    daemon.stop()

    assert not daemon.is_running()


def test_a_daemon_that_ignores_the_request_is_killed(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.cli.daemon.STOP_TIMEOUT_S", 0.5)
    port = free_port()
    deaf = (
        "import signal, http.server as h; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    daemon.start([sys.executable, "-c", deaf], {})
    daemon.wait_until_up(f"http://127.0.0.1:{port}/", timeout_s=30)

    daemon.stop()

    assert not daemon.is_running()


def test_it_sees_only_the_environment_it_is_given(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    port = free_port()
    server = (
        "import os, pathlib, http.server as h; pathlib.Path('index.html').write_text("
        "' '.join(sorted(os.environ)));"
        f"h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    code = f"import os; os.chdir({str(daemon.folder)!r}); {server}"
    daemon.start([sys.executable, "-c", code], {"GIVEN": "1"})
    daemon.wait_until_up(f"http://127.0.0.1:{port}/", timeout_s=30)

    seen = httpx.get(f"http://127.0.0.1:{port}/").text.split()

    assert "GIVEN" in seen
    assert "SECRET_OF_THE_CALLER" not in seen


def test_a_daemon_that_ends_is_reported_with_its_last_words(daemon: Daemon) -> None:
    daemon.start([sys.executable, "-c", "raise SystemExit('no such weights')"], {})

    with pytest.raises(DaemonError, match="no such weights"):
        daemon.wait_until_up("http://127.0.0.1:9/", timeout_s=30)


def test_a_daemon_that_never_answers_is_reported(daemon: Daemon) -> None:
    daemon.start(SLEEPER, {})

    with pytest.raises(DaemonError, match=r"gave no answer in 0\.3 s"):
        daemon.wait_until_up("http://127.0.0.1:9/", timeout_s=0.3)
