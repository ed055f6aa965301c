"""Which server leads: one at a time, another one after silence, every one on a SQLite file."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from backend.process_identity import machine_name
from backend.storage.servers import ServerMembership, ServerReport, present_servers
from backend.storage.store import open_store
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

ROLE = "refresh"


def report():
    return ServerReport("1.0", "base-1", "ready", 3)


@pytest.fixture
def store(database_url):  # noqa: F811
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


@pytest.fixture
def shared(store):
    if not store.is_shared:
        pytest.skip("a SQLite file has one server")
    return store


def member(store, owner, **options):
    made = ServerMembership(store, report, owner=owner, **options)
    made.leads(ROLE)
    return made


def test_the_only_server_of_a_file_leads_and_reports_nothing(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    alone = ServerMembership(store, report)
    alone.start()
    assert alone.leads(ROLE)
    assert present_servers(store) == ()
    alone.close()
    store.close()


def test_one_server_leads_until_it_leaves(shared):
    first, second = member(shared, "a/1/x"), member(shared, "a/2/y")
    assert not first.leads(ROLE)
    for one in (first, second, first, second):
        one.beat()
    assert (first.leads(ROLE), second.leads(ROLE)) == (True, False)
    found = present_servers(shared)
    assert [(one.owner, one.roles) for one in found] == [("a/1/x", (ROLE,)), ("a/2/y", ())]
    assert found[0].report == report()

    first.start()
    first.close()
    second.beat()
    assert (first.leads(ROLE), second.leads(ROLE)) == (False, True)
    assert [one.owner for one in present_servers(shared)] == ["a/2/y"]


def test_a_silent_server_loses_its_role_and_knows_it(shared):
    first, second = (member(shared, owner, silent_s=1.0) for owner in ("a/1/x", "a/2/y"))
    first.beat()
    deadline = time.monotonic() + 60
    while not second.leads(ROLE):
        # What the second is granted, the first has given up before.
        second.beat()
        assert not (second.leads(ROLE) and first.leads(ROLE))
        assert time.monotonic() < deadline


def test_the_role_of_a_killed_server_of_this_machine_is_free_at_once(shared):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    killed, next_one = member(shared, f"{machine_name()}/{process.pid}/x"), member(shared, "a/2/y")
    killed.beat()
    assert killed.leads(ROLE)
    next_one.beat()
    assert next_one.leads(ROLE)
    assert [one.owner for one in present_servers(shared)] == ["a/2/y"]


def test_a_server_that_cannot_report_goes_on_until_its_time_is_over(shared):
    first = member(shared, "a/1/x", silent_s=1.0)
    first.beat()
    shared.close()
    first.beat()
    deadline = time.monotonic() + 60
    while first.leads(ROLE):
        assert time.monotonic() < deadline
