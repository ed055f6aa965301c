"""Renders predictions and results as what Label Studio reads, by the wire door's functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import msgspec

from backend.label_schema import LabelSchema
from backend.label_studio.interactive_context import caption_result, note_results, reply_result
from backend.label_studio.response import (
    empty_item,
    not_yet_item,
    predict_answer,
    predict_item,
    prepended,
    with_absent,
    with_problem,
)
from backend.label_studio.result import RENDERING_VERSION, Omission, render_prediction
from backend.serving.jobs import PredictionJob, PredictionResult, Render
from backend.serving.metrics import package_version
from backend.serving.notices import (
    CHOOSE_LABEL,
    nothing_found,
    nothing_learned,
    problem_notes,
)
from backend.types import PredictRequest, Task
from calico_model.inference.arrangement import Arrangement
from calico_model.inference.caption import compose_caption
from calico_model.types import GroupPrediction, ImageGroup

_log = logging.getLogger(__name__)
_CLICK_SEED = "prompt"
# Label Studio asks again, when the task is opened again, for what has another version.
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Look:
    """What a deployment chooses about the look of predictions.

    Attributes:
        relations: whether arrows link the regions of one part.
        groups_to_learn: after how many corrected groups a project has its first version.
    """

    relations: bool = False
    groups_to_learn: int = 5


DEFAULT_LOOK = Look()


def code_version(arrangement: Arrangement | None = None, look: Look | None = None) -> str:
    """Returns the version of the code between an image and its kept answer, weights aside."""
    switches = asdict(arrangement or Arrangement()) | {"relations": bool(look and look.relations)}
    steps = "".join(f"+{name}" for name, is_on in switches.items() if is_on)
    return f"{package_version()}/{RENDERING_VERSION}{steps}"


def renderer(look: Look) -> Render:
    """Returns a function that writes one task's regions as its labeling config can show them."""

    def render(
        prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
    ) -> tuple[bytes, float]:
        return render_regions(prediction, job, group, look)

    return render


def render_regions(
    prediction: GroupPrediction, job: PredictionJob, group: ImageGroup, look: Look = DEFAULT_LOOK
) -> tuple[bytes, float]:
    """Returns one task's regions in the form its labeling config can show, and their score.

    Suggestions to a click get ids of their own: an id that is already on the canvas would replace
    the region there, and a relation to it would crash the editor. Where nothing is shown, a note
    says why.
    """
    rendered = render_prediction(
        prediction,
        job.schema,
        sizes_hw=group.sizes_hw,
        labels=job.task.labels,
        seed=_CLICK_SEED if job.is_interactive else "",
        with_relations=look.relations and not job.is_interactive,
        with_other_kinds=bool(job.prompts),
        ids=job.ids,
        canvas=job.canvas,
        parent=job.question.id if job.question and job.question.is_highlight else None,
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
    notes = dict(job.notes)
    if job.question is not None and job.question.is_highlight and job.reply:
        notes[job.question.image_index] = job.reply
    if not job.is_interactive and not rendered.region_ids:
        is_new = job.version is None
        notes |= nothing_learned(look.groups_to_learn) if is_new else nothing_found()
    if job.prompts and rendered.omitted.get(Omission.UNKNOWN_LABEL):
        notes[job.prompts[0].image_index] = CHOOSE_LABEL
    result = _with_reply(rendered.result, job)
    if not job.is_interactive and rendered.region_ids:
        result = _with_caption(result, prediction, job, group)
    return _with_notes(result, notes, job.schema, len(group)), rendered.score


def _with_notes(result: bytes, notes: Mapping[int, str], schema: LabelSchema, images: int) -> bytes:
    """Puts sentences for the annotator before the regions."""
    for note in reversed(note_results(notes, schema, images)):
        result = prepended(result, note)
    return result


def _with_caption(
    result: bytes, prediction: GroupPrediction, job: PredictionJob, group: ImageGroup
) -> bytes:
    """Puts a caption of the regions before them, where the config has a place for one."""
    if job.schema.slot(0).caption is None:
        return result
    text = compose_caption(prediction.parts, group.images).text
    caption = caption_result(text, job.schema)
    return result if caption is None else prepended(result, caption)


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
        items.append(_item(request, task, None if is_repeated else result, version or ""))
        if task.id is not None:
            answered.add(task.id)
    return predict_answer(items)


def _item(
    request: PredictRequest, task: Task, result: PredictionResult | None, version: str
) -> bytes:
    # Label Studio stores an item with an empty result and never asks again; without a result it
    # stores nothing. The editor wants a result whatever happened, and stores it nowhere.
    if result is None:
        return empty_item(version) if request.is_interactive else not_yet_item(version)
    problem = result.problem
    if problem is None:
        item = predict_item(result.regions, score=result.score, version=result.version or version)
        return with_absent(item, result.absent) if result.absent else item
    notes = note_results(
        problem_notes(task, problem.error, problem.detail),
        request.schema,
        len(task.image_urls) or 1,
    )
    is_kept = problem.is_lasting and result.version is not None
    # Whoever opens a task should read what is wrong; among many tasks nobody looks yet.
    is_opened = len(request.tasks) == 1 and bool(notes)
    if is_kept or request.is_interactive or is_opened:
        name = result.version or version if is_kept or request.is_interactive else NO_ANSWER
        item = predict_item(msgspec.json.encode(notes), score=0.0, version=name)
    else:
        item = not_yet_item(result.version or version)
    return with_problem(item, error=problem.error, detail=problem.detail)
