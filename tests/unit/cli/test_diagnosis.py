"""What the doctor says of learning."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backend.cli.connect import BackendAddress
from backend.cli.diagnosis import CheckResult, Level, check_learning, examine
from backend.settings import load_settings


@contextmanager
def told(body: bytes, status: int = 200, path: str = "/status") -> Iterator[BackendAddress]:
    """A backend that answers one path so, and all others 404."""

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
    with told(json.dumps(status).encode()) as ends:
        return list(check_learning(ends))


def project(run: dict[str, object] | None, new: int = 0) -> dict[str, object]:
    return {"project": 7, "version": "v1", "new": new, "run": run}


def test_a_missing_trainer_is_said_with_what_waits() -> None:
    (found,) = findings(trainers=[], projects=[project(None, new=3), project(None, new=1)])
    assert (found.level, found.found) == (
        Level.WARN,
        "no trainer runs, so nothing is learned; 4 corrections wait",
    )
    assert "--trainer" in found.fix


def test_a_trainer_that_is_there_is_named() -> None:
    (found,) = findings(trainers=["host/1/ab"], projects=[])
    assert (found.level, found.found) == (Level.OK, "host/1/ab; 0 corrections wait")


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
    _, found = findings(trainers=["host/1/ab"], projects=[project(run)])
    assert (found.check, found.level) == ("project 7: training", level)
    assert words in found.found


@pytest.mark.parametrize("body", [b"[]", b"{}", b"no json"])
def test_a_backend_that_does_not_tell_has_no_findings(body: bytes) -> None:
    with told(body) as ends:
        assert list(check_learning(ends)) == []
    with told(body, status=500) as ends:
        assert list(check_learning(ends)) == []


def test_what_is_held_back_is_said_with_what_to_do() -> None:
    doubted = project(None) | {"held_back": 3, "needs_word": False, "stamped_ahead": 0}
    _, found = findings(trainers=["a"], projects=[doubted])
    assert (found.check, found.level) == ("project 7: held back", Level.WARN)
    assert found.found.startswith("3 annotations are missing")
    assert "ten minutes" in found.fix


def test_too_many_deletions_ask_for_a_person_s_word() -> None:
    doubted = project(None) | {"held_back": 30, "needs_word": True, "stamped_ahead": 0}
    _, found = findings(trainers=["a"], projects=[doubted])
    assert "too many at once" in found.found
    assert "calico corrections --project 7 --reconcile --accept-deletions" in found.fix


def test_stamps_in_the_future_are_said() -> None:
    ahead = project(None) | {"held_back": 0, "needs_word": False, "stamped_ahead": 2}
    _, found = findings(trainers=["a"], projects=[ahead])
    assert (found.check, found.level) == ("project 7: clock", Level.WARN)


def test_a_backend_that_tells_nothing_of_doubts_has_none() -> None:
    assert len(findings(trainers=["a"], projects=[project(None)])) == 1


def test_a_shell_without_label_studio_s_variables_reports_no_fault_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with told(b'{"model": "ready"}', path="/health") as backend:
        found = list(examine(load_settings(), backend.url, None))
    assert [one.level for one in found if one.check == "backend"] == [Level.OK]
    assert found[-1].check == "Label Studio"
    assert found[-1].level is Level.WARN
    assert found[-1].found == "not checked: LABEL_STUDIO_URL is not set in this shell"


def test_a_shell_without_the_password_does_not_call_it_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LABEL_STUDIO_URL", "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with told(b"", status=401, path="/versions") as backend:
        found = {one.check: one for one in examine(load_settings(), backend.url, None)}
    assert found["credentials"].level is Level.WARN
    assert found["credentials"].found.startswith("not checked")
    assert "CALICO_BASIC_AUTH_PASSWORD" in found["credentials"].fix


def server(owner: str, **other: object) -> dict[str, object]:
    said = {"release": "1.0", "weights": "calico-tiny-1", "model": "ready", "leads": []}
    return {"owner": owner, **said, **other}


def of_servers(*servers: dict[str, object]) -> CheckResult:
    (found, _) = findings(trainers=["host/1/ab"], projects=[], servers=list(servers))
    return found


def test_servers_are_listed_with_what_they_do() -> None:
    one, two = server("a.example:0f:1/17/ab", leads=["refresh"]), server("b.example:0f:1/4/cd")
    found = of_servers(one, two)
    assert (found.check, found.level) == ("servers", Level.OK)
    assert found.found == (
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
    found = of_servers(server("a:0:1/17/ab"), server("b:0:1/4/cd", **other))
    assert found.level is level
    assert bool(found.fix) is (level is not Level.OK)


def source(**changes: object) -> dict[str, object]:
    asked = {"answered": 3, "failed": 0, "late": 1, "loading": 0}
    return {"name": "sam", "state": "ready", "problem": "", "asked": asked} | changes


@pytest.mark.parametrize(
    ("said", "level", "found", "fix"),
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
    said: dict[str, object], level: Level, found: str, fix: str
) -> None:
    body = {"projects": [], "trainers": ["t"], "sources": [said]}
    with told(json.dumps(body).encode()) as backend:
        (result,) = [one for one in check_learning(backend) if one.check == "source sam"]
    assert result.level is level
    assert found in result.found
    assert fix in result.fix
    assert bool(result.fix) == bool(fix)
