"""The watch over the trainer: started again when it dies, gone when the server goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backend.background import trainer_command
from backend.learning.supervisor import TrainerWatch
from backend.settings import load_settings

PATIENT = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); time.sleep(600)"


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.fixture
def watch():
    deaths = []
    made = TrainerWatch([sys.executable, "-c", PATIENT], pause_s=0.01, on_death=deaths.append)
    made.deaths = deaths
    made.start()
    yield made
    made.close()


def test_a_killed_trainer_is_started_again(watch):
    first = wait_for(lambda: watch.process_id)
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: watch.process_id if watch.process_id != first else None)
    assert second != first
    assert watch.deaths == [-signal.SIGKILL]


def test_closing_ends_it_and_starts_no_other(watch):
    number = wait_for(lambda: watch.process_id)
    watch.close()
    assert watch.process_id is None
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert watch.deaths == []


def test_the_trainer_gets_what_the_server_was_given(tmp_path):
    settings = load_settings(data_dir=tmp_path, label_studio_url="http://studio:8080")
    command = trainer_command(settings)
    assert command[1:4] == ["-m", "backend.cli", "trainer"]
    given = dict(zip(command[4::2], command[5::2], strict=True))
    assert given["--data-dir"] == str(tmp_path)
    assert given["--label-studio-url"] == "http://studio:8080"
    assert given["--parent"] == str(os.getpid())
    assert "--weights" not in given


def test_a_trainer_ends_by_itself_when_its_server_is_gone(tmp_path):
    settings = load_settings(data_dir=tmp_path, log_level="ERROR")
    command = trainer_command(settings)
    command[command.index("--parent") + 1] = "1000000000"
    process = subprocess.Popen(command)
    try:
        assert process.wait(120) == 0
    finally:
        process.kill()


def test_a_trainer_stops_when_asked(tmp_path):
    command = trainer_command(load_settings(data_dir=tmp_path, log_level="DEBUG"))
    process = subprocess.Popen([*command[:-2]], stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(120, process.kill)
    timer.start()
    with process:
        # The line of the opened store: signals are handled from before it on.
        for line in process.stderr:
            if "store_opened" in line:
                break
        process.terminate()
        assert process.wait(60) == 0
    timer.cancel()
