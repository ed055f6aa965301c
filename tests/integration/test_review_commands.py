"""`calico predict-all` and `calico review`: a real backend, Label Studio's API in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.label_schema import LabelValue
from backend.label_studio.group_config import labels_config
from backend.label_studio.views import REVIEW_TITLE
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.serving.studio import connect_client
from backend.settings import load_settings
from tests.integration.fake_predictor import FakePredictor
from tests.integration.studio_double import PROJECT, StudioDouble, served

VERSION = "fake-00000001"
# An image is painted in the sum of the letters of its name.
SURE, DOUBTFUL = "a.png", "b.png"


@dataclass
class ScoringPredictor(FakePredictor):
    """Is sure of every region of bright groups, and of none but one of dark ones."""

    finds_nothing: bool = False

    def predict(self, group):
        found = super().predict(group)
        if self.finds_nothing:
            return replace(found, parts=())
        is_sure = group.images[0][0, 0, 0] % 2 == 0
        first, *others = found.parts
        scores = (0.98, 0.97 if is_sure else 0.3)
        parts = [replace(first, score=scores[0])]
        parts += [replace(part, score=scores[1]) for part in others]
        return replace(found, parts=tuple(parts))


@pytest.fixture
def predictor():
    return ScoringPredictor()


@pytest.fixture
def studio(app):
    client = app.test_client()

    def tell(body):
        assert client.post("/webhook", json=body).status_code in (200, 201)

    return StudioDouble(tell)


@pytest.fixture
def run(app, studio, tmp_path):
    with served(app) as backend, served(studio.app()) as label_studio:
        studio.backends = [backend]

        def call(command, *arguments):
            ends = ["--url", label_studio, "--api-key", "0" * 40, "--project", PROJECT]
            folder = ["--data-dir", tmp_path / "data"] if command == "review" else []
            words = [command, *map(str, (*ends, *folder, *arguments))]
            result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
            return result, json.loads(result.stdout.splitlines()[-1])

        call.label_studio = label_studio
        yield call


def rows(app, run):
    """What learning has derived from the journal, by task."""
    store = app.extensions["calico"].store
    repository = CorrectionRepository(store)
    client = connect_client(
        load_settings(label_studio_url=run.label_studio, label_studio_api_key="0" * 40)
    )
    Derivation(repository, StudioPredictions(client)).derive(PROJECT)
    return {row.task_id: row for row in repository.tasks(PROJECT)}


def test_every_task_is_predicted_once_and_the_failed_ones_are_listed(studio, run, predictor):
    for task_id, images in enumerate(
        ([SURE], [DOUBTFUL], ["damaged.png"], [], [SURE, DOUBTFUL], ["missing.png"]), start=1
    ):
        studio.add_task(task_id, images)
    planned, plan = run("predict-all", "--dry-run")
    assert (planned.exit_code, plan["to_predict"], studio.predictions) == (0, 6, {})

    first, report = run("predict-all")
    assert first.exit_code == 1
    assert (report["version"], report["predicted"], report["failed"]) == (VERSION, 3, 3)
    reasons = {one["task"]: one["reason"] for one in report["failures"]}
    assert reasons[3] == "data.images[0]: on purpose"
    assert reasons[4].startswith("data.images: ")
    assert "data.images[0]: on purpose" in first.stdout
    assert {one["task"] for one in studio.predictions.values()} == {1, 2, 5}
    assert max(map(len, first.stdout.splitlines()[:-1])) <= 80

    asked = predictor.asked
    _, again = run("predict-all")
    assert (again["predicted"], again["already"], again["failed"]) == (0, 3, 3)
    assert len(studio.predictions) == 3
    assert predictor.asked == asked


def test_an_empty_prediction_of_a_broken_image_gives_its_reason_and_is_healed(studio, run, images):
    studio.add_task(1, ["damaged.png"])
    studio.add_prediction(1, [], VERSION)
    failed, report = run("predict-all")
    assert (failed.exit_code, report["failures"][0]["task"]) == (1, 1)
    assert len(studio.predictions) == 1

    studio.add_task(1, [SURE])
    healed, report = run("predict-all")
    assert (healed.exit_code, report["predicted"]) == (0, 1)
    (prediction,) = studio.predictions.values()
    assert prediction["result"]


def test_a_note_where_nothing_was_found_is_stored_once_and_is_no_region(studio, run, predictor):
    studio.config = labels_config([LabelValue("lid")])  # with text areas for notes
    predictor.finds_nothing = True
    studio.add_task(1, [SURE])
    _, report = run("predict-all")
    assert report["predicted"] == 1
    (noted,) = studio.predictions.values()
    assert [one["type"] for one in noted["result"]] == ["textarea"]

    _, report = run("predict-all")
    assert (report["predicted"], report["already"]) == (0, 1)
    assert list(studio.predictions.values()) == [noted]
    shown, _ = run("review")
    assert "nothing was found" in shown.stdout
    _, report = run("review", "--accept-above", 0.5)
    assert (report["accepted"], report["below"], report["empty"]) == (0, 0, 1)


def test_scores_are_read_one_by_one_where_label_studio_shows_those_of_another_version(studio, run):
    studio.version = "chosen by hand"
    for task_id, name in ((1, SURE), (2, DOUBTFUL)):
        studio.add_task(task_id, [name])
    studio.add_prediction(1, [], "chosen by hand", 0.1)
    _, report = run("predict-all")
    assert report["predicted"] == 2
    _, report = run("review")
    assert report["order"] == [2, 1]


def test_what_label_studio_stored_twice_is_tidied_up(studio, run):
    studio.add_task(1, [SURE])
    run("predict-all")
    (first,) = studio.predictions.values()
    studio.add_prediction(1, first["result"], VERSION, first["score"])
    studio.add_prediction(1, [], "somebody else")
    _, report = run("predict-all")
    assert report["duplicates_deleted"] == 1
    left = sorted(one["model_version"] for one in studio.predictions.values())
    assert left == [VERSION, "somebody else"]


def test_all_are_predicted_again_in_place_of_the_old(studio, run):
    studio.add_task(1, [SURE])
    run("predict-all")
    (before,) = studio.predictions
    _, report = run("predict-all", "--again")
    (after,) = studio.predictions
    assert (report["predicted"], report["duplicates_deleted"]) == (1, 1)
    assert after > before


def test_the_doubtful_tasks_come_first_in_a_tab_of_their_own(studio, run):
    for task_id, name in ((1, SURE), (2, DOUBTFUL), (3, SURE), (4, DOUBTFUL)):
        studio.add_task(task_id, [name])
    run("predict-all")
    studio.drafts.add(4)
    for _ in range(2):
        shown, report = run("review")
    assert shown.exit_code == 0
    assert report["order"] == [2, 1, 3]
    assert report["with_draft"] == 1
    assert "1 task left out: somebody has begun and not submitted" in shown.stdout
    default, view = studio.views.values()
    assert (default["data"]["title"], view["data"]["title"]) == ("Default", REVIEW_TITLE)
    assert view["data"]["ordering"] == ["tasks:predictions_score"]
    assert report["view"].endswith(f"/projects/{PROJECT}/data?tab={view['id']}")
    assert "lid 0.30" in shown.stdout
    studio.views.clear()
    run("review", "--dry-run")
    assert studio.views == {}


def test_accepted_in_bulk_teaches_nothing_until_a_person_submits(app, studio, run):
    for task_id, name in ((1, SURE), (2, DOUBTFUL), (3, SURE), (4, SURE), (5, SURE)):
        studio.add_task(task_id, [name])
    run("predict-all")
    studio.drafts.add(5)
    _, plan = run("review", "--accept-above", 0.9, "--dry-run")
    assert (plan["candidates"], plan["accepted"], studio.annotations) == (3, 0, {})

    _, report = run("review", "--accept-above", 0.9)
    assert (report["accepted"], report["below"]) == (3, 1)
    assert sorted(one["task"] for one in studio.annotations.values()) == [1, 3, 4]
    learned = rows(app, run)
    assert {task: row.is_unseen for task, row in learned.items()} == {1: True, 3: True, 4: True}

    by_task = {one["task"]: number for number, one in studio.annotations.items()}
    studio.submit(by_task[3])
    learned = rows(app, run)
    assert (learned[3].standing, learned[3].tally.accepted) == (Standing.CORRECTED, 3)
    assert learned[1].is_unseen

    studio.drafts.add(4)
    _, plan = run("review", "--undo", "--dry-run")
    assert (plan["taken_back"], plan["touched"], len(studio.annotations)) == (1, 2, 3)
    _, undone = run("review", "--undo")
    assert (undone["taken_back"], undone["touched"]) == (1, 2)
    assert sorted(one["task"] for one in studio.annotations.values()) == [3, 4]
    assert set(rows(app, run)) == {3, 4}
    _, nothing = run("review", "--undo")
    assert (nothing["taken_back"], nothing["touched"]) == (0, 0)


def test_copies_that_somebody_else_made_are_not_taken_back(studio, run):
    studio.add_task(1, [SURE])
    studio.add_task(2, [SURE])
    run("predict-all")
    (own, other) = studio.predictions.values()
    copy = {"id": 1, "task": other["task"], "result": other["result"], "updated_by": None}
    copy |= {"parent_prediction": other["id"], "updated_at": "2026-03-01T00:00:00Z"}
    studio.annotations[1] = copy
    run("review", "--accept-above", 0.5)
    assert sorted(one["task"] for one in studio.annotations.values()) == [1, 2]
    run("review", "--undo")
    assert list(studio.annotations) == [1]
    assert own["task"] == 1
