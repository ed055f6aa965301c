"""Changes under a disk that fills, writes that fail, connections that die and kill -9, and a count
of what was acknowledged and is gone.

As a script, a process that writes to a store and says of each change whether it was acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine, event, text

import backend.storage.store
from backend.errors import BackendError
from backend.storage.database import take_turn
from backend.storage.store import open_store
from backend.types import Event, EventAction

ROOT = Path(__file__).parents[2]
THREADS = 8
PROJECT = 7
KILL = "kill"
FAULTS = {"sqlite": ("full", "ioerr"), "postgresql": ("full", "ioerr", "died")}
# Per statement. A change takes about eight of them.
CHANCES = {"full": 0.002, "ioerr": 0.002, "died": 0.002, KILL: 0.0005}
SQLSTATES = {"full": "53100", "ioerr": "58030"}
NO_LIMIT = 2**30


def an_event(number, nbytes):
    return Event(
        key=hashlib.sha256(f"{number}".encode()).hexdigest(),
        action=EventAction.ANNOTATION_UPDATED,
        project_id=PROJECT,
        annotation_id=number,
        task_id=number,
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
        payload=random.randbytes(nbytes),
    )


class Faults:
    """Strikes at random statements of the writer's connection."""

    def __init__(self, seed):
        self._choose = random.Random(seed)
        self._left = 0  # statements until the disk is well again

    def strike(self, connection):
        """Called before every statement and every commit."""
        raw = connection.connection.dbapi_connection
        kind = connection.dialect.name
        if self._left:
            self._left -= 1
            if not self._left:
                _heal(raw)
        for fault in (*FAULTS[kind], KILL):
            if self._choose.random() < CHANCES[fault]:
                self._inject(raw, kind, fault)

    def _inject(self, raw, kind, fault):
        if fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        say({"fault": fault})
        if kind == "postgresql":
            _harm_postgres(raw, fault)
            return
        self._left = self._choose.randint(1, 60)
        if fault == "full":
            (pages,) = raw.execute("PRAGMA page_count").fetchone()
            raw.execute(f"PRAGMA max_page_count={pages + self._choose.randint(0, 8)}")
        else:  # writes beyond it fail, as on a broken disk
            limit = self._choose.choice((0, 4096, 100_000, 1_000_000))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _heal(raw):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with suppress(Exception):  # it may be closed
        raw.execute(f"PRAGMA max_page_count={NO_LIMIT}")


def _harm_postgres(raw, fault):
    cursor = raw.cursor()
    if fault == "died":
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    else:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{SQLSTATES[fault]}'; END $$")


_lines = threading.Lock()


def say(value):
    with _lines:
        os.write(1, json.dumps(value).encode() + b"\n")


def watch_engines(faults, is_armed):
    """Has every engine that is opened from now on suffer."""
    inner = backend.storage.store.open_engines

    def open_engines(*arguments, **options):
        writing, reading = inner(*arguments, **options)

        @event.listens_for(writing, "before_cursor_execute")
        def _before(connection, *_):
            if is_armed.is_set():
                faults.strike(connection)

        @event.listens_for(writing, "commit")
        def _commit(connection):
            if is_armed.is_set():
                faults.strike(connection)

        if writing.dialect.name == "sqlite":

            @event.listens_for(writing, "connect")
            def _small_cache(raw, _record):
                raw.execute("PRAGMA cache_size=20")  # so that pages are written before the commit

            writing.dispose()
        return writing, reading

    backend.storage.store.open_engines = open_engines


def write_changes(url, seed, first, count):
    """Makes `count` changes, each once, and says of each what it was answered with."""
    is_armed = threading.Event()
    watch_engines(Faults(seed), is_armed)
    store = open_store(url, commit_timeout_s=20)
    numbers = queue.SimpleQueue()
    for number in range(first, first + count):
        numbers.put(number)
    is_armed.set()
    threads = [threading.Thread(target=_write, args=(store, numbers)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_armed.clear()
    store.close()


def _write(store, numbers):
    while True:
        try:
            number = numbers.get_nowait()
        except queue.Empty:
            return
        sent = an_event(number, random.choice((300, 3000, 30_000)))

        def change(connection, sent=sent, number=number):
            take_turn(connection)
            store._journal.record(connection, sent, 0)
            # Nothing but the transaction keeps this row from being there twice.
            connection.execute(text("INSERT INTO fault_probe VALUES (:number)"), {"number": number})

        try:
            if number % 2:
                store.write(change, timeout_s=20)
            else:
                store.record_events([sent])
        except BackendError as error:
            say({"refused": number, "why": str(error)[:80]})
            time.sleep(0.02)  # else all would be refused while a server starts anew
        else:
            say({"acknowledged": number})


def run_campaign(url, changes, seed, *, restart=None, restarts=0):
    """Runs processes until so many changes were answered or died with one; returns the figures."""
    open_store(url).close()
    engine = create_engine(url, pool_pre_ping=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE fault_probe (number BIGINT)"))
    tally, acknowledged = Counter(), set()
    first, rounds = 1, 0
    while tally["changes"] < changes:
        rounds += 1
        left = changes - tally["changes"]
        process = subprocess.Popen(
            [sys.executable, __file__, url, str(seed + rounds), str(first), str(left)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        every = max(1, changes // (restarts + 1))
        with process:
            for line in process.stdout:
                if not line.endswith(b"\n"):
                    continue
                said = json.loads(line)
                tally["changes"] += "acknowledged" in said or "refused" in said
                tally["refused"] += "refused" in said
                if "acknowledged" in said:
                    acknowledged.add(said["acknowledged"])
                if "fault" in said:
                    tally[f"fault: {said['fault']}"] += 1
                due = tally["changes"] // every
                if restart is not None and tally["restarts"] < min(due, restarts):
                    tally["restarts"] += 1
                    restart()
        tally["kills"] += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL)
        first += left
    open_store(url).close()  # whole, and as the next start finds it
    figures = _compare(engine, acknowledged)
    engine.dispose()
    return dict(tally) | figures


def _compare(engine, acknowledged):
    with engine.connect() as connection:
        ask = connection.execute
        probes = Counter(ask(text("SELECT number FROM fault_probe")).scalars())
        heads = set(ask(text("SELECT annotation_id FROM ann_head")).scalars())
        journal = Counter(ask(text("SELECT annotation_id FROM event_log")).scalars())
    odd = {number for number in acknowledged if number % 2}
    return {
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - journal.keys()) + len(odd - probes.keys()),
        "without_head": len(journal.keys() ^ heads),
        "doubled": sum(count > 1 for rows in (probes, journal) for count in rows.values()),
        "half": len(probes.keys() - journal.keys())
        + len({number for number in journal if number % 2} - probes.keys()),
    }


if __name__ == "__main__":
    write_changes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
