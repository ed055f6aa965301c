"""The true answers of a group in the words of the answer grammar, whole or changed.

What a model would have said had it been right: the text that teacher forcing and multiple choice
put in its mouth. Knows labels and the grammar of prompts.py; not masks or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calico_model import prompts
from calico_model.evaluation.choices import Item
from calico_model.prompts import Phrase
from calico_model.types import LabeledGroup, RegionKind


def true_answers(labeled: LabeledGroup) -> dict[RegionKind, str]:
    """Returns the true answer of every subtask whose truth is known; it may say there is none."""
    return {
        kind: write_answer(labeled, kind, true_items(labeled, kind))
        for kind in RegionKind
        if kind in labeled.known
    }


def true_items(labeled: LabeledGroup, kind: RegionKind) -> list[Item]:
    """Returns what one subtask asks for: each thing once, with the images that show it."""
    things: dict[tuple[str, str], list[int]] = {}
    for region in labeled.of_kind(kind):
        # A unique part belongs to one image, even if another image has a namesake.
        tie = str(region.image_index) if kind is RegionKind.UNIQUE_PART else region.part_id or ""
        things.setdefault((region.label, tie), []).append(region.image_index)
    return [(label, tuple(images)) for (label, _), images in things.items()]


def write_answer(
    labeled: LabeledGroup,
    kind: RegionKind,
    items: Sequence[Item],
    renamed: Mapping[str, str] | None = None,
) -> str:
    """Writes an answer to one question about a group.

    Args:
        labeled: gives the compared objects, or the parts' word for them.
        kind: the question.
        items: parts, or objects of the object question, with the images that show them.
        renamed: compared object -> the name to give it instead.
    """
    if kind is RegionKind.COMMON_OBJECT:
        return prompts.write_answer(kind, [Phrase(name, at, True) for name, at in items], ())
    images: dict[str, list[int]] = {}
    for image, label in enumerate(_compared(labeled)):
        images.setdefault((renamed or {}).get(label, label), []).append(image)
    objects = [Phrase(name, tuple(at), True) for name, at in images.items()]
    return prompts.write_answer(kind, objects, [Phrase(name, at, False) for name, at in items])


def first_sentence(answer: str) -> str:
    """Returns the sentence of a part answer that names the compared objects."""
    return answer[: prompts.first_sentence_end(answer) + 1]


def _compared(labeled: LabeledGroup) -> list[str]:
    """What each image shows, by the best source there is: part answers must name something."""
    named = {part.image_index: part.object_label for part in labeled.parts if part.object_label}
    named |= {compared.image_index: compared.label for compared in labeled.objects}
    return [named.get(image, "object") for image in range(len(labeled.group))]
