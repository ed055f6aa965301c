"""The routes below /ui: HTML pages from templates, with the data of one `Overview`.

The pages need the same credentials as the rest of the backend. The one form that changes data also
needs the token of the page it stands on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC

from flask import Blueprint, Response, render_template, request, url_for
from markupsafe import Markup, escape

from backend.errors import BackendError, NotFoundError, RequestError
from backend.learning.explanation import explain_version
from backend.learning.label_quality import NEWEST_TASKS
from backend.learning.overview import Overview
from backend.learning.publisher import roll_back
from backend.learning.schedule import RunState
from backend.learning.training_runs import TrainingRun
from backend.storage.versions import AdapterVersion
from backend.types import MAX_ID
from backend.ui.batches import PredictionBatch
from backend.ui.curve import draw_curve
from backend.ui.page_token import PageToken
from backend.ui.pictures import GroupPictures

_PROJECTS_PER_PAGE, _VERSIONS_SHOWN, _LABELS_SHOWN = 50, 50, 100
_SOURCES_SHOWN = 200
_REASON = "rolled back on the page"
_RUN_WORDS = {
    RunState.PUBLISHED: "published a version",
    RunState.REJECTED: "published no version",
    RunState.FAILED: "failed",
    RunState.STOPPED: "stopped",
    RunState.ABANDONED: "ended without a result",
}
_COMMAND = re.compile(r"calico (?:train-now --project \d+|doctor)")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Live:
    """Present state of the serving process.

    Attributes:
        model: state of loading the weights.
        tasks_waiting: number of tasks that wait for the model.
        changes_waiting: number of changes that wait for the database.
        trainers: number of running trainers.
    """

    model: str
    tasks_waiting: int
    changes_waiting: int
    trainers: int


@dataclass(frozen=True)
class Refreshed:
    """Progress of predicting a project's tasks again with a new version.

    Attributes:
        version: the new version.
        done: number of tasks with a prediction of it.
        total: number of tasks that no annotator has begun.
        is_running: whether predicting goes on.
    """

    version: str
    done: int
    total: int
    is_running: bool


def build_pages(
    overview: Overview,
    pictures: GroupPictures,
    *,
    live: Callable[[], Live],
    refreshed: Callable[[int], Refreshed | None] = lambda _: None,
    title: Callable[[int], str | None] = lambda _: None,
    batch: Callable[[int], PredictionBatch | None] = lambda _: None,
) -> Blueprint:
    """Returns the blueprint with all pages.

    Args:
        overview: state of learning.
        pictures: of corrected groups.
        live: called for every page.
        refreshed: called for every page of a project.
        title: returns a project's title at once, None if it is not known.
        batch: called for every page of a project: tasks that were asked to be predicted together.
    """
    token = PageToken(overview.versions.store)
    views = _Views(overview, pictures, live, refreshed, title, batch, token)
    pages = Blueprint(
        "ui", __name__, url_prefix="/ui", template_folder="templates", static_folder="static"
    )
    number = f"int(max={MAX_ID})"
    project = f"/projects/<{number}:project_id>"
    pages.add_url_rule("/", view_func=views.show_projects)
    pages.add_url_rule(project, view_func=views.show_project)
    pages.add_url_rule(f"{project}/groups/<{number}:task_id>.png", view_func=views.show_group)
    pages.add_url_rule(f"{project}/rollback", view_func=views.roll_back_to, methods=["POST"])
    filters: dict[str, Callable[..., object]] = {
        "percent": percent,
        "in_words": in_words,
        "gate": gate_change,
        "why": why,
        "readable": readable,
    }
    for name, function in filters.items():
        pages.add_app_template_filter(function, name)
    pages.after_request(_protect)
    return pages


class _Views:
    """One method per page."""

    def __init__(
        self,
        overview: Overview,
        pictures: GroupPictures,
        live: Callable[[], Live],
        refreshed: Callable[[int], Refreshed | None],
        title: Callable[[int], str | None],
        batch: Callable[[int], PredictionBatch | None],
        token: PageToken,
    ) -> None:
        self._overview, self._pictures = overview, pictures
        self._live, self._refreshed = live, refreshed
        self._title, self._batch = title, batch
        self._token = token

    def show_projects(self, problem: str | None = None) -> str:
        known = self._overview.projects()
        count = max(1, -(-len(known) // _PROJECTS_PER_PAGE))
        page = min(max(request.args.get("page", 1, type=int), 1), count)
        shown = known[(page - 1) * _PROJECTS_PER_PAGE : page * _PROJECTS_PER_PAGE]
        return render_template(
            "projects.html",
            standings=[self._overview.standing(project_id) for project_id in shown],
            titles={project_id: self._title(project_id) for project_id in shown},
            page=page,
            pages=count,
            problem=problem,
            live=self._live(),
        )

    def show_project(self, project_id: int) -> Response:
        if project_id not in self._overview.projects():
            # A mistyped number, or a project that nobody has opened yet: a page for people.
            problem = (
                f"Nothing has come from project {project_id} yet, neither a question for "
                "predictions nor a correction. These have sent something:"
            )
            return Response(self.show_projects(problem), status=404)
        return Response(self._project_page(project_id))

    def show_group(self, project_id: int, task_id: int) -> Response:
        answer = Response(self._pictures.draw(project_id, task_id), mimetype="image/png")
        answer.headers["Cache-Control"] = "private, max-age=60"
        return answer

    def roll_back_to(self, project_id: int) -> Response:
        # Browsers send where a form comes from; without this header the token is still needed.
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RequestError("expected a form of this site", field="header Sec-Fetch-Site")
        self._check_known(project_id)
        served = self._overview.versions.current(project_id)
        served_id = None if served is None else served.id
        if not self._token.fits(request.form.get("token", ""), project_id, served_id):
            problem = "This page was out of date, so nothing was changed. Look again and decide."
            return Response(self._project_page(project_id, problem), status=409)
        try:
            to = request.form.get("to") or None
            roll_back(self._overview.versions, project_id, to=to, reason=_REASON)
        except BackendError as error:
            return Response(self._project_page(project_id, str(error)), status=error.http_status)
        place = url_for("ui.show_project", project_id=project_id)
        return Response(status=303, headers={"Location": place})

    def _check_known(self, project_id: int) -> None:
        if project_id not in self._overview.projects():
            raise NotFoundError(f"nothing is known of project {project_id}", field="path")

    def _project_page(self, project_id: int, problem: str | None = None) -> str:
        current = self._overview.versions.current(project_id)
        standing = self._overview.standing(project_id)
        qualities = self._overview.learning_curve(project_id)
        labels = self._overview.labels(project_id)
        sources = self._overview.sources(project_id)
        return render_template(
            "project.html",
            standing=standing,
            title=self._title(project_id),
            explanation=self._overview.explanation(standing),
            outlook=self._overview.outlook(standing),
            labels=labels[:_LABELS_SHOWN],
            labels_left_out=max(0, len(labels) - _LABELS_SHOWN),
            lost_labels=self._overview.lost_labels(project_id),
            newest_tasks=NEWEST_TASKS,
            sources=sources[:_SOURCES_SHOWN],
            sources_left_out=max(0, len(sources) - _SOURCES_SHOWN),
            is_own=current is not None,
            token=self._token.make(project_id, None if current is None else current.id),
            qualities=qualities,
            curve=draw_curve(qualities),
            versions=self._overview.versions.all(project_id)[:_VERSIONS_SHOWN],
            worst=self._overview.worst(project_id),
            refresh=self._refreshed(project_id),
            batch=self._batch(project_id),
            problem=problem,
            live=self._live(),
        )


def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def percent(share: float | None) -> str:
    """A share as percent, – for None."""
    return "–" if share is None else f"{share:.0%}"


def in_words(run: TrainingRun | None) -> str:
    """State of a training run in words."""
    if run is None:
        return "never"
    if run.state is RunState.RUNNING:
        eta = "" if run.eta_s is None else f", about {run.eta_s:.0f} s left"
        return f"{run.stage}, {run.progress:.0%}{eta}"
    ended = "" if run.ended_at is None else f", {run.ended_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{_RUN_WORDS[run.state]}{ended}"


def why(version: AdapterVersion) -> str:
    """Why a version was published, refused or taken back."""
    return explain_version(version).why


def readable(text: str) -> Markup:
    """A sentence as HTML: escaped, with typographic arrows and with commands set as code."""
    escaped = str(escape(text.replace(" -> ", " \u2192 ")))
    return Markup(_COMMAND.sub(r"<code>\g<0></code>", escaped))


def gate_change(version: AdapterVersion, metric: str, block: str | None = None) -> str:
    """A metric of the quality check before and after; * marks figures on learned corrections.

    Args:
        version: with its figures.
        metric: "mIoU" or "Recall".
        block: a set of figures; None is corrections kept for testing, else new ones.
    """
    gate = version.gate
    metrics = gate.get(block) if block else gate.get("held_out") or gate.get("learned")
    if not metrics or metric not in metrics:
        return "–"
    before, after = metrics[metric]
    mark = "*" if block is None and "held_out" not in gate else ""
    return f"{before:.1f} → {after:.1f}{mark}"
