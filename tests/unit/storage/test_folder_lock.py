"""One server per database file, and a clear word where a database cannot be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from backend.errors import StoreError
from backend.storage.folder_lock import served_alone, take_lock
from backend.storage.store import open_store
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

ROOT = Path(__file__).parents[3]
HOLDER = """
import os, sys
from backend.storage.folder_lock import take_lock
lock = take_lock(sys.argv[1])
if len(sys.argv) > 2 and os.fork() == 0:
    os.read(0, 1)  # a worker, which ends when the test says so
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def url_of(path):
    return f"sqlite:///{path}"


def start_holder(url, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(process.stdout.readline()) == process.pid
    return process


def end(process):
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_a_second_server_is_refused_and_told_who_has_the_file(tmp_path):
    url = url_of(tmp_path / "a.sqlite3")
    holder = start_holder(url)
    with pytest.raises(StoreError) as caught, served_alone(url):
        pass
    said = str(caught.value)
    assert f"process {holder.pid} on {os.uname().nodename} since 20" in said
    assert "--data-dir" in said
    end(holder)
    with served_alone(url):
        pass


def test_a_file_has_one_lock_whatever_it_is_called(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    lock = take_lock(url_of(tmp_path / "real" / "a.sqlite3"))
    for name in ("link/a.sqlite3", "real/../real/a.sqlite3"):
        with pytest.raises(StoreError, match="served by process"):
            take_lock(url_of(tmp_path / name))
    other = take_lock(url_of(tmp_path / "real" / "b.sqlite3"))
    os.close(other)
    os.close(lock)


def test_a_server_that_was_killed_leaves_no_lock(tmp_path):
    url = url_of(tmp_path / "a.sqlite3")
    holder = start_holder(url)
    holder.send_signal(signal.SIGKILL)
    end(holder)
    with served_alone(url):
        pass


def test_the_worker_of_a_killed_server_keeps_others_away(tmp_path):
    url = url_of(tmp_path / "a.sqlite3")
    holder = start_holder(url, "forking")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(StoreError, match="served by process"):
        take_lock(url)
    holder.stdin.close()  # the worker ends
    os.close(take_lock(url, patience_s=20))
    holder.stdout.close()


def test_a_lock_that_nobody_signed_is_respected(tmp_path):
    url = url_of(tmp_path / "a.sqlite3")
    lock = take_lock(url)
    os.ftruncate(lock, 0)
    with pytest.raises(StoreError, match="served by another process"):
        take_lock(url)
    os.close(lock)


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg://calico@host/name", "nonsense"])
def test_what_is_no_file_needs_no_lock(url):
    assert take_lock(url) is None


def test_calico_serve_refuses_a_folder_that_is_served(tmp_path):
    lock = take_lock(url_of(tmp_path / "calico.sqlite3"))
    asked = subprocess.run(
        [sys.executable, "-m", "backend.cli", "serve", "--data-dir", str(tmp_path), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_"))},
    )
    os.close(lock)
    assert asked.returncode != 0
    assert f"process {os.getpid()} on" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert json.loads((tmp_path / "calico.sqlite3.lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("version", ["9999", "0008_from_elsewhere", ""])
def test_tables_of_a_newer_version_are_refused_in_one_sentence(database_url, version):  # noqa: F811
    open_store(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
    with pytest.raises(StoreError) as caught:
        open_store(database_url)
    said = str(caught.value)
    assert "newer version of CALICO" in said
    assert "update CALICO" in said
    assert "\n" not in said
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
    assert found == version  # nothing was changed
    engine.dispose()
