"""The checks of `calico doctor` that ask the backend alone: its model, its password, its learning.

They need no Label Studio, change nothing and print nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from backend.cli.connect import BackendAddress
from backend.label_studio.web import certificate_advice, open_client
from backend.learning.label_quality import lost_labels
from backend.learning.schedule import RunState
from calico_model.vocabulary import Vocabulary

GIVE_CREDENTIALS = (
    "set CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASSWORD in this shell, with the values of "
    "the backend"
)
_TIMEOUT = httpx.Timeout(5.0, connect=3.0)
_TRAINER = "trainer"


class Level(StrEnum):
    """How serious the result of a check is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        check: name of the check.
        level: whether the checked thing works.
        found: what the check found.
        fix: what the user should do, or "".
    """

    check: str
    level: Level
    found: str
    fix: str = ""


def check_backend(backend: BackendAddress) -> Iterator[CheckResult]:
    """Checks that the backend answers, whom it lets in, and how its learning stands."""
    yield from _backend(backend)
    yield from check_learning(backend)


def _backend(backend: BackendAddress) -> Iterator[CheckResult]:
    """Checks that the backend answers here."""
    try:
        with open_client(timeout=_TIMEOUT, certificates=backend.certificates) as http:
            health = http.get(f"{backend.url}/health")
        model = str(health.json().get("model")) if health.status_code == 200 else ""
        credentials = _credentials(backend)
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        yield CheckResult(
            "backend",
            Level.FAIL,
            f"{backend.url} does not answer ({certificate_advice(error) or type(error).__name__})",
            "start it with `calico serve`; if it runs at another address, give --backend-url",
        )
        return
    states = {
        "ready": CheckResult("backend", Level.OK, f"{backend.url}, model ready"),
        "loading": CheckResult(
            "backend",
            Level.WARN,
            "the model is loading",
            "wait some seconds, then run doctor again",
        ),
        "failed": CheckResult(
            "backend",
            Level.FAIL,
            "the weights cannot be used",
            "read the reason in the backend's log, and correct CALICO_WEIGHTS",
        ),
    }
    unknown = f"{backend.url} is no CALICO backend: /health answered {health.status_code}"
    yield states.get(
        model,
        CheckResult(
            "backend", Level.FAIL, unknown, "give the backend's address with --backend-url"
        ),
    )
    yield credentials


def _credentials(backend: BackendAddress) -> CheckResult:
    check = "credentials"
    with open_client(timeout=_TIMEOUT, certificates=backend.certificates) as http:
        answer = http.get(f"{backend.url}/versions", auth=backend.credentials)
    if answer.status_code == 401 and backend.credentials is None:
        found = "not checked: the backend requires a user and password, and this shell has none"
        return CheckResult(check, Level.WARN, found, GIVE_CREDENTIALS)
    if answer.status_code == 401:
        return CheckResult(
            check,
            Level.FAIL,
            "the backend refuses the user and password",
            GIVE_CREDENTIALS,
        )
    if backend.credentials is None:
        return CheckResult(
            check,
            Level.WARN,
            "the backend asks for no password",
            "if other machines reach the backend, start it with CALICO_BASIC_AUTH_USER and "
            "CALICO_BASIC_AUTH_PASSWORD",
        )
    return CheckResult(check, Level.OK, f"accepted for {backend.credentials[0]}")


def check_learning(backend: BackendAddress) -> Iterator[CheckResult]:
    """Checks that a trainer runs, and how the last training of every project ended.

    Yields nothing if the backend does not answer; another check reports that.
    """
    try:
        with open_client(timeout=_TIMEOUT, certificates=backend.certificates) as http:
            answer = http.get(f"{backend.url}/status", auth=backend.credentials)
        status: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return
    if not isinstance(status, dict) or not {"trainers", "projects"} <= status.keys():
        return
    projects = status["projects"]
    yield from _servers(status.get("servers", []))
    yield _trainers(status["trainers"], sum(project["new"] for project in projects))
    yield from _sources(status.get("sources", []))
    for project in projects:
        if project["run"] is not None:
            yield _last_run(project)
        yield from _doubts(project)


def check_labels(
    backend: BackendAddress, project_id: int, vocabulary: Vocabulary | None
) -> Iterator[CheckResult]:
    """Checks that a project still has the labels of its corrected tasks, as the backend knows them.

    Args:
        backend: where it answers; nothing is yielded if it does not.
        project_id: Label Studio's project id.
        vocabulary: the labels of the project now; None if any text may be written.
    """
    try:
        with open_client(timeout=_TIMEOUT, certificates=backend.certificates) as http:
            answer = http.get(f"{backend.url}/status/{project_id}", auth=backend.credentials)
        status = answer.json() if answer.status_code == 200 else {}
        labels = status["projects"][0]["corrected_labels"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return
    if lost := lost_labels(labels, vocabulary):
        named = ", ".join(f"{label} ({count} tasks)" for label, count in lost.items())
        yield CheckResult(
            f"project {project_id}: labels",
            Level.WARN,
            f"corrected tasks have labels that the project has no more: {named}; Label Studio "
            "shows their regions without a name, and predictions of them are not shown",
            f"calico rename-label --project {project_id} OLD NEW gives them the name of a label "
            "there is; or put them back under Settings > Labeling Interface",
        )


def _sources(sources: list[dict[str, Any]]) -> Iterator[CheckResult]:
    """Reports how each source of masks stands, and whether it answers in time."""
    for source in sources:
        check, asked = f"source {source['name']}", source["asked"]
        if source["state"] == "failed":
            fix = f"calico doctor --source {source['name']}; then start the backend again"
            yield CheckResult(check, Level.FAIL, source["problem"], fix)
            continue
        counts = ", ".join(f"{count} {outcome}" for outcome, count in asked.items() if count)
        found = f"{source['state']}; {counts or 'not asked yet'}"
        fix, level = "", Level.OK
        if asked.get("failed", 0) > asked.get("answered", 0):
            level, fix = Level.WARN, "read the reason in the backend's log"
        elif asked.get("late", 0) + asked.get("paused", 0) > asked.get("answered", 0):
            level = Level.WARN
            fix = "set a longer CALICO_SOURCE_BUDGET_S, or choose a smaller source or a GPU"
        yield CheckResult(check, level, found, fix)


def _trainers(owners: list[str], waiting: int) -> CheckResult:
    if not owners:
        return CheckResult(
            _TRAINER,
            Level.WARN,
            f"no trainer runs, so nothing is learned; {waiting} corrections wait",
            "start the backend with --trainer, or run `calico trainer` beside it; if a trainer "
            "was started, its log says why it ended",
        )
    return CheckResult(_TRAINER, Level.OK, f"{', '.join(owners)}; {waiting} corrections wait")


def _servers(servers: list[dict[str, Any]]) -> Iterator[CheckResult]:
    """Lists the servers on one PostgreSQL, and says where they differ."""
    if not servers:
        return
    words = [_server_in_words(server) for server in servers]
    found = f"{len(servers)} on this database: {'; '.join(words)}"
    failed = [server for server in servers if server["model"] == "failed"]
    releases = {server["release"] for server in servers}
    weights = {server["weights"] for server in servers if server["weights"]}
    if failed:
        fix = "read the reason in the log of the server whose weights failed"
        yield CheckResult("servers", Level.FAIL, found, fix)
    elif len(releases) > 1 or len(weights) > 1:
        fix = "update the other servers, too; during an upgrade, nothing"
        yield CheckResult("servers", Level.WARN, found, fix)
    else:
        yield CheckResult("servers", Level.OK, found)


def _server_in_words(server: dict[str, Any]) -> str:
    machine, _, rest = server["owner"].partition("/")
    name = f"{machine.partition(':')[0]} (process {rest.partition('/')[0]})"
    leads = f", does {', '.join(server['leads'])}" if server["leads"] else ""
    weights = server["weights"] or "no weights"
    return f"{name}: release {server['release']}, {weights}, {server['model']}{leads}"


def _doubts(project: dict[str, Any]) -> Iterator[CheckResult]:
    """Reports annotations of Label Studio that are held back or have a wrong time."""
    number, held_back = project["project"], project.get("held_back", 0)
    if held_back:
        found = (
            f"{held_back} annotations are missing in Label Studio, or older there; until this is "
            "confirmed they count as before"
        )
        fix = "nothing: the backend looks again and accepts it after ten minutes"
        if project["needs_word"]:
            found += ". They are too many at once: the backend waits for your word"
            fix = (
                "restore Label Studio's data; or, if you deleted them: calico corrections "
                f"--project {number} --reconcile --accept-deletions"
            )
        yield CheckResult(f"project {number}: held back", Level.WARN, found, fix)
    if ahead := project.get("stamped_ahead", 0):
        found = f"{ahead} annotations have a time in the future; their order of receipt counts"
        yield CheckResult(
            f"project {number}: clock",
            Level.WARN,
            found,
            "correct the clock of Label Studio's machine",
        )


def _last_run(project: dict[str, Any]) -> CheckResult:
    check, run = f"project {project['project']}: training", project["run"]
    state, version = run["state"], project["version"] or "the shipped model"
    if state in (RunState.FAILED, RunState.ABANDONED):
        return CheckResult(
            check,
            Level.WARN,
            f"the last one {state}: {run['error']}",
            "nothing: the trainer tries again; its log has the details",
        )
    if state == RunState.REJECTED:
        found = f"the quality check rejected {run['version']} ({run['reason']}); {version} serves"
        return CheckResult(check, Level.OK, found)
    if state == RunState.RUNNING:
        return CheckResult(check, Level.OK, f"{run['stage']}, {run['progress']:.0%}")
    return CheckResult(check, Level.OK, f"{version} serves")
