"""Renders predictions and results as what Label Studio reads, by the wire door's functions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

from backend.label_studio.interactive_context import reply_result
from backend.label_studio.response import (
    empty_item,
    not_yet_item,
    predict_answer,
    predict_item,
    prepended,
    with_absent,
    with_problem,
)
from backend.label_studio.result import RENDERING_VERSION, render_prediction
from backend.serving.jobs import PredictionJob, PredictionResult, Render
from backend.serving.metrics import package_version
from backend.types import PredictRequest
from calico_model.inference.arrangement import Arrangement
from calico_model.types import GroupPrediction, ImageGroup

_log = logging.getLogger(__name__)
_CLICK_SEED = "prompt"


def code_version(arrangement: Arrangement | None = None) -> str:
    """Returns the version of the code between an image and its kept answer, weights aside."""
    switches = asdict(arrangement or Arrangement())
    steps = "".join(f"+{name}" for name, is_on in switches.items() if is_on)
    return f"{package_version()}/{RENDERING_VERSION}{steps}"


def render_regions(
    prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
) -> tuple[bytes, float]:
    """Returns one task's regions in the form its labeling config can show, and their score.

    Suggestions to a click get ids of their own: an id that is already on the canvas would replace
    the region there, and a relation to it would crash the editor.
    """
    rendered = render_prediction(
        prediction,
        job.schema,
        sizes_hw=group.sizes_hw,
        labels=job.task.labels,
        seed=_CLICK_SEED if job.is_interactive else "",
        with_relations=not job.is_interactive,
        with_unknown=bool(job.prompts),
        ids=job.ids,
    )
    if rendered.omitted:
        _log.info(
            "regions left out",
            extra={
                "event": "regions_omitted",
                "task": job.task.id,
                "omitted": {reason.value: count for reason, count in rendered.omitted.items()},
            },
        )
    return _with_reply(rendered.result, job), rendered.score


def _with_reply(result: bytes, job: PredictionJob) -> bytes:
    """Puts the answer to a typed question before the regions."""
    if job.question is None or not job.reply:
        return result
    reply = reply_result(job.question, job.schema, job.reply)
    return result if reply is None else prepended(result, reply)


def with_arrangement(render: Render, arrangement: Arrangement) -> Render:
    """Returns a renderer that arranges regions first; suggestions to a click stay as they are."""

    def render_arranged(
        prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
    ) -> tuple[bytes, float]:
        if not job.is_interactive:
            prediction = arrangement.apply(prediction)
        return render(prediction, job, group)

    return render_arranged


def render_answers(
    request: PredictRequest, results: Sequence[PredictionResult | None], version: str | None
) -> bytes:
    """Returns the body that answers a request, one item per task in order.

    Args:
        request: as parsed.
        results: one per task; None stands for "not yet".
        version: of the loaded weights, or None while there are none.
    """
    items = []
    answered: set[int] = set()
    for task, result in zip(request.tasks, results, strict=True):
        # A filter on predictions has Label Studio list a task several times, and it would store
        # each answer.
        is_repeated = not request.is_interactive and task.id in answered
        items.append(_item(request, None if is_repeated else result, version or ""))
        if task.id is not None:
            answered.add(task.id)
    return predict_answer(items)


def _item(request: PredictRequest, result: PredictionResult | None, version: str) -> bytes:
    # Label Studio stores an item with an empty result and never asks again; without a result it
    # stores nothing. The editor wants a result whatever happened, and stores it nowhere.
    if result is None:
        return empty_item(version) if request.is_interactive else not_yet_item(version)
    problem = result.problem
    if problem is None:
        item = predict_item(result.regions, score=result.score, version=result.version or version)
        return with_absent(item, result.absent) if result.absent else item
    is_kept = problem.is_lasting and result.version is not None
    empty = empty_item if is_kept or request.is_interactive else not_yet_item
    item = empty(result.version or version)
    return with_problem(item, error=problem.error, detail=problem.detail)
