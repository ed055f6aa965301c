"""`calico predict-all` and `calico review` against a real Label Studio."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from backend.label_studio.client import LabelStudioProject
from backend.label_studio.copies import stored_annotations
from backend.label_studio.group_config import open_config
from backend.label_studio.onboarding import retrieve_predictions
from backend.label_studio.predictions import delete_duplicates, stored_predictions, task_states
from tests.e2e.studio_api import delete_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(demo: Demo, ends: Ends) -> Iterator[LabelStudioProject]:
    """A connected project of its own: a group of the demo, and one with a broken image."""
    project = ends.client.create_project("review", open_config())
    connect_project(ends, project.id)
    first = next(ends.client.raw_tasks(demo.project_id))
    broken = demo.files / "images" / "broken.png"
    broken.write_bytes(b"not an image")
    images = [f"/data/local-files/?d=images/{broken.name}"] * 2
    ends.client.import_tasks(project.id, [{"data": first["data"]}, {"data": {"images": images}}])
    yield project
    delete_project(ends.client, project.id)


def test_predict_review_accept_and_take_back(
    demo: Demo, ends: Ends, project: LabelStudioProject
) -> None:
    client = ends.client
    good, bad = sorted(state.id for state in task_states(client, project.id))

    status, report = run("predict-all", demo, ends, project.id)
    assert (status, report["predicted"], report["failed"]) == (1, 1, 1)
    assert report["failures"][0]["task"] == bad
    (prediction,) = stored_predictions(client, good)
    assert stored_predictions(client, bad) == ()

    _, shown = run("review", demo, ends, project.id)
    assert shown["order"] == [good]
    listed = client.get(
        "/api/tasks/", params={"view": int(shown["view"].partition("tab=")[2]), "page": 1}
    )
    assert isinstance(listed, dict)
    # Label Studio has the score of the version that is served now, and lists what has one.
    assert [task["id"] for task in listed["tasks"]] == [good]
    assert listed["tasks"][0]["predictions_score"] == pytest.approx(prediction.score)

    least = min(region.score or 0.0 for region in prediction.regions)
    _, accepted = run("review", demo, ends, project.id, "--accept-above", str(max(least, 0.0001)))
    assert accepted["accepted"] == 1
    (copy,) = stored_annotations(client, project.id, project.label_config, [good])
    assert (copy.prediction_id, copy.was_seen) == (prediction.id, False)

    _, undone = run("review", demo, ends, project.id, "--undo")
    assert undone["taken_back"] == 1
    assert stored_annotations(client, project.id, project.label_config, [good]) == ()


def test_predictions_that_several_people_retrieve_at_once_are_tidied_up(
    ends: Ends, project: LabelStudioProject
) -> None:
    good = min(state.id for state in task_states(ends.client, project.id))
    people = [
        threading.Thread(target=retrieve_predictions, args=(ends.client, project.id))
        for _ in range(2)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    found = stored_predictions(ends.client, good)
    assert {one.version for one in found} == {found[0].version}
    delete_duplicates(ends.client, project.id, good, {found[0].version})
    assert [one.id for one in stored_predictions(ends.client, good)] == [found[-1].id]


def run(
    command: str, demo: Demo, ends: Ends, project_id: int, *more: str
) -> tuple[int, dict[str, Any]]:
    assert ends.credentials is not None
    user, password = ends.credentials
    words = [command, "--project", str(project_id), "--url", ends.client.url]
    words += ["--api-key", demo.state.account.api_key, "--user", user, "--password", password]
    if command == "review":
        words += ["--data-dir", str(demo.folder / "backend")]
    words += more
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])
