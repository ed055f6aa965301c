"""Who is certainly gone, seen from the same and from another process namespace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backend import process_identity
from backend.process_identity import is_gone, machine_name, owner_name


def test_this_process_is_there_and_an_ended_one_is_gone():
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    assert not is_gone(owner_name())
    assert is_gone(f"{machine_name()}/{process.pid}/abcd")


def test_what_has_our_number_but_not_our_suffix_is_gone():
    own = owner_name()
    assert is_gone(own[:-4] + ("0000" if own[-4:] != "0000" else "1111"))


@pytest.mark.parametrize("owner", ["elsewhere:0:0/1/abcd", "localhost/1/abcd", "", "a/b/c"])
def test_what_cannot_be_checked_is_not_called_gone(owner):
    assert not is_gone(owner)


def test_a_machine_started_again_says_nothing_about_earlier_processes(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    earlier = f"{machine_name()}/{process.pid}/abcd"
    assert is_gone(earlier)
    monkeypatch.setattr(process_identity, "_boot", lambda: "another")
    assert not is_gone(earlier)


def test_a_container_with_our_host_name_does_not_call_us_gone():
    unshared = ["unshare", "--pid", "--fork"]
    if subprocess.run([*unshared, "true"], check=False, capture_output=True).returncode:
        pytest.skip("new process namespaces cannot be made here")
    asked = "import sys; from backend.process_identity import is_gone; print(is_gone(sys.argv[1]))"
    command = [*unshared, sys.executable, "-c", asked, owner_name()]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert answer.stdout.strip() == "False"
