"""Puts a prediction into the words of a closed label set, as this project's annotators use them.

Pure but for the model it is handed. An open label set leaves the prediction as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.label_schema import LabelSchema
from backend.label_studio.label_set import closed_labels, vocabulary_of
from backend.served_model import ServedModel
from backend.types import Task
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import GroupPrediction, ImageGroup, PartMask


@dataclass(frozen=True)
class ProjectNames:
    """What the regions of a task may be called, and what its project's annotators called regions.

    Attributes:
        accepted: by project id.
        least: smallest chance at which a label is given.
    """

    accepted: Callable[[int | None], Prototypes]
    least: float

    def closed(self, schema: LabelSchema, task: Task) -> ClosedSet | None:
        """Returns the closed set of a task, None where any text may be written."""
        labels = closed_labels(schema, task.labels)
        if not labels:
            return None
        return ClosedSet(vocabulary_of(labels), self.accepted(task.project_id), least=self.least)


def state_of(closed: ClosedSet | None) -> str:
    """Tells apart what makes names differ; not with every accepted region, but as they double."""
    if closed is None:
        return ""
    return f"named {closed.least:g} {closed.accepted.regions.bit_length()}"


def name_prediction(
    prediction: GroupPrediction, group: ImageGroup, predictor: ServedModel, closed: ClosedSet
) -> GroupPrediction:
    """Names every region of a prediction; what is unsure gets the empty label.

    One thing in several images keeps one name.
    """
    outlines = [
        Outline(
            part.image_index, part.mask, part.kind, predicted_label=part.label, same=part.part_id
        )
        for part in prediction.parts
    ]
    named = predictor.name(group, outlines, closed, prediction)
    parts = zip(prediction.parts, named, strict=True)
    return replace(prediction, parts=tuple(_renamed(part, one.label or "") for part, one in parts))


def name_new(
    parts: Sequence[PartMask], group: ImageGroup, predictor: ServedModel, closed: ClosedSet
) -> tuple[PartMask, ...]:
    """Names regions an annotator just outlined and nobody has named; the language model rests."""
    nameless = [part for part in parts if not part.label and part.mask.any()]
    if not nameless:
        return tuple(parts)
    outlines = [Outline(one.image_index, one.mask, one.kind, same=one.part_id) for one in nameless]
    named = dict(zip(map(id, nameless), predictor.name(group, outlines, closed), strict=True))
    return tuple(
        _renamed(part, named[id(part)].label or "") if id(part) in named else part for part in parts
    )


def _renamed(part: PartMask, label: str) -> PartMask:
    if label == part.label:
        return part
    is_linked = part.part_id is not None and label
    return replace(
        part, label=label, part_id=f"{part.kind.value}:{label}" if is_linked else part.part_id
    )
