"""`calico new-project` and `calico disconnect` against a real Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.errors import SettingsError
from backend.label_studio.group_project import VIEW_TITLE, group_view
from tests.e2e.studio_api import delete_project

pytestmark = pytest.mark.e2e

TITLE = "Made by a command"


@pytest.fixture(autouse=True)
def no_leftovers(ends: Ends) -> Iterator[None]:
    yield
    for project in ends.client.projects():
        if project.title == TITLE:
            delete_project(ends.client, project.id)


def calico(demo: Demo, ends: Ends, *arguments: str, password: str | None = None) -> Result:
    assert ends.credentials is not None
    user, right = ends.credentials
    given = [*arguments, "--url", ends.client.url, "--api-key", demo.state.account.api_key]
    given += ["--backend-url", ends.backend_url]
    if arguments[0] == "new-project":
        given += ["--user", user, "--password", password or right]
    return CliRunner().invoke(command_tree(given), given)


def last_line(result: Result) -> dict[str, object]:
    answer: dict[str, object] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def test_a_project_is_made_once_and_disconnected_without_loss(demo: Demo, ends: Ends) -> None:
    client = ends.client
    made = calico(demo, ends, "new-project", "--title", TITLE, "--labels", "roof,wall=side")
    assert made.exit_code == 0, made.output
    report = last_line(made)
    project_id = int(str(report["project"]))
    assert report["url"] == f"{client.url}/projects/{project_id}/data"
    assert report["connected"] is True

    stored = client.get(f"/api/projects/{project_id}/")
    assert isinstance(stored, dict)
    assert "<b>Ctrl + click</b>" in stored["expert_instruction"]
    assert stored["show_instruction"] is True
    assert stored["show_collab_predictions"] is True
    views = client.get("/api/dm/views/", params={"project": project_id})
    assert isinstance(views, list)
    assert [view["data"] for view in views] == [group_view()]
    assert views[0]["data"]["title"] == VIEW_TITLE
    (backend,) = client.ml_backends(project_id)
    assert backend.url == ends.backend_url
    (hook,) = client.webhooks(project_id)
    assert dict(hook.headers) == ends.webhook_headers

    again = calico(demo, ends, "new-project", "--title", TITLE, "--open")
    assert isinstance(again.exception, SettingsError)
    assert f"project {project_id} has this title already" in str(again.exception)

    (task, *_) = client.raw_tasks(demo.project_id)
    (task_id,) = client.import_tasks(project_id, [{"data": task["data"]}])
    client.get(f"/api/tasks/{task_id}/")  # Label Studio asks the backend, and stores the answer
    kept = predictions(ends, project_id)
    assert len(kept) == 1

    gone = calico(demo, ends, "disconnect", "--project", str(project_id))
    assert gone.exit_code == 0, gone.output
    assert last_line(gone)["backends"] == last_line(gone)["webhooks"] == 1
    assert client.ml_backends(project_id) == ()
    assert client.webhooks(project_id) == ()
    assert predictions(ends, project_id) == kept


def test_what_failed_half_way_can_be_finished(demo: Demo, ends: Ends) -> None:
    options = ("new-project", "--title", TITLE, "--open")
    failed = calico(demo, ends, *options, password="wrong")
    assert failed.exit_code == 2
    project_id = last_line(failed)["project"]
    assert last_line(failed)["connected"] is False
    assert "refuses these credentials" in failed.stderr
    assert "run the same command again with --finish" in failed.stderr

    finished = calico(demo, ends, *options, "--finish")
    assert finished.exit_code == 0, finished.output
    assert last_line(finished)["project"] == project_id
    assert len(ends.client.ml_backends(int(str(project_id)))) == 1


def predictions(ends: Ends, project_id: int) -> list[tuple[object, object]]:
    (task,) = ends.client.raw_tasks(project_id, fields="all")
    stored = task["predictions"]
    assert isinstance(stored, list)
    return [(prediction["id"], prediction["result"]) for prediction in stored]
