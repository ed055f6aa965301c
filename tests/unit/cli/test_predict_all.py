"""`calico predict-all` beside a backend that predicts again by itself."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from backend.cli import predict_all as command
from backend.cli.connect import Ends
from backend.cli.predict_all import Outcome, _Work
from backend.errors import LabelStudioAuthError
from backend.label_studio.backend_client import BackendAnswer
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.predictions import TaskState


class Studio:
    """Label Studio's predictions of task 1, with those of the backend."""

    def __init__(self, *versions: str) -> None:
        self.versions = list(versions)

    def raw_predictions(self, task_id: int) -> list[dict[str, object]]:
        assert task_id == 1
        return [{"id": n, "task": 1, "model_version": v} for n, v in enumerate(self.versions)]

    def create_prediction(
        self, task_id: int, regions: bytes, *, score: float, version: str
    ) -> None:
        self.versions.append(version)


class Backend:
    def predict(
        self, project_id: int, label_config: str, states: list[TaskState]
    ) -> list[BackendAnswer]:
        return [BackendAnswer(b'[{"type": "brush"}]', 0.9, "new") for _ in states]


@pytest.mark.parametrize(
    ("stored_meanwhile", "predicted", "kept"), [(["old"], 1, 0), (["old", "new"], 0, 1)]
)
def test_what_the_backend_has_stored_meanwhile_is_not_stored_twice(
    stored_meanwhile, predicted, kept
):
    studio, outcome = Studio(*stored_meanwhile), Outcome()
    project = SimpleNamespace(id=1, label_config="<View/>")
    work = _Work(studio, Backend(), project, "new", outcome)
    read_before = TaskState(1, {}, frozenset({"old"}), predictions=1, is_begun=False)
    work.predict([read_before], lambda: False)
    assert studio.versions == ["old", "new"]
    assert (outcome.predicted, outcome.kept, outcome.failures) == (predicted, kept, {})


def test_tasks_on_which_nothing_is_outlined_are_counted_and_told(capsys):
    class Nothing(Backend):
        def predict(self, project_id, label_config, states):
            return [BackendAnswer(b"[]", 0.0, "new") for _ in states]

    studio, outcome = Studio(), Outcome()
    work = _Work(studio, Nothing(), SimpleNamespace(id=1, label_config="<View/>"), "new", outcome)
    work.predict([TaskState(1, {}, frozenset(), predictions=0, is_begun=False)], lambda: False)
    assert (outcome.predicted, outcome.empty) == (1, 1)
    command._tell(outcome, 1, 1, "new", dry_run=False)
    assert "1 of 1 tasks are newly predicted.\n1 show nothing: " in capsys.readouterr().out


@pytest.mark.parametrize(("score", "stored"), [(0.7, ["new", "new"]), (0.0, ["new"])])
def test_an_empty_answer_replaces_regions_that_are_not_found_any_more(score, stored):
    class Nothing(Backend):
        def predict(self, project_id, label_config, states):
            return [BackendAnswer(b"[]", 0.0, "new") for _ in states]

    studio, outcome = Studio("new"), Outcome()
    work = _Work(studio, Nothing(), SimpleNamespace(id=1, label_config="<View/>"), "new", outcome)
    work._delete_empty = lambda state, answer: None
    known = TaskState(1, {}, frozenset({"new"}), predictions=1, is_begun=False, score=score)
    work.predict([known], lambda: False)
    assert studio.versions == stored
    assert outcome.predicted == len(stored) - 1


def test_a_wrong_token_is_told_also_while_no_backend_answers(monkeypatch):
    refused = httpx.MockTransport(lambda request: httpx.Response(401))
    client = LabelStudioClient("http://studio", "0" * 40, transport=refused)
    nowhere = "http://127.0.0.1:1"
    monkeypatch.setattr(command, "chosen_ends", lambda *given: Ends(client, given[-1], None))
    with pytest.raises(LabelStudioAuthError, match="LABEL_STUDIO_API_KEY"):
        command.predict_all(7, backend_url=nowhere)
