"""What one of several servers does to the database they share, as a process of its own.

python -m tests.servers.store_process keep URL FIRST COUNT CEILING
python -m tests.servers.store_process stand-still URL
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys

from sqlalchemy.dialects import postgresql

from backend.storage.database import take_turn
from backend.storage.journal import Journal
from backend.storage.store import open_store
from tests.servers.events import an_event


def keep(url, first, count, ceiling):
    """Keeps answers as predictions do, and waits until all are in the database."""
    store = open_store(url, commit_timeout_s=60, cached_predictions=ceiling)
    for number in range(first, first + count):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        store.keep_prediction(key, b"answer", project_id=1, task_id=number, version="v")
        if number % 5 == 0:
            store.write(lambda _: None, timeout_s=60)
    store.close()


def stand_still(url):
    """Stops this process as SIGSTOP does, between the INSERT and the COMMIT of an event."""
    store = open_store(url, commit_timeout_s=60)

    def change(connection):
        take_turn(connection)
        Journal(postgresql.insert).record(connection, an_event(1), 0)
        sys.stdout.write("inside\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)

    store.write(change, timeout_s=600)


if __name__ == "__main__":
    name, url, *numbers = sys.argv[1:]
    {"keep": keep, "stand-still": stand_still}[name](url, *map(int, numbers))
