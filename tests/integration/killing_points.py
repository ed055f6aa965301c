"""Places in the server and in the trainer where a process is told to kill itself.

A process looks for its order in a file: the name of a place and how often to pass it by first.
"""

from __future__ import annotations

import functools
import json
import os
import signal

from sqlalchemy import event

import backend.learning.publisher as adapters
import backend.storage.database
import backend.storage.store
from backend.learning.publisher import Publisher
from backend.learning.repository import CorrectionRepository
from backend.learning.training_runs import RunRepository
from backend.storage.store import Store
from tests.integration import counting_model
from tests.integration.counting_model import CountingUpdater, FakeBase

WEB = (
    "before a commit",
    "between commit and answer",
    "while a version is loaded",
    "while the database is opened",
)
TRAINER = (
    "before a commit",
    "before a correction is kept",
    "after a correction is kept",
    "after a claim",
    "while it learns",
    "between the files of an adapter",
    "before the folder is renamed",
    "after the folder was renamed",
    "before the candidate is registered",
    "after the candidate was registered",
    "while it measures",
    "before the publication is committed",
    "after the publication was committed",
    "after a rejection",
    "while the database is opened",
)
POINTS = {"web": WEB, "trainer": TRAINER}


def aim(path, point, passes):
    """Orders the process that looks at `path` to die at a place."""
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps([point, passes]))
    staged.rename(path)


def install(name, path):
    """Puts the places of one kind of process where they belong; called before it starts."""
    reach = functools.partial(_reach, path)
    if name == "web":
        _around(Store, "record_events", after=lambda: reach("between commit and answer"))
        _around(FakeBase, "with_adapter", before=lambda: reach("while a version is loaded"))
    else:
        _install_trainer(reach)
    publishing = _publishing(reach) if name == "trainer" else (lambda: None)

    def watched(*arguments, **options):
        writing, reading = open_engines(*arguments, **options)

        @event.listens_for(writing, "commit")
        def _commit(_connection):
            reach("before a commit")
            publishing()

        return writing, reading

    open_engines = backend.storage.database.open_engines
    backend.storage.store.open_engines = watched
    _around(
        backend.storage.database, "migrate", before=lambda: reach("while the database is opened")
    )


def _install_trainer(reach):
    _around(
        CorrectionRepository,
        "put",
        before=lambda: reach("before a correction is kept"),
        after=lambda: reach("after a correction is kept"),
    )
    _around(RunRepository, "claim", after=lambda: reach("after a claim"))
    _around(CountingUpdater, "update", before=lambda: reach("while it learns"))
    _around(CountingUpdater, "probe", before=lambda: reach("while it measures"))
    counting_model.half_written = lambda: reach("between the files of an adapter")
    _around(adapters, "folder_digest", after=lambda: reach("before the folder is renamed"))
    _around(adapters, "sync", before=lambda: reach("after the folder was renamed"))
    _around(adapters, "sync", after=lambda: reach("before the candidate is registered"))
    _around(Publisher, "register", after=lambda: reach("after the candidate was registered"))
    _around(Publisher, "publish", after=lambda: reach("after the publication was committed"))
    _around(Publisher, "reject", after=lambda: reach("after a rejection"))


def _publishing(reach):
    """Tells the commit of a publication from all others."""
    is_under_way = []
    _around(Publisher, "publish", before=lambda: is_under_way.append(True))

    def look():
        if is_under_way:
            reach("before the publication is committed")

    _around(Publisher, "publish", after=is_under_way.clear)
    return look


def _around(owner, name, *, before=lambda: None, after=lambda: None):
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*arguments, **options):
        before()
        found = inner(*arguments, **options)
        after()
        return found

    setattr(owner, name, outer)


def _reach(path, point):
    try:
        wanted, passes = json.loads(path.read_text())
    except FileNotFoundError:
        return
    if wanted != point:
        return
    if passes:
        aim(path, point, passes - 1)
        return
    path.unlink()
    os.killpg(0, signal.SIGKILL)
