"""What is acknowledged is in the files that the next start will open, or it is not acknowledged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from backend.app import close_app, create_app
from backend.errors import StoreError
from backend.settings import load_settings
from backend.storage.store import open_store
from tests.unit.storage.test_store import an_event


class Served:
    """An open store in a folder of its own, and what it has acknowledged."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.path = folder, folder / "calico.sqlite3"
        self.log = folder / "calico.sqlite3-wal"
        self.url = f"sqlite:///{self.path}"
        self.store = open_store(self.url, commit_timeout_s=30)
        self.acknowledged = []

    def tell(self, numbers):
        """How many of these events were acknowledged."""
        before = len(self.acknowledged)
        for number in numbers:
            try:
                self.store.record_events([an_event(number, payload=b"x" * 3000)])
            except StoreError:
                continue
            self.acknowledged.append(number)
        return len(self.acknowledged) - before

    def close(self):
        self.store.close()


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path / "data")
    assert made.tell(range(40)) == 40
    made.store.health.check()
    yield made
    made.close()


def overwrite(path, first=0, last=None):
    """Noise in place of what is there, in the same file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(first)
        file.write(os.urandom((last or size) - first))


def delete_files(served):
    empty(served.folder)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def delete_the_folder(served):
    shutil.rmtree(served.folder)


def move_the_folder(served):
    served.folder.rename(served.folder.with_name("elsewhere"))


def delete_the_log(served):
    served.log.unlink()


def replace_by_a_copy(served):
    copy = served.folder / "copy"
    shutil.copy(served.path, copy)
    copy.rename(served.path)


def empty_the_file(served):
    os.truncate(served.path, 0)


def noise_everywhere(served):
    overwrite(served.path)


def noise_in_the_log(served):
    overwrite(served.log)


def noise_in_both(served):
    overwrite(served.path)
    overwrite(served.log)


@pytest.mark.parametrize(
    "lose",
    [
        delete_files,
        delete_the_folder,
        move_the_folder,
        delete_the_log,
        replace_by_a_copy,
        empty_the_file,
        noise_everywhere,
        noise_in_the_log,
        noise_in_both,
    ],
)
def test_a_lost_database_acknowledges_nothing(served, lose):
    lose(served)
    found = sorted(served.folder.iterdir()) if served.folder.exists() else None
    assert served.tell(range(100, 140)) == 0
    with pytest.raises(StoreError, match="nothing is acknowledged"):
        served.store.health.check()
    with pytest.raises(StoreError, match="nothing is acknowledged"):
        served.store.heads(7)
    # Nor is a new file made, which the next start would take for an empty database.
    assert (sorted(served.folder.iterdir()) if served.folder.exists() else None) == found


def test_a_folder_that_comes_back_is_served_again(served):
    elsewhere = served.folder.with_name("elsewhere")
    served.folder.rename(elsewhere)
    assert served.tell([100]) == 0
    elsewhere.rename(served.folder)
    assert served.tell(range(100, 110)) == 10
    served.store.health.check()
    served.store.close()
    again = open_store(served.url)
    assert {head.annotation_id for head in again.heads(7)} >= set(served.acknowledged)
    again.close()
    served.store = open_store(served.url)


def test_damage_behind_the_header_is_found_by_reading_everything(served):
    with sqlite3.connect(served.path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    served.store.health.examine()
    served.store.health.check()
    overwrite(served.path, first=4096)
    served.store.health.examine()
    with pytest.raises(StoreError, match="damaged"):
        served.store.health.check()


def test_the_file_is_read_from_time_to_time(tmp_path):
    path = tmp_path / "a.sqlite3"
    store = open_store(f"sqlite:///{path}", check_every_s=0.01)
    store.record_events([an_event(number, payload=b"x" * 3000) for number in range(40)])
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    overwrite(path, first=4096)
    is_found = threading.Event()

    def look():
        while not is_found.is_set():
            try:
                store.health.check()
            except StoreError:
                is_found.set()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    assert is_found.wait(30)
    looking.join()
    store.close()


def test_what_is_right_raises_no_alarm(served):
    guest = open_store(served.url, is_guest=True)
    guest.record_events([an_event(500)])
    served.store.backup(served.folder / "backup.sqlite3")
    with sqlite3.connect(served.path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    served.store.health.check()
    assert served.tell(range(200, 210)) == 10
    guest.close()
    assert served.tell(range(210, 220)) == 10
    # Every connection is closed: SQLite removes the log and makes another.
    served.store._reading.dispose()
    served.store._writing.dispose()
    assert not served.log.exists()
    assert len(served.store.heads(7)) == 61
    assert served.tell(range(220, 230)) == 10
    served.store.health.examine()
    served.store.health.check()


def test_a_database_that_takes_nothing_makes_health_red_until_it_does(served):
    def refuse(_connection, *_rest):
        raise OperationalError("BEGIN", {}, OSError("no space left"))

    event.listen(served.store._writing, "begin", refuse)
    assert served.tell([300]) == 0
    with pytest.raises(StoreError, match=r"takes no changes: .*no space left"):
        served.store.health.check()
    event.remove(served.store._writing, "begin", refuse)
    assert served.tell([300]) == 1
    served.store.health.check()


def test_health_is_red_where_corrections_would_be_lost(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data")
    app = create_app(settings, load=lambda: None)
    client = app.test_client()
    assert client.get("/health").status_code == 200
    empty(settings.data_dir)
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "deleted or moved" in answer.text
    body = {"action": "TASKS_CREATED", "project": {"id": 1}, "tasks": [{"id": 1}]}
    assert client.post("/webhook", json=body).status_code == 503
    close_app(app)
