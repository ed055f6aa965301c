"""Names regions out of a project's closed label set, as its annotators use the labels.

Pure but for the model it calls. An open label set leaves the model's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.label_schema import LabelSchema
from backend.label_studio.label_set import closed_labels, vocabulary_of
from backend.served_model import ServedModel
from backend.serving.jobs import PredictionJob
from backend.types import Task
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import GroupPrediction, ImageGroup, PartMask


@dataclass(frozen=True)
class ProjectNames:
    """What the regions of a task may be called, and what annotators called regions before.

    Attributes:
        prototypes: returns how the labels of a project look, by project id.
        least: smallest chance in [0, 1] at which a label is given.
    """

    prototypes: Callable[[int | None], Prototypes]
    least: float

    def closed_set(self, schema: LabelSchema, task: Task) -> ClosedSet | None:
        """Returns the closed set of a task, None where any text may be written."""
        labels = closed_labels(schema, task.labels)
        if not labels:
            return None
        return ClosedSet(vocabulary_of(labels), self.prototypes(task.project_id), least=self.least)


def closed_set_of(names: ProjectNames | None, job: PredictionJob) -> ClosedSet | None:
    """Returns the closed set of a job's task; None without one, or where regions are not named."""
    return None if names is None else names.closed_set(job.schema, job.task)


def naming_state(closed: ClosedSet | None) -> str:
    """Returns what a kept answer's names depend on, "" for an open set.

    It changes when the number of accepted regions doubles, not with every region: else no answer
    could be kept.
    """
    if closed is None:
        return ""
    return f"named {closed.least:g} {closed.accepted.all_regions.bit_length()}"


def name_prediction(
    prediction: GroupPrediction, group: ImageGroup, model: ServedModel, closed: ClosedSet
) -> GroupPrediction:
    """Names every region of a prediction; a region of unsure name gets the empty label.

    One thing in several images keeps one name.
    """
    outlines = [
        Outline(
            part.image_index, part.mask, part.kind, predicted_label=part.label, same=part.part_id
        )
        for part in prediction.parts
    ]
    names = model.name(group, outlines, closed, prediction)
    parts = zip(prediction.parts, names, strict=True)
    return replace(
        prediction, parts=tuple(_renamed(part, name.label or "") for part, name in parts)
    )


def name_unnamed(
    parts: Sequence[PartMask], group: ImageGroup, model: ServedModel, closed: ClosedSet
) -> tuple[PartMask, ...]:
    """Names the regions without a label, which an annotator just outlined.

    Without the group's prediction: the language model is not asked.
    """
    unnamed = [part for part in parts if not part.label and part.mask.any()]
    if not unnamed:
        return tuple(parts)
    outlines = [
        Outline(part.image_index, part.mask, part.kind, same=part.part_id) for part in unnamed
    ]
    names = dict(zip(map(id, unnamed), model.name(group, outlines, closed), strict=True))
    return tuple(
        _renamed(part, names[id(part)].label or "") if id(part) in names else part for part in parts
    )


def _renamed(part: PartMask, label: str) -> PartMask:
    if label == part.label:
        return part
    is_linked = part.part_id is not None and label
    return replace(
        part, label=label, part_id=f"{part.kind.value}:{label}" if is_linked else part.part_id
    )
