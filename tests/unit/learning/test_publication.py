"""Publication: whole or not at all, whatever call it is stopped at; nothing damaged is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import (
    DamagedFilesError,
    FilesUnavailableError,
    LeaseLostError,
    VersionError,
)
from backend.learning import publisher
from backend.learning.publisher import CandidateOrigin, Publisher, quarantine, roll_back
from backend.learning.schedule import Cause, RunState
from backend.learning.training_runs import RunRepository
from backend.storage import tables
from backend.storage.adapter_files import AdapterFiles
from backend.storage.shelf import FolderShelf
from backend.storage.store import open_store
from backend.storage.versions import Versions, VersionStatus
from calico_model.staging import staged_folder
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

PROJECT = 7


class Bench:
    """A store with a folder of adapters and one trainer."""

    def __init__(self, folder: Path, url: str | None = None):
        self.folder = folder
        self.store = open_store(
            url or f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30
        )
        self.versions = Versions(self.store, folder / "adapters")
        self.runs = RunRepository(self.store)
        self.publisher = Publisher(self.versions, self.runs)

    def write(self, content=b"weights"):
        def write(folder):
            with staged_folder(folder) as staged:
                (staged / "adapter_model.safetensors").write_bytes(content)
                (staged / "adapter_config.json").write_text("{}")

        return write

    def origin(self, project=PROJECT, parent=None):
        return CandidateOrigin(project, parent, 12, 5, "b" * 64, "calico-tiny-1234", "0.1.0")

    def candidate(self, content=b"weights", project=PROJECT, parent=None):
        run_id = self.runs.claim(project, Cause.COUNT)
        origin = self.origin(project, parent)
        return run_id, self.publisher.register(run_id, origin, self.write(content))

    def publish(self, content=b"weights", project=PROJECT):
        current = self.versions.served(project)
        run_id, version = self.candidate(content, project, None if current is None else current.id)
        self.publisher.publish(run_id, version, gate={"gain": 3}, reason="better")
        return version

    def is_whole(self):
        """No row is served whose files are not what was registered."""
        current = self.versions.current(PROJECT)
        return current is None or self.versions.verify(current).is_dir()


@pytest.fixture
def bench(tmp_path, database_url):  # noqa: F811
    made = Bench(tmp_path, database_url)
    yield made
    made.store.close()


def test_a_candidate_is_served_only_once_published(bench):
    run_id, version = bench.candidate()
    assert bench.versions.current(PROJECT) is None
    bench.publisher.publish(run_id, version, gate={"gain": 3}, reason="better")
    current = bench.versions.current(PROJECT)
    assert current.id == version
    assert version.startswith("calico-tiny-1234-p7v1-")
    assert (current.gate, current.reason, current.corrections) == ({"gain": 3}, "better", 5)
    assert bench.runs.runs(PROJECT)[0].state is RunState.PUBLISHED
    assert (bench.versions.verify(current) / "adapter_config.json").read_text() == "{}"


def test_a_rejected_candidate_keeps_its_reason_and_loses_its_files(bench):
    run_id, version = bench.candidate()
    bench.publisher.reject(run_id, version, gate={}, reason="forgets the base")
    found = bench.versions.find(version)
    assert (found.status, found.reason) == (VersionStatus.REJECTED, "forgets the base")
    assert bench.runs.runs(PROJECT)[0].state is RunState.REJECTED
    assert bench.publisher.sweep() == 1
    assert bench.versions.current(PROJECT) is None


def test_one_version_is_current_and_the_line_is_kept(bench):
    first, second = bench.publish(b"1"), bench.publish(b"2")
    assert bench.versions.find(second).parent_id == first
    statuses = {version.id: version.status for version in bench.versions.all(PROJECT)}
    assert statuses == {second: VersionStatus.CURRENT, first: VersionStatus.RETIRED}


def test_projects_do_not_see_each_other(bench):
    mine, theirs = bench.publish(), bench.publish(project=8)
    assert bench.versions.current(PROJECT).id == mine
    assert bench.versions.current(8).id == theirs


def test_a_new_project_starts_from_a_named_one_until_it_has_its_own(bench):
    theirs = bench.publish(project=8)
    assert bench.versions.served(PROJECT, start_from=8).id == theirs
    run_id, version = bench.candidate(parent=theirs)
    bench.publisher.publish(run_id, version, gate={}, reason="")
    assert bench.versions.served(PROJECT, start_from=8).id == version
    assert bench.versions.current(8).id == theirs
    assert roll_back(bench.versions, PROJECT, to=None, reason="on purpose") is None
    assert bench.versions.served(PROJECT, start_from=8) is None


def test_a_candidate_that_was_compared_with_another_version_is_refused(bench):
    bench.publish(b"1")
    run_id, late = bench.candidate(b"3", parent=None)
    with pytest.raises(VersionError, match="changed while it was trained"):
        bench.publisher.publish(run_id, late, gate={}, reason="")
    assert bench.versions.find(late).status is VersionStatus.CANDIDATE
    assert bench.versions.current(PROJECT) is not None


def test_a_run_that_was_taken_over_publishes_nothing(bench):
    run_id, version = bench.candidate()
    other = RunRepository(bench.store, owner="elsewhere/1")
    with pytest.raises(LeaseLostError):
        other.renew(run_id)
    zombie = Publisher(bench.versions, other)
    for act in (zombie.publish, zombie.reject):
        with pytest.raises(LeaseLostError):
            act(run_id, version, gate={}, reason="")
    assert bench.versions.find(version).status is VersionStatus.CANDIDATE
    with pytest.raises(LeaseLostError):
        zombie.register(run_id, bench.origin(), bench.write(b"late"))
    assert len(bench.versions.all()) == 1


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"x"), Path.unlink])
def test_a_changed_file_is_never_published(bench, name, damage):
    run_id, version = bench.candidate()
    damage(bench.versions.path(bench.versions.find(version)) / name)
    with pytest.raises(DamagedFilesError, match=f"{version}: .*; choose another version"):
        bench.publisher.publish(run_id, version, gate={}, reason="")
    assert bench.versions.current(PROJECT) is None


def test_rolling_back_goes_one_step_or_to_a_named_version(bench):
    first, second, third = (bench.publish(c) for c in (b"1", b"2", b"3"))
    assert roll_back(bench.versions, PROJECT, to=None, reason="bad lids") == second
    assert bench.versions.find(third).reason == "bad lids"
    assert roll_back(bench.versions, PROJECT, to=third, reason="") == third
    assert roll_back(bench.versions, PROJECT, to=first, reason="") == first
    assert roll_back(bench.versions, PROJECT, to="base", reason="") is None
    for wish in (None, "base", "nonsense"):
        with pytest.raises(VersionError):
            roll_back(bench.versions, PROJECT, to=wish, reason="")
    assert bench.versions.current(PROJECT) is None


def test_with_a_shelf_other_machines_find_what_is_registered_and_nothing_rejected_stays(bench):
    shelf = FolderShelf(bench.folder / "shelf")
    bench.versions.files = AdapterFiles(bench.folder / "adapters", shelf)
    version = bench.versions.find(bench.publish())
    elsewhere = Versions(bench.store, AdapterFiles(bench.folder / "elsewhere", shelf))
    assert elsewhere.verify(version) == bench.folder / "elsewhere" / version.uri
    run_id, rejected = bench.candidate(b"2", parent=version.id)
    assert elsewhere.verify(bench.versions.find(rejected)).is_dir()
    bench.publisher.reject(run_id, rejected, gate={}, reason="worse")
    bench.publisher.sweep()
    assert bench.versions.files.shared() == {version.uri}
    (bench.folder / "shelf").rename(bench.folder / "away")
    (bench.folder / "shelf").write_text("no folder")
    run_id = bench.runs.claim(PROJECT, Cause.COUNT)
    with pytest.raises(FilesUnavailableError):
        bench.publisher.register(run_id, bench.origin(parent=version.id), bench.write(b"3"))
    assert len(bench.versions.all()) == 2, "no row names what other machines cannot find"


def test_a_damaged_version_gives_way_to_its_nearest_whole_ancestor(bench):
    first, second, third = (bench.publish(c) for c in (b"1", b"2", b"3"))
    for version in (second, third):
        place = bench.versions.path(bench.versions.find(version))
        (place / "adapter_model.safetensors").write_bytes(b"")
    assert quarantine(bench.versions, bench.versions.find(third), reason="damaged") == first
    assert bench.versions.find(third).status is VersionStatus.QUARANTINED
    assert bench.is_whole()


def test_sweeping_keeps_what_is_served_and_the_newest_ten(bench):
    made = [bench.publish(str(n).encode()) for n in range(14)]
    orphans = [bench.versions.folder / name for name in ("7/orphan", ".incoming/half")]
    for orphan in orphans:
        orphan.mkdir()
    assert bench.publisher.sweep() == 3
    kept = [v for v in made if bench.versions.path(bench.versions.find(v)).is_dir()]
    assert kept == made[3:]
    # Another trainer may be about to register what is young.
    assert all(orphan.is_dir() for orphan in orphans)
    for orphan in orphans:
        os.utime(orphan, (0, 0))
    assert bench.publisher.sweep() == 2
    assert not any(orphan.exists() for orphan in orphans)


def test_only_a_current_version_is_quarantined(bench):
    first, second = bench.publish(b"1"), bench.publish(b"2")
    stale = bench.versions.current(PROJECT)
    roll_back(bench.versions, PROJECT, to="base", reason="")
    assert quarantine(bench.versions, stale, reason="damaged") is None
    assert bench.versions.current(PROJECT) is None
    assert bench.versions.find(second).status is VersionStatus.RETIRED
    assert bench.versions.find(first).status is VersionStatus.RETIRED


def test_a_version_taken_out_of_service_meanwhile_is_not_rolled_back_to(bench, monkeypatch):
    first, second = bench.publish(b"1"), bench.publish(b"2")
    verify = bench.versions.verify

    def quarantined_afterwards(version):
        path = verify(version)
        is_it = tables.adapter.c.id == version.id
        bench.store.write(
            lambda connection: connection.execute(
                tables.adapter.update().where(is_it).values(status="quarantined")
            ),
            timeout_s=5,
        )
        return path

    monkeypatch.setattr(bench.versions, "verify", quarantined_afterwards)
    with pytest.raises(VersionError, match="meanwhile"):
        roll_back(bench.versions, PROJECT, to=first, reason="")
    assert bench.versions.current(PROJECT).id == second


class Stop(BaseException):
    """Ends a thread of work where a kill would."""


def _count_down(monkeypatch, calls):
    """Stops at the n-th call to the disk or the database of `register` and `publish`."""
    left = [calls]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    monkeypatch.setattr(Path, "write_bytes", counted(Path.write_bytes))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(publisher, "folder_digest", counted(publisher.folder_digest))


def test_stopped_at_any_call_the_old_version_or_the_new_one_is_served(bench, monkeypatch):
    old = bench.publish(b"old")
    reached = []
    for calls in range(40):
        run_id = bench.runs.claim(PROJECT, Cause.COUNT)
        with monkeypatch.context() as patch:
            _count_down(patch, calls)
            try:
                origin = bench.origin(parent=old)
                new = bench.publisher.register(run_id, origin, bench.write(b"new"))
                bench.publisher.publish(run_id, new, gate={}, reason="")
                reached.append(calls)
            except Stop:
                new = None
        assert bench.is_whole()
        assert bench.versions.current(PROJECT).id == (new or old)
        if new is not None:
            break
        bench.runs.end(run_id, RunState.FAILED)
        bench.publisher.sweep()
        assert {p.name for p in (bench.versions.folder / "7").iterdir()} >= {
            bench.versions.path(bench.versions.find(old)).name
        }
    assert reached
    assert reached[0] > 8


PUBLISHING = """
import sys
from pathlib import Path
from tests.unit.learning.test_publication import Bench
bench = Bench(Path(sys.argv[1]))
bench.runs.abandon_dead()
bench.publisher.sweep()
for number in range(10**6):
    content = f"{sys.argv[2]}/{number}".encode() * 20_000
    print(bench.publish(content), flush=True)
"""


def _kill_while_publishing(folder, rounds):
    served = []
    for number in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHING, str(folder), str(number)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        with process:
            served += [process.stdout.readline().strip() for _ in range(1 + number % 7)]
            process.send_signal(signal.SIGKILL)
            served += [line.strip() for line in process.stdout if line.endswith("\n")]
    return served


def _check_line(folder, served):
    bench = Bench(folder)
    bench.runs.abandon_dead()
    bench.publisher.sweep()
    assert bench.is_whole()
    found = {version.id: version for version in bench.versions.all(PROJECT)}
    published = [v for v in found.values() if v.status in publisher.SERVED]
    assert set(served) <= {version.id for version in published}
    line, place = [], bench.versions.current(PROJECT)
    while place is not None:
        line.append(place.id)
        place = None if place.parent_id is None else found[place.parent_id]
    assert len(line) == len(published)
    assert not [run for run in bench.runs.runs() if run.state is RunState.RUNNING]
    bench.store.close()


def test_kill_9_while_publishing_leaves_one_unbroken_line(tmp_path):
    served = _kill_while_publishing(tmp_path, 4)
    assert len(served) >= 10
    _check_line(tmp_path, served)


@pytest.mark.slow
def test_many_kills_while_publishing_leave_one_unbroken_line(tmp_path):
    _check_line(tmp_path, _kill_while_publishing(tmp_path, 100))
