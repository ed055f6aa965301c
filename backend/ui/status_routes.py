"""GET /status and /status/PROJECT: how learning stands, as JSON for scripts and whoever waits.

Beside the wings, because it tells of learning over the HTTP of serving.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response

from backend.learning.overview import Overview, ProjectStanding
from backend.learning.trainer_presence import present_trainers
from backend.learning.training_runs import TrainingRun
from backend.storage.store import Store
from backend.types import MAX_ID


def build_status_routes(store: Store, overview: Overview) -> Blueprint:
    """Returns the routes.

    Args:
        store: the database.
        overview: of the same database.
    """
    routes = Blueprint("status", __name__)

    @routes.get("/status")
    @routes.get(f"/status/<int(max={MAX_ID}):project_id>")
    def status(project_id: int | None = None) -> Response:
        projects = overview.projects() if project_id is None else (project_id,)
        body = {
            "projects": [_project(overview, overview.standing(one)) for one in projects],
            "trainers": [one.owner for one in present_trainers(store)],
        }
        return Response(msgspec.json.encode(body), mimetype="application/json")

    return routes


def _project(overview: Overview, found: ProjectStanding) -> dict[str, Any]:
    return {
        "project": found.project_id,
        "version": None if found.version is None else found.version.id,
        "corrections": found.corrections,
        "new": found.new,
        "held_out": found.held_out,
        "skipped": found.skipped,
        "acceptance": found.acceptance,
        "rising": found.is_rising,
        "run": None if found.run is None else _run(overview, found.run),
        "held_back": found.held_back,
        "needs_word": found.needs_word,
        "stamped_ahead": found.stamped_ahead,
    }


def _run(overview: Overview, run: TrainingRun) -> dict[str, Any]:
    candidate = None if run.adapter_id is None else overview.versions.find(run.adapter_id)
    return {
        "id": run.id,
        "cause": run.cause.value,
        "state": run.state.value,
        "stage": run.stage,
        "progress": round(run.progress, 3),
        "eta_s": run.eta_s,
        "version": run.adapter_id,
        "reason": None if candidate is None else candidate.reason,
        "error": run.error,
        "began_at": run.began_at,
        "ended_at": run.ended_at,
    }
