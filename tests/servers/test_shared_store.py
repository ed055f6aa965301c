"""Several servers on one PostgreSQL: the ceiling on kept answers, and one that stands still."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from sqlalchemy import func, select

from backend.errors import BackendError
from backend.storage.store import open_store
from backend.storage.tables import prediction
from tests.servers.events import PROJECT, an_event
from tests.servers.processes import running
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

STORE = "tests.servers.store_process"
pytestmark = pytest.mark.slow
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@on_postgres
@pytest.mark.parametrize("servers", [1, 3])
def test_servers_together_keep_the_ceiling_on_answers(database_url, servers):  # noqa: F811
    with ExitStack() as stack:
        each = 1200 // servers
        processes = [
            stack.enter_context(running(STORE, "keep", database_url, n * each, each, 100))
            for n in range(servers)
        ]
        assert [process.wait(300) for process in processes] == [0] * servers
    store = open_store(database_url)
    with store.read() as connection:
        rows = connection.execute(select(func.count()).select_from(prediction)).scalar_one()
    store.close()
    assert 80 <= rows <= 110


@on_postgres
def test_a_server_that_stands_still_costs_the_others_three_seconds(database_url):  # noqa: F811
    store = open_store(database_url)  # waits 0.7 s for a commit, as a server does
    with running(STORE, "stand-still", database_url) as stopped:
        assert stopped.stdout.readline() == "inside\n"
        began = time.monotonic()
        for annotation in range(2, 100):
            try:
                store.record_events([an_event(annotation)])
            except BackendError:
                continue
            break
        assert time.monotonic() - began <= 3.0
    # What was answered 503 and had its turn is there all the same, once.
    heads = {head.annotation_id for head in store.heads(PROJECT)}
    assert 1 not in heads
    assert {2, annotation} <= heads
    store.close()
