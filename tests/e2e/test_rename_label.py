"""`calico rename-label` against a real Label Studio and a backend with the shipped weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from backend.label_schema import LabelValue
from backend.label_studio.backend_client import BackendAnswer, BackendClient
from backend.label_studio.client import LabelStudioProject
from backend.label_studio.copies import copy_predictions, stored_annotations
from backend.label_studio.group_config import labels_config
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import vocabulary_in
from backend.label_studio.predictions import stored_predictions, task_states
from backend.label_studio.relabelling import set_config
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.reconcile import Reconciler, Repair
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from backend.storage.store import open_store
from calico_model.types import RegionKind
from tests.e2e.annotator import wait
from tests.e2e.studio_api import delete_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NEW = "thing of another name"


@pytest.fixture
def project(demo: Demo, ends: Ends) -> Iterator[LabelStudioProject]:
    """A connected project whose labels are what the model names, with three equal tasks."""
    first = next(ends.client.raw_tasks(demo.project_id))
    task_id = first["id"]
    assert isinstance(task_id, int)
    regions = [r for one in stored_predictions(ends.client, task_id) for r in one.regions]
    kinds = {kind.value for kind in RegionKind}  # in the demo, the labels are the kinds
    names = sorted({name for region in regions for name in region.labels} - kinds)
    config = labels_config([LabelValue(name) for name in names])
    project = ends.client.create_project("rename", config)
    connect_project(ends, project.id)
    ends.client.import_tasks(project.id, [{"data": first["data"]}] * 3)
    yield project
    delete_project(ends.client, project.id)


@pytest.fixture
def repository(demo: Demo) -> Iterator[CorrectionRepository]:
    """The database of the running backend."""
    url = f"sqlite:///{demo.folder / 'backend' / 'calico.sqlite3'}"
    store = open_store(url, is_guest=True, commit_timeout_s=30)
    yield CorrectionRepository(store)
    store.close()


def test_a_label_is_renamed_in_label_studio_and_in_what_the_backend_knows(
    demo: Demo, ends: Ends, project: LabelStudioProject, repository: CorrectionRepository
) -> None:
    client, tasks = ends.client, sorted(s.id for s in task_states(ends.client, project.id))
    before = predicted(ends, project.id)
    (old, count), *_ = labels_of(json.loads(before.regions or b"[]")).most_common()
    assert count
    predictions = [
        client.create_prediction(task, before.regions or b"", score=0.5, version=before.version)
        for task in tasks
    ]
    result = json.loads(before.regions or b"[]")
    annotations = [
        submitted(ends, task, result, prediction)
        for task, prediction in zip(tasks[:2], predictions, strict=False)
    ]
    copy_predictions(client, project.id, tasks[2:], before.version)
    bound = client.post(
        f"/api/tasks/{tasks[1]}/annotations/{annotations[1]}/drafts", {"result": result}
    )
    free = client.post(f"/api/tasks/{tasks[2]}/drafts", {"result": result})
    assert isinstance(bound, dict)
    assert isinstance(free, dict)
    wait(lambda: len(repository.heads(project.id)) == 3)
    derivation = Derivation(repository, StudioPredictions(client))
    derivation.derive(project.id)
    places = corrected(repository, project.id)
    assert places.keys() == set(tasks[:2])

    status, report = rename(demo, ends, project.id, old, "--dry-run")
    counts = [report[name] for name in ("annotations", "predictions", "copies")]
    assert (status, counts) == (1, [1, 3, 1])
    assert client.project(project.id).label_config == project.label_config

    status, report = rename(demo, ends, project.id, old)
    names = ("annotations", "drafts", "predictions", "copies", "left_for_draft", "left_unseen")
    counts = [report[name] for name in names]
    assert (status, counts, report["failures"]) == (1, [1, 2, 3, 1, 1, 0], [])
    client.delete(f"/api/drafts/{bound['id']}/")
    status, report = rename(demo, ends, project.id, old)
    assert (status, report["annotations"], report["config_changed"]) == (0, 1, False)
    status, report = rename(demo, ends, project.id, old)
    assert (status, report["tasks"]) == (0, 0)

    held = client.project(project.id)
    (copy,) = stored_annotations(client, project.id, held.label_config, tasks[2:])
    assert not copy.was_seen
    for path in (
        f"/api/annotations/{copy.id}/",
        *(f"/api/annotations/{number}/" for number in annotations),
        *(f"/api/predictions/{number}/" for number in predictions),
        f"/api/drafts/{free['id']}/",
    ):
        stored = client.get(path)
        assert isinstance(stored, dict)
        assert renamed(labels_of(stored["result"]), NEW, old) == labels_of(result), path
    vocabulary = vocabulary_in(parse_label_config(held.label_config), ())
    assert vocabulary is not None
    assert (old in vocabulary.labels, vocabulary.find(old)) == (False, NEW)
    # As the page of settings does it, which refuses to lose labels of annotations and drafts.
    client.post(f"/api/projects/{project.id}/validate/", {"label_config": held.label_config})

    derivation.derive(project.id)
    assert corrected(repository, project.id) == places
    assert all(row.tally.accepted == row.tally.predicted for row in repository.tasks(project.id))
    assert old not in {row.label_after for row in repository.outcomes(project.id)}
    assert Reconciler(repository, client).reconcile(project.id, is_full=True) == Repair()

    after = predicted(ends, project.id)
    assert after.version == before.version
    assert renamed(labels_of(json.loads(after.regions or b"[]")), NEW, old) == labels_of(result)

    # Renamed by hand, as a page of settings lets one: the command does what is left.
    by_hand = held.label_config.replace(f'value="{NEW}"', 'value="third name"')
    set_config(client, project.id, by_hand)
    status, report = rename(demo, ends, project.id, NEW, new="third name")
    assert (status, report["annotations"], report["config_changed"]) == (0, 2, True)
    again = predicted(ends, project.id)
    found = labels_of(json.loads(again.regions or b"[]"))
    assert renamed(found, "third name", old) == labels_of(result)
    derivation.derive(project.id)
    assert corrected(repository, project.id) == places


def corrected(repository: CorrectionRepository, project_id: int) -> dict[int, int]:
    """Task -> place in the journal of what was corrected there."""
    rows = repository.tasks(project_id)
    return {row.task_id: row.seq for row in rows if row.standing is Standing.CORRECTED}


def labels_of(result: list[dict[str, Any]]) -> Counter[str]:
    return Counter(name for one in result for name in one.get("value", {}).get("labels", []))


def renamed(labels: Counter[str], old: str, new: str) -> Counter[str]:
    return Counter({new if name == old else name: count for name, count in labels.items()})


def predicted(ends: Ends, project_id: int) -> BackendAnswer:
    """What the backend answers about the first task now."""
    config = ends.client.project(project_id).label_config
    state = next(task_states(ends.client, project_id))
    with closing(BackendClient(ends.backend_url, ends.credentials)) as backend:

        def ask() -> BackendAnswer | None:
            (answer,) = backend.predict(project_id, config, [state])
            return answer if answer.is_finished else None

        answer = wait(ask)
    assert isinstance(answer, BackendAnswer)
    assert answer.problem is None
    return answer


def submitted(ends: Ends, task_id: int, result: list[object], prediction: int) -> int:
    body = {"result": result, "parent_prediction": prediction}
    answer = ends.client.post(f"/api/tasks/{task_id}/annotations/", body)
    assert isinstance(answer, dict)
    return int(answer["id"])


def rename(
    demo: Demo, ends: Ends, project_id: int, old: str, *more: str, new: str = NEW
) -> tuple[int, dict[str, Any]]:
    words = ["rename-label", "--project", str(project_id), "--url", ends.client.url]
    words += ["--api-key", demo.state.account.api_key]
    words += ["--data-dir", str(demo.folder / "backend"), old, new, *more]
    result = CliRunner().invoke(command_tree(words), words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])
