"""Highlighted words and the regions they stand for.

What is drawn already under the same name stays as it is and is only linked: a highlight must not
draw a second mask of the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.errors import InvalidRleError
from backend.types import Region, TextPrompt, stable_id
from calico_model.prompts import clean_label
from calico_model.types import GroupPrediction, PartMask, RegionKind


@dataclass(frozen=True, eq=False)
class LinkedRegions:
    """The regions of a highlight.

    Attributes:
        prediction: the regions, those that are drawn already with the mask they have.
        ids: one per region.
    """

    prediction: GroupPrediction
    ids: tuple[str, ...]


def link_highlight(
    prediction: GroupPrediction, question: TextPrompt, canvas: Sequence[Region]
) -> LinkedRegions:
    """Puts drawn regions in the place of found ones with the same name on the same image.

    Args:
        prediction: what was found for the highlighted words.
        question: the highlight.
        canvas: regions that are drawn on the task. A region that an arrow names is neither drawn
            again nor linked: to replace it would crash the editor.
    """
    names = {clean_label(part.label) for part in prediction.parts} | {clean_label(question.text)}
    drawn = [region for region in canvas if clean_label(region.label or "") in names]
    covered = {(region.image_index, clean_label(region.label or "")) for region in drawn}
    found = [
        part
        for part in prediction.parts
        if (part.image_index, clean_label(part.label)) not in covered
    ]
    kind_of = {clean_label(part.label): part.kind for part in prediction.parts}
    kept = [(part, region.id) for region in drawn if (part := _drawn_part(region, kind_of))]
    parts = (*(part for part, _ in kept), *found)
    ids = (*(id_ for _, id_ in kept), *(_new_id(question, part) for part in found))
    return LinkedRegions(replace(prediction, parts=parts), ids)


def _drawn_part(region: Region, kind_of: dict[str, RegionKind]) -> PartMask | None:
    """A drawn region as it is; None if it must not or cannot be given again."""
    if region.is_linked:
        return None
    try:
        mask = region.mask
    except InvalidRleError:
        return None
    label = region.label or ""
    kind = region.kind or kind_of.get(clean_label(label), RegionKind.COMMON_PART)
    return PartMask(
        image_index=region.image_index,
        kind=kind,
        label=label,
        mask=mask,
        object_label=None,
        part_id=None if kind is RegionKind.UNIQUE_PART else f"{kind.value}:{label}",
        score=1.0 if region.score is None else min(max(region.score, 0.0), 1.0),
    )


def _new_id(question: TextPrompt, part: PartMask) -> str:
    """Equal for the same highlight answered again, so that its suggestions are replaced."""
    return stable_id(question.id, part.image_index, part.kind, part.label, part.object_label)
