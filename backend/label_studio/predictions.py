"""Predictions that Label Studio stores: which tasks have which, and one of a version per task.

Label Studio stores whatever it is sent: asked twice at the same time, it keeps two predictions of
one version. It never asks for a version that a task already has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from backend.decoding import read_json
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.history import fetch_annotated
from backend.label_studio.untouched import filter_item

_PAGE_SIZE = 100
_MOST_PAGES = 1_000_000
_SHORTENED = 490  # characters; Label Studio cuts a list of versions at 500
_NO_SHAPES = frozenset({"textarea", "relation"})
# Label Studio computes every column that is not hidden, and joins all masks for some of them.
_HIDDEN = (
    "annotators",
    "annotations_results",
    "annotations_ids",
    "predictions_results",
    "file_upload",
    "storage_filename",
    "avg_lead_time",
    "completed_at",
    "updated_by",
    "state",
)


@dataclass(frozen=True)
class TaskState:
    """One task, and what Label Studio stores of it.

    Attributes:
        id: Label Studio's id.
        data: as imported.
        versions: model versions of its predictions; None if Label Studio does not show them all.
        predictions: number of its predictions.
        is_begun: whether there is an annotation, a skip or a draft.
        has_draft: whether somebody works on it and has not submitted.
        score: mean score of its predictions of the served version, None without one.
    """

    id: int
    data: Mapping[str, object]
    versions: frozenset[str] | None
    predictions: int
    is_begun: bool
    has_draft: bool = False
    score: float | None = None

    @property
    def has_duplicates(self) -> bool:
        """Whether there may be two predictions of one version."""
        return self.versions is None or self.predictions > len(self.versions)


@dataclass(frozen=True)
class PredictedRegion:
    """One region of a stored prediction: its names, and its score if it has one."""

    id: str
    labels: tuple[str, ...]
    score: float | None


@dataclass(frozen=True)
class PredictionSummary:
    """A stored prediction without its masks.

    Attributes:
        id: Label Studio's id.
        task_id: the task.
        version: model version.
        score: of the whole prediction, or None.
        created_at: by Label Studio's clock.
        regions: its regions, without notes to annotators.
    """

    id: int
    task_id: int
    version: str
    score: float | None
    created_at: datetime | None
    regions: tuple[PredictedRegion, ...]


class _WirePage(msgspec.Struct):
    tasks: list[dict[str, object]]
    total: int | None = None


class _WireValue(msgspec.Struct):
    labels: list[str] = []
    brushlabels: list[str] = []
    bitmasklabels: list[str] = []
    text: list[str] | str = []


class WireShape(msgspec.Struct):
    """What tells a region from a note."""

    type: str = ""
    id: str | int | None = None


class _WireResult(WireShape):
    score: float | None = None
    value: _WireValue | None = None


class _WirePrediction(msgspec.Struct):
    id: int
    task: int
    result: list[_WireResult] = []
    model_version: str | None = None
    score: float | None = None
    created_at: datetime | None = None


class _WireState(msgspec.Struct):
    id: int
    data: dict[str, object] = {}
    predictions_model_versions: str | None = None
    predictions_score: float | None = None
    total_predictions: int | None = None
    total_annotations: int | None = None
    cancelled_annotations: int | None = None
    draft_exists: bool | None = None


class _WireParent(msgspec.Struct):
    parent_prediction: int | None = None


class _WireAnnotated(msgspec.Struct):
    annotations: list[_WireParent] = []


def task_states(client: LabelStudioClient, project_id: int) -> Iterator[TaskState]:
    """Yields the tasks of a project by rising id, without their masks.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    hidden = [f"tasks:{name}" for name in _HIDDEN]
    query: dict[str, object] = {
        "ordering": ["tasks:id"],
        "hiddenColumns": {"explore": hidden, "labeling": hidden},
    }
    for page in range(1, _MOST_PAGES):
        answer = client.task_page(project_id, query, page=page, page_size=_PAGE_SIZE)
        wire = _WirePage([]) if answer is None else convert_answer(answer, _WirePage)
        yield from (_state(value) for value in wire.tasks)
        if len(wire.tasks) < _PAGE_SIZE:
            return


def stored_predictions(client: LabelStudioClient, task_id: int) -> tuple[PredictionSummary, ...]:
    """Returns the predictions of a task by rising id.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    values = client.raw_predictions(task_id)
    found = [_summary(convert_answer(value, _WirePrediction)) for value in values]
    return tuple(sorted(found, key=lambda prediction: prediction.id))


def has_prediction(client: LabelStudioClient, task_id: int, version: str) -> bool:
    """Whether a task has a prediction of exactly this version.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    return any(found.version == version for found in stored_predictions(client, task_id))


def delete_duplicates(
    client: LabelStudioClient, project_id: int, task_id: int, ours: Collection[str]
) -> int:
    """Deletes all but the newest prediction of each of our versions of one task.

    A prediction that an annotation started from stays, and the others of its version go. Nothing
    is deleted while there is a draft: the annotator may have begun with any of them.

    Args:
        client: Label Studio.
        project_id: project of the task.
        task_id: the task.
        ours: model versions of this backend; predictions of others are left alone.

    Returns:
        The number of deleted predictions.

    Raises:
        LabelStudioError: refused, or an answer of another form.
    """
    by_version: dict[str, list[int]] = {}
    for prediction in stored_predictions(client, task_id):
        if prediction.version in ours:
            by_version.setdefault(prediction.version, []).append(prediction.id)
    repeated = [ids for ids in by_version.values() if len(ids) > 1]
    if not repeated:
        return 0
    task = fetch_annotated(client, project_id, [task_id]).get(task_id)
    if task is None or _has_draft(client, project_id, task_id):
        return 0
    annotations = read_json(task, _WireAnnotated).annotations
    referred = {annotation.parent_prediction for annotation in annotations}
    surplus = [
        number
        for ids in repeated
        for number in sorted(ids, key=lambda each: (each in referred, each))[:-1]
        if number not in referred
    ]
    for number in surplus:
        client.delete(f"/api/predictions/{number}/")
    return len(surplus)


def _has_draft(client: LabelStudioClient, project_id: int, task_id: int) -> bool:
    items = [
        filter_item("id", "Number", "equal", task_id),
        filter_item("draft_exists", "Boolean", "equal", True),
    ]
    query = {"filters": {"conjunction": "and", "items": items}}
    answer = client.task_page(project_id, query, page=1, page_size=1)
    return bool(convert_answer(answer, _WirePage).tasks)


def _state(value: Mapping[str, object]) -> TaskState:
    wire = convert_answer(value, _WireState)
    named = wire.predictions_model_versions or ""
    versions = frozenset(filter(None, (name.strip() for name in named.split(","))))
    begun = (wire.total_annotations or 0) + (wire.cancelled_annotations or 0)
    return TaskState(
        wire.id,
        wire.data,
        None if len(named) >= _SHORTENED else versions,
        wire.total_predictions or 0,
        is_begun=begun > 0 or bool(wire.draft_exists),
        has_draft=bool(wire.draft_exists),
        score=wire.predictions_score,
    )


def shape_ids(results: Iterable[WireShape]) -> frozenset[str]:
    """Returns the ids of results that are regions.

    The names and kinds of a region have its id. Text with an id of its own is a note to annotators.
    """
    return frozenset(
        str(result.id)
        for result in results
        if result.id is not None and result.type not in _NO_SHAPES
    )


def _summary(wire: _WirePrediction) -> PredictionSummary:
    scores: dict[str, float | None] = {}
    labels: dict[str, tuple[str, ...]] = {}
    shapes = shape_ids(wire.result)
    for result in wire.result:
        if str(result.id) not in shapes or result.type == "relation":
            continue
        region = str(result.id)
        if result.score is not None or region not in scores:
            scores[region] = result.score
        labels[region] = (*labels.get(region, ()), *_texts(result.value))
    regions = tuple(
        PredictedRegion(region, tuple(dict.fromkeys(labels[region])), score)
        for region, score in scores.items()
    )
    return PredictionSummary(
        wire.id, wire.task, wire.model_version or "", wire.score, wire.created_at, regions
    )


def _texts(value: _WireValue | None) -> Sequence[str]:
    if value is None:
        return ()
    texts = [value.text] if isinstance(value.text, str) else value.text
    return [*value.labels, *value.brushlabels, *value.bitmasklabels, *texts]
