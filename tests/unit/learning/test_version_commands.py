"""`calico versions`, `rollback`, `train-now` and `status`, beside a backend that was here."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.errors import SettingsError, VersionError
from backend.learning import schedule
from backend.learning.schedule import Cause
from backend.storage.adapter_files import AdapterFiles
from backend.storage.shelf import FolderShelf
from backend.storage.versions import Versions
from tests.unit.learning.annotated import box, deletion, event, results
from tests.unit.learning.school import HELD_OUT, PROJECT, REGIONS, TRAINED, School


@pytest.fixture
def school(tmp_path, monkeypatch):
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = School(tmp_path)
    made.data_dir = tmp_path
    yield made
    made.store.close()


def printed(school, *words):
    words = [*map(str, words), "--data-dir", str(school.data_dir)]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run(school, *words):
    return json.loads(printed(school, *words).splitlines()[-1])


def test_versions_show_what_the_gate_saw(school, monkeypatch):
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)
    school.correct(*TRAINED[:3], *HELD_OUT[:3])
    school.train()
    school.updater.gain = -9
    school.correct(*TRAINED[3:6])
    school.train()
    rejected, current = run(school, "versions")["versions"]
    assert (rejected["status"], current["status"]) == ("rejected", "current")
    assert rejected["reason"].startswith("worse on corrections kept for testing")
    assert rejected["parent"] == current["version"]
    assert rejected["explanation"]["why"].startswith("After training it found fewer of the")
    assert current["explanation"]["why"].endswith("40.0 -> 55.0 of 100 regions.")
    assert current["gate"]["held_out"]["mIoU"] == [40, 55]
    assert current["corrections"] == 3


def test_versions_of_this_machine_are_put_where_other_servers_find_them(
    school, monkeypatch, tmp_path
):
    school.correct(*TRAINED[:3])
    school.train()
    with pytest.raises(SettingsError, match="CALICO_ADAPTERS_URL"):
        run(school, "versions", "--upload")
    monkeypatch.setenv("CALICO_ADAPTERS_URL", f"file://{tmp_path}/shelf")
    assert run(school, "versions", "--upload")["uploaded"] == [school.current.id]
    assert run(school, "versions", "--upload")["uploaded"] == []
    shelf = FolderShelf(tmp_path / "shelf")
    elsewhere = Versions(school.store, AdapterFiles(tmp_path / "elsewhere", shelf))
    place = elsewhere.verify(school.current)
    assert {p.name for p in place.iterdir()} == {
        p.name for p in school.versions.path(school.current).iterdir()
    }


def test_rolling_back_and_forth(school):
    for start in (0, 3):
        school.correct(*TRAINED[start : start + 3])
        school.train()
    second, first = (version.id for version in school.versions.all())
    assert run(school, "rollback", "--project", PROJECT)["version"] == first
    assert school.current.id == first
    assert run(school, "rollback", "--project", PROJECT, "--to", second)["version"] == second
    assert run(school, "rollback", "--project", PROJECT, "--to", "base")["version"] is None
    with pytest.raises(VersionError, match="nothing to take back"):
        run(school, "rollback", "--project", PROJECT)
    with pytest.raises(VersionError, match="^--to: nobody: expected a published version"):
        run(school, "rollback", "--project", PROJECT, "--to", "nobody")


@pytest.mark.parametrize("command", ["status", "versions", "corrections"])
def test_a_project_that_nothing_has_come_from_is_refused(school, command):
    school.correct(TRAINED[0])
    assert run(school, command, "--project", PROJECT)
    with pytest.raises(SettingsError, match="--project: nothing has come from project 99 yet"):
        run(school, command, "--project", 99)


def test_train_now_says_that_a_new_correction_has_to_come_first(school):
    school.correct(*TRAINED[:3])
    assert "as soon as it is free" in printed(school, "train-now", "--project", PROJECT)
    school.train()
    shown = printed(school, "train-now", "--project", PROJECT)
    assert "has learned from all 3 corrections" in shown
    school.store.record_events([deletion(100 + task) for task in TRAINED[:3]])
    with pytest.raises(SettingsError, match="has sent no corrections yet"):
        run(school, "train-now", "--project", PROJECT)


def test_train_now_is_a_wish_the_trainer_finds(school):
    with pytest.raises(SettingsError, match="project 7 has sent no corrections yet"):
        run(school, "train-now", "--project", PROJECT)
    school.correct(TRAINED[0])
    assert school.train() == 0
    assert run(school, "train-now", "--project", PROJECT)["requested"]
    (waiting,) = run(school, "status")["projects"]
    assert "was asked for" in waiting["explanation"]["advice"]
    assert school.train() == 1
    (trained,) = run(school, "status")["projects"]
    assert "was asked for" not in trained["explanation"]["advice"]
    assert school.last.cause is Cause.REQUEST


def test_status_counts_corrections_and_names_the_last_run(school, monkeypatch):
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)
    school.correct(*TRAINED[:3], HELD_OUT[0])
    school.train()
    school.correct(*TRAINED[3:5])
    school.train()
    answer = b'{"score": 0.5, "regions": %s}' % json.dumps(REGIONS).encode()
    task, version = TRAINED[5], school.current.id
    school.store.keep_prediction("k", answer, project_id=PROJECT, task_id=task, version=version)
    changed = results(("a", box(10, 10, 30, 40), "hinge"), ("b", box(0, 50, 5, 60), "rim"))
    school.store.record_events([event(900, changed, task=task)])
    school.updater.gain = -9
    school.train()
    (found,) = run(school, "status")["projects"]
    assert (found["version"], found["corrections"], found["held_out"]) == (version, 7, 1)
    assert (found["new"], found["acceptance"], found["acceptance_tasks"]) == (3, 0.5, 1)
    assert (found["run"]["state"], found["run"]["cause"]) == ("rejected", "count")
    assert found["explanation"]["seen"].startswith("Annotators see what they saw before")
    assert found["outlook"]["more"] is None
    shown = printed(school, "status")
    for sentence in (*found["explanation"].values(), found["outlook"]["words"]):
        assert sentence in shown


def test_status_of_a_run_under_way(school):
    school.correct(TRAINED[0])
    run_id = school.runs.claim(PROJECT, Cause.COUNT)
    school.runs.report(run_id, stage="learning", progress=0.5, eta_s=20.0)
    (found,) = run(school, "status", "--project", PROJECT)["projects"]
    shown = {name: found["run"][name] for name in ("state", "stage", "progress", "eta_s")}
    assert shown == {"state": "running", "stage": "learning", "progress": 0.5, "eta_s": 20.0}


def test_a_folder_nothing_was_served_from_is_named(tmp_path):
    words = ["versions", "--data-dir", str(tmp_path / "nowhere")]
    with pytest.raises(SettingsError, match="no database .*nowhere"):
        CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
