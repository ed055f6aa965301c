"""Which item the wire door writes for each outcome of a task."""

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
    """Of the code between a picture and its kept answer, weights aside."""
    order = arrangement or Arrangement()
    steps = "".join(f"+{name}" for name, is_on in asdict(order).items() if is_on)
    return f"{package_version()}/{RENDERING_VERSION}{steps}"


def render_regions(
    prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
) -> tuple[bytes, float]:
    """Writes one task's regions in the form its labeling config can show, with their score.

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
    """Puts what the annotator is told before the regions."""
    if job.question is None or not job.reply:
        return result
    told = reply_result(job.question, job.schema, job.reply)
    return result if told is None else prepended(result, told)


def arranged(render: Render, arrangement: Arrangement) -> Render:
    """Puts regions in order before they are written; suggestions to a click stay as they are."""

    def render_arranged(
        prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
    ) -> tuple[bytes, float]:
        found = prediction if job.is_interactive else arrangement.apply(prediction)
        return render(found, job, group)

    return render_arranged


def render_answers(
    request: PredictRequest, answers: Sequence[PredictionResult | None], version: str | None
) -> bytes:
    """Writes the body that answers a request, one item per task in order.

    Args:
        request: what was asked.
        answers: one per task; None stands for "not yet".
        version: of the loaded weights, or None while there are none.
    """
    return predict_answer([_item(request, answer, version or "") for answer in answers])


def _item(request: PredictRequest, answer: PredictionResult | None, version: str) -> bytes:
    # Label Studio stores an item with an empty result and never asks again; without a result it
    # stores nothing. The editor wants a result whatever happened, and stores it nowhere.
    if answer is None:
        return empty_item(version) if request.is_interactive else not_yet_item(version)
    problem = answer.problem
    if problem is None:
        shown = predict_item(answer.regions, score=answer.score, version=answer.version or version)
        return with_absent(shown, answer.absent) if answer.absent else shown
    is_kept = problem.is_lasting and answer.version is not None
    item = empty_item if is_kept or request.is_interactive else not_yet_item
    return with_problem(item(answer.version or version), error=problem.error, detail=problem.detail)
