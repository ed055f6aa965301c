"""Which version answers: the current one, or the nearest ancestor that can be loaded."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from backend.errors import FilesUnavailableError, StoreError
from backend.learning.publisher import CandidateOrigin, Publisher, roll_back
from backend.learning.schedule import Cause
from backend.learning.training_runs import RunRepository
from backend.serving.adapter_registry import AdapterRegistry
from backend.serving.metrics import Metrics
from backend.storage.store import Store, open_store
from backend.storage.versions import Versions
from calico_model.errors import CheckpointError
from tests.doubles import ModelDouble

PROJECT = 7


class Base(ModelDouble):
    """A base whose adapters are files with one word; `bad` cannot be loaded."""

    version = "base-1"

    def __init__(self):
        self.read = []

    def with_adapter(self, version, folder):
        self.read.append(version)
        if (folder / "word").read_text() == "bad":
            raise CheckpointError("adapter: wrong shape")
        return Adapted(version)


class Adapted(ModelDouble):
    def __init__(self, version):
        self.version = version


class Shelf:
    def __init__(self, folder: Path):
        self.store = open_store(f"sqlite:///{folder / 'calico.sqlite3'}")
        self.versions = Versions(self.store, folder / "adapters")
        self.runs = RunRepository(self.store)
        self.metrics = Metrics()
        self.registry = AdapterRegistry(self.versions, self.metrics)
        self.base = Base()

    def publish(self, word, project=PROJECT):
        def write(folder):
            folder.mkdir()
            (folder / "word").write_text(word)

        current = self.versions.current(project)
        parent = None if current is None else current.id
        run_id = self.runs.claim(project, Cause.COUNT)
        publisher = Publisher(self.versions, self.runs)
        origin = CandidateOrigin(project, parent, 1, 1, "b" * 64, "base-1", "0")
        made = publisher.register(run_id, origin, write)
        publisher.publish(run_id, made, gate={}, reason="")
        return made

    def answering(self, project=PROJECT):
        return self.registry.model(self.base, self.registry.current(project)).version


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(tmp_path)
    yield made
    made.store.close()


def test_every_project_is_answered_by_its_own_version(shelf):
    assert shelf.answering() == "base-1"
    mine, theirs = shelf.publish("a"), shelf.publish("b", project=8)
    assert (shelf.answering(), shelf.answering(8), shelf.answering(9)) == (mine, theirs, "base-1")
    assert shelf.registry.current(None) is None


def test_a_request_keeps_the_version_it_began_with(shelf):
    first = shelf.publish("a")
    begun = shelf.registry.current(PROJECT)
    second = shelf.publish("b")
    assert shelf.registry.model(shelf.base, begun).version == first
    assert shelf.answering() == second
    roll_back(shelf.versions, PROJECT, to=None, reason="")
    assert shelf.answering() == first


def test_a_version_is_read_once(shelf):
    first = shelf.publish("a")
    for _ in range(3):
        shelf.answering()
    assert shelf.base.read == [first]


@pytest.mark.parametrize("is_cut", [True, False])
def test_what_cannot_be_loaded_is_passed_over_and_no_longer_announced(shelf, is_cut):
    good = shelf.publish("a")
    bad = shelf.publish("b" if is_cut else "bad")
    if is_cut:
        (shelf.versions.path(shelf.versions.find(bad)) / "word").write_text("x")
    assert shelf.answering() == good
    assert shelf.registry.current(PROJECT).id == good
    assert b"calico_unusable_versions_total 1.0" in shelf.metrics.text()
    assert shelf.answering() == good
    assert b"calico_unusable_versions_total 1.0" in shelf.metrics.text()
    assert shelf.answering(8) == "base-1"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(shelf):
    made = Clock()
    shelf.registry = AdapterRegistry(shelf.versions, shelf.metrics, clock=made)
    return made


def hide(shelf, version):
    """Takes a version's folder away; returns a function that brings it back."""
    place = shelf.versions.path(shelf.versions.find(version))
    hidden = place.with_name("hidden")
    place.rename(hidden)
    return lambda: hidden.rename(place)


def test_a_version_that_is_not_here_is_passed_over_until_it_comes(shelf, clock):
    good, absent = shelf.publish("a"), shelf.publish("b")
    bring_back = hide(shelf, absent)
    assert shelf.answering() == good
    clock.now = 1000.0
    assert shelf.registry.current(PROJECT).id == good, "announced as long as it answers"
    bring_back()
    assert shelf.answering() == absent
    assert b"calico_unusable_versions_total 0.0" in shelf.metrics.text()


def test_one_of_several_servers_announces_what_is_not_here_and_refuses_for_a_moment(
    shelf, clock, monkeypatch
):
    shelf.publish("a")
    absent = shelf.publish("b")
    bring_back = hide(shelf, absent)
    monkeypatch.setattr(Store, "is_shared", True)
    version = shelf.registry.current(PROJECT)
    tries = []
    verify = shelf.versions.verify
    monkeypatch.setattr(shelf.versions, "verify", lambda one: tries.append(one) or verify(one))
    for second in range(120):
        clock.now = float(second)
        with pytest.raises(FilesUnavailableError, match=absent) as refused:
            shelf.registry.require(shelf.base, version)
        assert refused.value.retry_after_s
        assert shelf.registry.current(PROJECT).id == absent
    assert 5 < len(tries) < 15, "less and less often"
    bring_back()
    clock.now += 30
    shelf.registry.require(shelf.base, version)
    assert shelf.answering() == absent


def test_without_a_database_the_version_read_last_answers(shelf, monkeypatch):
    mine = shelf.publish("a")
    shelf.answering()

    def fail(*_arguments, **_options):
        raise StoreError("the disk is gone")

    monkeypatch.setattr(shelf.versions, "served", fail)
    assert shelf.answering() == mine
    assert shelf.answering(8) == "base-1"


def test_only_so_many_adapters_stay_in_memory(shelf):
    shelf.registry = AdapterRegistry(shelf.versions, shelf.metrics, most_loaded=3)
    made = [shelf.publish(str(n), project=n) for n in range(4)]
    for project in range(4):
        shelf.answering(project)
    shelf.answering(3)
    assert len(shelf.base.read) == 4
    shelf.answering(0)
    assert shelf.base.read[-1] == made[0]
    gc.collect()


def test_only_so_many_bytes_of_adapters_stay_in_memory(shelf):
    made = [shelf.publish(str(n), project=n) for n in range(3)]
    size = shelf.versions.current(0).nbytes
    shelf.registry = AdapterRegistry(shelf.versions, shelf.metrics, most_bytes=2 * size)
    for project in (0, 1, 2, 2, 1):
        shelf.answering(project)
    assert shelf.base.read == made
    assert shelf.registry.loaded == 2
    shelf.answering(0)
    assert shelf.base.read[-1] == made[0]


def test_an_adapter_larger_than_the_limit_stays_while_it_is_the_last_used_one(shelf):
    shelf.registry = AdapterRegistry(shelf.versions, shelf.metrics, most_bytes=1)
    shelf.publish("a", project=7)
    assert shelf.answering(7) == shelf.answering(7)
    assert len(shelf.base.read) == 1
