"""GET /status and /status/PROJECT: state of learning as JSON, for scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from flask import Blueprint, Response

from backend.learning.overview import Overview, ProjectStanding
from backend.learning.trainer_presence import present_trainers
from backend.learning.training_runs import TrainingRun
from backend.storage.servers import ServerPresence, present_servers
from backend.storage.store import Store
from backend.types import MAX_ID
from backend.ui.batches import PredictionBatch


@dataclass(frozen=True)
class SourceReport:
    """How a source of masks beside the model stands.

    Attributes:
        name: of the source.
        state: loading, ready or failed.
        problem: why its weights cannot be used, or "".
        abilities: what it can be asked; none until it is loaded.
        licence: of its weights, or "" until it is loaded.
        asked: number of requests by outcome.
    """

    name: str
    state: str
    problem: str
    abilities: tuple[str, ...]
    licence: str
    asked: Mapping[str, int]


def build_status_routes(
    store: Store,
    overview: Overview,
    *,
    batch: Callable[[int], PredictionBatch | None] = lambda _: None,
    sources: Callable[[], Sequence[SourceReport]] = tuple,
) -> Blueprint:
    """Returns the routes.

    Args:
        store: the database.
        overview: of the same database.
        batch: called for the tasks of a project that were asked to be predicted together.
        sources: called for the state of the sources of masks.
    """
    routes = Blueprint("status", __name__)

    @routes.get("/status")
    @routes.get(f"/status/<int(max={MAX_ID}):project_id>")
    def status(project_id: int | None = None) -> Response:
        projects = overview.projects() if project_id is None else (project_id,)
        body = {
            "projects": [
                _project(
                    overview,
                    overview.standing(known_id),
                    batch(known_id),
                    in_words=project_id is not None,
                )
                for known_id in projects
            ],
            "trainers": [trainer.owner for trainer in present_trainers(store)],
            "servers": [_server(one) for one in present_servers(store)],
            "sources": [asdict(source) for source in sources()],
        }
        return Response(msgspec.json.encode(body), mimetype="application/json")

    return routes


def _project(
    overview: Overview, standing: ProjectStanding, batch: PredictionBatch | None, *, in_words: bool
) -> dict[str, Any]:
    """The state of a project; `in_words` adds what costs a query more each."""
    words = (
        {
            "explanation": asdict(overview.explanation(standing)),
            "outlook": asdict(overview.outlook(standing)),
            "corrected_labels": overview.corrected_labels(standing.project_id),
            "source_trust": [asdict(one) for one in overview.sources(standing.project_id)],
        }
        if in_words
        else {}
    )
    return {
        "project": standing.project_id,
        "version": None if standing.version is None else standing.version.id,
        "corrections": standing.corrections,
        "new": standing.new,
        "held_out": standing.held_out,
        "skipped": standing.skipped,
        "acceptance": standing.acceptance,
        "rising": standing.is_rising,
        "run": None if standing.run is None else _run(overview, standing.run),
        "held_back": standing.held_back,
        "needs_word": standing.needs_word,
        "stamped_ahead": standing.stamped_ahead,
        "predictions": None if batch is None else batch.as_json(),
    } | words


def _server(presence: ServerPresence) -> dict[str, Any]:
    return asdict(presence.report) | {
        "owner": presence.owner,
        "leads": presence.roles,
        "began_at": presence.began_at,
        "seen_at": presence.seen_at,
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
