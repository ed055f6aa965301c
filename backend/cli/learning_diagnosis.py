"""What `calico doctor` says of learning: whether anybody trains, and how the last runs ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from backend.cli.connect import Ends
from backend.cli.finding import Finding, Level
from backend.label_studio.web import open_client
from backend.learning.schedule import RunState

_TIMEOUT = httpx.Timeout(5.0, connect=3.0)
_TRAINER = "trainer"


def learning_findings(ends: Ends) -> Iterator[Finding]:
    """Yields whether a trainer is there and how every project's last run ended.

    Nothing if the backend does not tell: why it does not is said elsewhere.
    """
    try:
        with open_client(timeout=_TIMEOUT, certificates=ends.client.certificates) as http:
            answer = http.get(f"{ends.backend_url}/status", auth=ends.credentials)
        told: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return
    if not isinstance(told, dict) or not {"trainers", "projects"} <= told.keys():
        return
    projects = told["projects"]
    yield _trainers(told["trainers"], sum(one["new"] for one in projects))
    for one in projects:
        if one["run"] is not None:
            yield _last_run(one)
        yield from _doubts(one)


def _trainers(owners: list[str], waiting: int) -> Finding:
    if not owners:
        return Finding(
            _TRAINER,
            Level.WARN,
            f"nobody learns from corrections; {waiting} wait",
            "start the backend with --trainer, or `calico trainer` beside it; if one was "
            "started, its log says why it ended",
        )
    return Finding(_TRAINER, Level.OK, f"{', '.join(owners)}; {waiting} corrections wait")


def _doubts(project: dict[str, Any]) -> Iterator[Finding]:
    """What is not believed of Label Studio's answers."""
    number, held_back = project["project"], project.get("held_back", 0)
    if held_back:
        found = (
            f"{held_back} annotations are missing in Label Studio, or older there; they count as "
            "before"
        )
        fix = "that is looked at again and believed after ten minutes"
        if project["needs_word"]:
            found += ": too many at once to be believed"
            fix = (
                "restore Label Studio's data; or, if they are meant to be gone: calico corrections "
                f"--project {number} --reconcile --accept-deletions"
            )
        yield Finding(f"project {number}: held back", Level.WARN, found, fix)
    if ahead := project.get("stamped_ahead", 0):
        found = f"{ahead} annotations are stamped in the future; the order of receipt counts"
        yield Finding(f"project {number}: clock", Level.WARN, found, "set Label Studio's clock")


def _last_run(project: dict[str, Any]) -> Finding:
    check, run = f"project {project['project']}: training", project["run"]
    state, version = run["state"], project["version"] or "the base"
    if state in (RunState.FAILED, RunState.ABANDONED):
        return Finding(
            check,
            Level.WARN,
            f"the last one {state}: {run['error']}",
            "it is tried again by itself; the log has the details",
        )
    if state == RunState.REJECTED:
        found = f"{run['version']} was rejected ({run['reason']}); {version} serves"
        return Finding(check, Level.OK, found)
    if state == RunState.RUNNING:
        return Finding(check, Level.OK, f"{run['stage']}, {run['progress']:.0%}")
    return Finding(check, Level.OK, f"{version} serves")
