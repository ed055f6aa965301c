"""`calico prelabel --project`: every task of a project has one prediction, whatever is killed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.prelabel_parts import PartFolder
from backend.cli.prelabel_project import run_project
from backend.cli.prelabel_workers import PrelabelError
from backend.errors import BackendError, SettingsError
from backend.settings import load_settings
from backend.storage.store import open_store
from calico_model.errors import CalicoError
from tests.integration.counting_model import BASE
from tests.integration.studio_double import PROJECT, StudioDouble, served
from tests.servers.fleet import promote
from tests.unit.cli.prelabel_double import lines_of
from tests.unit.cli.prelabel_project_double import begin_noting
from tests.unit.cli.test_prelabel import ROOT, kill_three_workers_and_the_driver


class ProjectJob:
    """A project of Label Studio, and a job whose model notes its work."""

    def __init__(self, tmp_path, studio_url, studio):
        self.log, self.gate, self.studio, self.url = (
            tmp_path / "log",
            tmp_path / "gate",
            studio,
            studio_url,
        )
        self.settings = load_settings(
            data_dir=tmp_path / "data",
            label_studio_url=studio_url,
            label_studio_api_key="0" * 40,
        )
        self.store = open_store(self.settings.store_url)

    def add_tasks(self, count):
        for task in range(1, count + 1):
            self.studio.add_task(task, [f"{task}-a.png", f"{task}-b.png"])

    def run(self, *, workers=1, size=5):
        begin = functools.partial(begin_noting, self.log, self.gate)
        return run_project(self.settings, PROJECT, workers=workers, size=size, begin=begin)

    def predicted(self, version=BASE):
        """Number of stored predictions of a version by task."""
        found = self.studio.predictions.values()
        return Counter(one["task"] for one in found if one["model_version"] == version)


@pytest.fixture
def job(tmp_path):
    studio = StudioDouble()
    with served(studio.app()) as url:
        made = ProjectJob(tmp_path, url, studio)
        yield made
        made.store.close()


def test_every_task_has_one_prediction_and_a_second_run_does_nothing(job):
    job.add_tasks(12)
    report = job.run()
    assert (report["version"], report["tasks"], report["done"], report["left"]) == (BASE, 12, 12, 0)
    assert (report["problems"], report["stopped"]) == ([], False)
    assert job.predicted() == dict.fromkeys(range(1, 13), 1)
    assert all(one["result"] for one in job.studio.predictions.values())
    again = job.run(size=3)
    assert (again["tasks"], again["done"]) == (0, 0)
    assert lines_of(job.log) == 12


def test_several_tasks_at_once_have_one_prediction_each(job):
    job.settings = job.settings.model_copy(update={"groups_at_once": 4})
    job.add_tasks(11)
    job.studio.tasks[3]["data"] = {"text": "no images"}
    report = job.run(workers=2, size=4)
    assert (report["done"], report["left"]) == (10, 1)
    assert [one["task"] for one in report["problems"]] == [3]
    assert job.predicted() == dict.fromkeys(set(range(1, 12)) - {3}, 1)
    assert lines_of(job.log) == 10


def test_the_command_says_how_many_tasks_are_asked_about_at_once(tmp_path, monkeypatch):
    asked = []

    def run(settings, project_id, **_options):
        asked.append((project_id, settings.groups_at_once))
        return {}

    monkeypatch.setattr("backend.cli.prelabel_project.run_project", run)
    words = ["prelabel", "--project", "7", "--data-dir", str(tmp_path)]
    for more in ([], ["--batch", "8"]):
        CliRunner().invoke(command_tree(words), [*words, *more], catch_exceptions=False)
    assert asked == [(7, 1), (7, 8)]


def test_what_somebody_began_or_is_predicted_is_left_alone(job):
    job.add_tasks(4)
    job.studio.drafts.add(1)
    job.studio.add_prediction(2, [], BASE)
    job.studio.add_prediction(3, [], "older")
    report = job.run()
    assert (report["tasks"], report["done"]) == (2, 2)
    assert job.predicted() == {2: 1, 3: 1, 4: 1}


def test_a_task_that_cannot_be_predicted_is_told_with_its_reason(job):
    job.add_tasks(2)
    job.studio.tasks[1]["data"] = {"text": "no images"}
    report = job.run()
    assert (report["done"], report["left"]) == (1, 1)
    ((problem),) = report["problems"]
    assert problem["task"] == 1
    assert "images" in problem["reason"]


def test_the_version_that_is_served_predicts(job):
    job.add_tasks(3)
    version = promote(job.store, job.settings.adapters_dir)
    report = job.run()
    assert (report["version"], report["done"]) == (version, 3)
    assert job.predicted(version) == {1: 1, 2: 1, 3: 1}


def test_a_version_that_is_not_here_is_not_replaced_by_another(job):
    job.add_tasks(1)
    version = promote(job.store, job.settings.adapters_dir)
    (job.settings.adapters_dir / str(PROJECT) / version).rename(job.settings.adapters_dir / "away")
    with pytest.raises(PrelabelError, match=f"{version} cannot be loaded here"):
        job.run()
    assert not job.studio.predictions


def test_a_second_job_of_a_project_is_kept_out(job):
    job.add_tasks(1)
    folder = job.settings.data_dir / "prelabel" / f"project-{PROJECT}"
    with PartFolder(folder).alone(), pytest.raises(SettingsError, match="--project: another job"):
        job.run()


DRIVER = """
import functools, json, sys
from pathlib import Path
from backend.cli.prelabel_project import run_project
from backend.settings import load_settings
from tests.unit.cli.prelabel_project_double import begin_noting
data, url, log, gate, project, size = sys.argv[1:]
settings = load_settings(data_dir=data, label_studio_url=url, label_studio_api_key="0" * 40)
begin = functools.partial(begin_noting, Path(log), Path(gate))
print(json.dumps(run_project(settings, int(project), workers=2, size=int(size), begin=begin)))
"""


def start(job, size):
    words = [job.settings.data_dir, job.url, job.log, job.gate, PROJECT, size]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


@pytest.mark.slow
def test_three_workers_and_the_driver_are_killed(job):
    count = 60
    job.add_tasks(count)
    report = kill_three_workers_and_the_driver(job, lambda: start(job, 8), count)
    assert (report["left"], report["problems"]) == (0, [])
    assert job.predicted() == dict.fromkeys(range(1, count + 1), 1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "expected MANIFEST and --out DIR, or --project ID"),
        (["photographs"], "expected MANIFEST and --out DIR, or --project ID"),
        (["photographs", "--project", "7"], "MANIFEST: expected none with --project"),
        (["--project", "7", "--out", "x"], "--out: expected it with MANIFEST"),
        (["--project", "7"], "--project: expected LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"),
        (["--project", "7", "--address", "h:1"], "--address: expected it with MANIFEST"),
        (["photographs", "--out", "x", "--url", "http://x"], "--url: expected it with --project"),
    ],
)
def test_what_does_not_go_together_is_told(words, reason, monkeypatch, tmp_path):
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path))
    result = CliRunner().invoke(command_tree(["prelabel"]), ["prelabel", *words])
    assert isinstance(result.exception, BackendError | CalicoError)
    assert reason in str(result.exception)
