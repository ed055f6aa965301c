"""The processes of a fleet on one machine are found again, restarted in turn, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from backend.errors import FleetError
from backend.fleet.machine import (
    TOKEN_VARIABLE,
    FleetFolder,
    address_towards,
    head_command,
    host_command,
    is_listening,
    is_ready,
    node_command,
    restart_in_turn,
    wait_until,
)
from backend.learning.supervisor import TrainerWatch

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True);"
    "time.sleep(600)",
)


@pytest.fixture
def folder(tmp_path):
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def start(folder):
    started = []

    def run(command, token_file=None):
        environment = {TOKEN_VARIABLE: str(token_file or folder.token_file)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_token_is_made_once_and_for_this_user_alone(folder):
    folder.make_token()
    token = folder.token_file.read_text()
    folder.make_token()
    assert folder.token_file.read_text() == token
    assert len(token) == 64
    assert folder.token_file.stat().st_mode & 0o077 == 0


def test_two_fleets_have_different_tokens(tmp_path):
    folders = [FleetFolder(tmp_path / name) for name in "ab"]
    for one in folders:
        one.make_token()
    assert len({one.token_file.read_text() for one in folders}) == 2


def test_a_fleet_whose_holder_is_gone_is_no_fleet(folder, start):
    folder.make_token()
    assert folder.read_state() is None
    holder = start((*SLEEPER, "fleet"))
    folder.state_file.write_text(json.dumps({"pid": holder.pid, "address": "a:1"}))
    assert folder.read_state() == (holder.pid, "a:1")
    holder.kill()
    holder.wait()
    assert folder.read_state() is None


def test_the_number_of_another_process_is_no_holder(folder, start):
    folder.make_token()
    folder.state_file.write_text(json.dumps({"pid": start(SLEEPER).pid, "address": "a:1"}))
    assert folder.read_state() is None


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "x", "address": "a:1"}', "[]"])
def test_a_damaged_note_is_no_fleet(folder, text):
    folder.make_token()
    folder.state_file.write_text(text)
    assert folder.read_state() is None


def test_members_are_those_with_our_token_and_no_others(folder, start, tmp_path):
    ours, other = start(SLEEPER), start(SLEEPER, tmp_path / "other" / "token")
    assert folder.members() == (ours.pid,)
    assert folder.clear() == 0
    assert ours.wait(10) == -15
    assert other.poll() is None


def test_what_does_not_end_is_killed(folder, start, monkeypatch):
    monkeypatch.setattr("backend.fleet.machine._STOP_S", 0.3)
    stubborn = start(STUBBORN)
    assert folder.clear() == 1
    assert stubborn.wait(10) == -9


def test_a_node_keeps_to_the_address_that_it_is_given():
    head = head_command("10.0.0.1", 6390, slots=4, dashboard=True)
    assert {"--head", "--port=6390", "--node-ip-address=10.0.0.1", "--num-cpus=4"} <= set(head)
    assert {"--dashboard-host=127.0.0.1", "--include-dashboard=true", "--block"} <= set(head)
    node = node_command("10.0.0.1:6390", "10.0.0.2", slots=None)
    assert {"--address=10.0.0.1:6390", "--node-ip-address=10.0.0.2"} <= set(node)
    assert not any(word.startswith("--num-cpus") for word in node)


def test_another_machine_is_joined_over_the_shell_that_is_given():
    words = host_command(["ssh", "-tt"], "b", "10.0.0.1:6390")
    assert " ".join(words) == "ssh -tt b calico fleet join --address 10.0.0.1:6390"


def test_the_address_of_this_machine_is_the_one_the_head_can_reach():
    assert address_towards("127.0.0.1", 9) == "127.0.0.1"


def test_nobody_listens_on_a_port_that_is_free():
    assert not is_listening("127.0.0.1", 1)
    assert not is_ready(1)


def test_waiting_ends_when_it_is_told_to():
    stop = threading.Event()
    stop.set()
    with pytest.raises(FleetError, match="the head"):
        wait_until(lambda: False, "the head", stop)


def test_web_servers_are_restarted_one_after_another():
    watches = [TrainerWatch(SLEEPER, pause_s=0.01, name=f"server {n}") for n in range(2)]
    stop, seen = threading.Event(), []
    for watch in watches:
        watch.start()
    try:
        wait_until(lambda: all(watch.process_id for watch in watches), "start", stop)
        before = [watch.process_id for watch in watches]

        def ready(port):
            seen.append((port, [watch.process_id for watch in watches]))
            return True

        restart_in_turn([(1, watches[0]), (2, watches[1])], stop, ready)
        after = [watch.process_id for watch in watches]
        assert not set(before) & set(after)
        # While the first one comes back, the second one is the one it was.
        assert all(pids[1] == before[1] for port, pids in seen if port == 1)
    finally:
        for watch in watches:
            watch.close()


def test_this_process_is_no_member_of_itself(folder, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, str(folder.token_file))
    assert os.getpid() not in folder.members()
