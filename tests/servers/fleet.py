"""Several servers on one PostgreSQL with a Label Studio of the tests' own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from backend.cli.label_studio_process import free_port
from backend.clock import now_us
from backend.storage.adapter_files import folder_digest
from backend.storage.store import open_store
from backend.storage.tables import adapter
from tests.integration.counting_model import BASE, FILES
from tests.integration.studio_double import PROJECT, StudioDouble, served
from tests.servers.processes import running

SERVER = "tests.servers.server_process"


class Fleet:
    """Servers by number, what they predicted, and what Label Studio has stored.

    `apart` gives every server a data folder of its own, as machines have.
    """

    def __init__(self, folder, database_url, tasks, *, apart=False):
        self.folder, self.database_url, self.apart = folder, database_url, apart
        self.notes = folder / "notes"
        self.notes.touch()
        self.studio = StudioDouble()
        for task in range(1, tasks + 1):
            self.studio.add_task(task, [f"{task}-a.png", f"{task}-b.png"])
        self.store = open_store(database_url, is_guest=True, commit_timeout_s=30)
        self.studio_url = None
        self.processes = []
        self.urls = []

    def start(self, stack, studio_url, *, port=None, **environment):
        """Starts one more server; returns its number."""
        port = port or free_port()
        data = f"data-{len(self.urls)}" if self.apart else "data"
        words = (port, self.folder / data, self.database_url, studio_url, self.notes)
        self.processes.append(stack.enter_context(running(SERVER, *words, **environment)))
        self.urls.append(f"http://127.0.0.1:{port}")
        return len(self.urls) - 1

    def wait_until_ready(self):
        for url, process in zip(self.urls, self.processes, strict=True):
            wait_for(lambda url=url: is_ready(url), 120, lambda p=process: p.poll() is None)

    def is_ready(self, number):
        assert self.processes[number].poll() is None, "the server has ended"
        return is_ready(self.urls[number])

    def port(self, number):
        return int(self.urls[number].rpartition(":")[2])

    def kill(self, number):
        os.killpg(self.processes[number].pid, signal.SIGKILL)
        self.processes[number].wait()

    def predicted(self, version):
        """How many predictions of a version were computed, by all servers."""
        lines = self.notes.read_text().splitlines()
        return sum(line.split()[1] == version for line in lines)

    def stored(self, version):
        """Task ids of the predictions of a version that Label Studio has, rising."""
        found = list(self.studio.predictions.values())
        return sorted(one["task"] for one in found if one["model_version"] == version)

    def promote(self):
        """Makes a version current, as a trainer does; returns its id."""
        return promote(self.store, self.folder / "data" / "adapters")


def promote(store, adapters_dir):
    """Makes a version of the counting model current, as a trainer does; returns its id."""
    folder = adapters_dir / str(PROJECT) / "v1"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(json.dumps({"1": 1}))
    return register(store, folder)


def register(store, folder):
    """Makes a version current whose files are in their place; returns its id."""
    digest, nbytes = folder_digest(folder)
    row = {
        "id": folder.name,
        "project_id": PROJECT,
        "uri": f"{PROJECT}/{folder.name}",
        "sha256": digest,
        "nbytes": nbytes,
        "status": "current",
        "upto_seq": 0,
        "corrections": 1,
        "base_sha256": hashlib.sha256(BASE.encode()).hexdigest(),
        "code_version": "1",
        "created_at_us": now_us(),
    }
    insert = adapter.insert().values(row)
    store.write(lambda connection: connection.execute(insert).close(), timeout_s=30)
    return folder.name


@contextmanager
def fleet_of(
    folder: Path, database_url: str, *, servers: int, tasks: int, apart: bool = False, **environment
):
    """Yields a fleet whose servers are ready; everything is stopped afterwards."""
    fleet = Fleet(folder, database_url, tasks, apart=apart)
    with ExitStack() as stack:
        stack.callback(fleet.store.close)
        fleet.studio_url = stack.enter_context(served(fleet.studio.app()))
        for _ in range(servers):
            fleet.start(stack, fleet.studio_url, **environment)
        fleet.wait_until_ready()
        yield fleet


def is_ready(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).json().get("model") == "ready"
    except httpx.HTTPError:
        return False


def wait_for(condition, within_s, may_go_on=lambda: True):
    """Waits until a condition holds; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert may_go_on(), "a process has ended"
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        time.sleep(0.05)
    return time.monotonic() - began
