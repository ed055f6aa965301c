"""States of a training at a place that all machines reach: newest, whole, and never in the way."""

from __future__ import annotations

import json
import re
import shutil
import threading

import fsspec
import pytest

from backend.errors import DamagedFilesError, FilesUnavailableError, SettingsError
from backend.storage.shelf import BucketShelf, FolderShelf
from backend.storage.state_shelf import StateShelf


class Machine:
    """A machine with a run folder of its own."""

    def __init__(self, folder, shelf):
        self.out, self.said = folder, []
        self.states = StateShelf(shelf, folder, self.said.append, pauses_s=(0.0,))

    def reach(self, step, *, run="a"):
        """Leaves a state as a training does: whole files, and the old ones removed."""
        for name, text in (
            (f"state/step-{step}/state.safetensors", f"weights {step}"),
            ("state/newest.json", json.dumps({"step": step, "recipe": {"run": run}})),
            ("adapter/adapter_model.safetensors", f"adapter {step}"),
            ("curve.csv", f"step\n{step}\n"),
            ("pool/scenes.npy", "what each machine draws itself"),
        ):
            place = self.out / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (place.parent / "staged").write_text(text)
            (place.parent / "staged").replace(place)
        for old in (self.out / "state").glob("step-*"):
            if old.name != f"step-{step}":
                shutil.rmtree(old)

    def store(self, *steps):
        for step in steps:
            self.reach(step)
            self.states.store_soon()
            assert self.states.finish()

    def content(self):
        return {
            path.relative_to(self.out).as_posix(): path.read_text()
            for path in self.out.rglob("*")
            if path.is_file() and "pool" not in path.parts
        }


@pytest.fixture(params=["folder", "bucket"])
def shelf(request, tmp_path):
    if request.param == "folder":
        yield FolderShelf(tmp_path / "shelf")
        return
    files = fsspec.filesystem("memory")
    yield BucketShelf(lambda: files, "/bucket/run", "s3://bucket/run")
    files.rm("/bucket", recursive=True)


@pytest.fixture
def machine(tmp_path):
    return lambda name, shelf: Machine(tmp_path / name, shelf)


@pytest.fixture
def folder(tmp_path):
    return FolderShelf(tmp_path / "shelf")


def steps(shelf):
    return sorted(int(name.split("-")[1]) for name in shelf.names())


def test_a_machine_without_a_state_gets_the_newest(machine, shelf):
    here, there = machine("here", shelf), machine("there", shelf)
    shelf.put("states/step-9.tar", __file__)  # not one of ours
    assert there.states.choose() is None
    assert there.states.finish(), "nothing to store yet"
    shelf.remove("states/step-9.tar")
    here.store(1, 2, 3)
    assert steps(shelf) == [2, 3]
    chosen = there.states.choose()
    assert chosen.step == 3
    assert there.said == ["goes on from step 3, which is stored there"]
    assert there.content() == here.content()
    assert there.content()["adapter/adapter_model.safetensors"] == "adapter 3"
    assert not (there.out / "pool").exists()
    there.reach(1)
    there.states.take(chosen)
    assert there.content() == here.content(), "an older state makes way"


def test_a_state_that_was_not_stored_yet_is_stored_before_the_start(machine, shelf):
    here, there = machine("here", shelf), machine("there", shelf)
    here.store(1)
    here.reach(2)
    there.states.take(here.states.choose())
    assert there.content() == here.content()
    assert steps(shelf) == [1, 2]


class SlowShelf(FolderShelf):
    """Stores when it is let."""

    def __init__(self, root):
        super().__init__(root)
        self.begun, self.may_go = threading.Event(), threading.Event()

    def put(self, name, archive):
        self.begun.set()
        assert self.may_go.wait(60)
        super().put(name, archive)


def test_training_does_not_wait_and_a_stored_state_is_of_one_step(machine, tmp_path):
    shelf = SlowShelf(tmp_path / "shelf")
    here = machine("here", shelf)
    here.reach(1)
    expected = here.content()
    here.states.store_soon()
    assert shelf.begun.wait(60)
    for step in (2, 3, 4):
        here.reach(step)
        here.states.store_soon()
    assert steps(shelf) == []
    shelf.may_go.set()
    assert here.states.finish()
    assert steps(shelf) == [1, 4], "states in between are left out"
    (newest,) = (name for name in shelf.names() if "step-0000004" in name)
    shelf.remove(newest)
    there = machine("there", shelf)
    there.states.choose()
    assert there.content() == expected
    assert here.content().keys() == expected.keys() - {"state/step-1/state.safetensors"} | {
        "state/step-4/state.safetensors"
    }, "nothing of what was stored is left"


def test_a_place_that_is_away_costs_a_warning(machine):
    files, is_away = fsspec.filesystem("memory"), False

    def connect():
        if is_away:
            raise RuntimeError("EndpointConnectionError")  # the clients' errors are of many kinds
        return files

    shelf = BucketShelf(connect, "/away/run", "s3://away/run")
    here = machine("here", shelf)
    here.store(1)
    is_away = True
    for step in (2, 3):
        here.reach(step)
        here.states.store_soon()
    assert not here.states.finish()
    assert all("cannot be reached now: RuntimeError" in text for text in here.said)
    assert here.said[-1].endswith("trying again at the next state")
    with pytest.raises(FilesUnavailableError, match="cannot be reached now"):
        machine("there", shelf).states.choose()
    is_away = False
    here.reach(4)
    here.states.store_soon()
    assert here.states.finish()
    assert steps(shelf) == [1, 4]
    files.rm("/away", recursive=True)


def test_a_damaged_state_gives_way_to_the_one_before(machine, folder, tmp_path):
    here, there = machine("here", folder), machine("there", folder)
    here.store(1, 2)
    older, newer = sorted((tmp_path / "shelf" / "states").iterdir())
    newer.write_bytes(newer.read_bytes()[:-700])
    chosen = there.states.choose()
    assert chosen.step == 1
    assert there.content()["curve.csv"] == "step\n1\n"
    assert re.search(r"the training state states/step-0000002.* is damaged", there.said[0])
    assert there.said[0].endswith("; taking the state before it")
    with pytest.raises(DamagedFilesError, match="step-0000002.*remove it there, and run"):
        there.states.take(here.states.choose())
    assert there.content()["curve.csv"] == "step\n1\n", "and what was there stays"
    older.write_bytes(b"")
    with pytest.raises(DamagedFilesError, match="all 2 training states there are damaged; remove"):
        machine("other", folder).states.choose()


def test_a_place_that_cannot_be_written_is_refused_before_the_start(machine, folder, tmp_path):
    here, there = machine("here", folder), machine("there", folder)
    here.store(1)
    root = tmp_path / "shelf"
    assert there.states.choose().step == 1
    assert [path.name.split("-")[0] for path in (root / "states").iterdir()] == ["step"]
    shutil.rmtree(root / ".incoming")
    (root / ".incoming").touch()  # no folder: nothing can be written, all can be read
    for one in (here, there, machine("other", folder)):
        with pytest.raises(FilesUnavailableError, match="^cannot be written: .*probe.tar"):
            one.states.choose()


def test_another_run_is_refused(machine, shelf):
    here, there = machine("here", shelf), machine("there", shelf)
    here.store(1)
    there.reach(5, run="b")
    with pytest.raises(SettingsError, match="another run"):
        there.states.choose()
    assert steps(shelf) == [1]


def test_what_a_kill_left_is_removed(machine, folder):
    here = machine("here", folder)
    here.store(1)
    left = here.out / ".uploads" / "left"
    left.mkdir(parents=True)
    here.states.choose()
    assert not left.exists()


def test_a_disk_that_refuses_costs_a_warning(machine, folder):
    here = machine("here", folder)
    here.reach(1)
    (here.out / ".uploads").write_text("no folder")
    here.states.store_soon()
    assert not here.states.finish()
    assert len(here.said) == 2
    (here.out / ".uploads").unlink()
    assert here.states.finish()
    assert steps(folder) == [1]
