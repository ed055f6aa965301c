"""Typed questions -> the regions and the sentence that answer them.

A question of the three picks from the prediction; names are looked for on every image; "what is
this?" names a drawn box. Whatever is typed is answered: what is not there is said to be absent,
and what has no label is met with the labels there are. Pure but for the model it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from backend.label_schema import LabelSchema
from backend.label_studio.label_set import closed_labels, vocabulary_of
from backend.served_model import ServedModel
from backend.types import Prompt, Task, TextPrompt
from calico_model.errors import CalicoError, UnclearRequestError
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.interactive.text_request import Request, Thing, read_request, unknown_words
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary, match

if TYPE_CHECKING:
    from calico_model.interactive.referring import Reference

MOST_NAMES = 12
_MOST_SPELLINGS = 4  # of one label that are looked for
_NOTHING_OF = {
    RegionKind.COMMON_OBJECT: "the images share no object",
    RegionKind.COMMON_PART: "the objects share no part",
    RegionKind.UNIQUE_PART: "no part is unique",
}


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer to one question.

    Attributes:
        prediction: the regions to suggest; their version is that of the prediction asked about.
        sentence: for the annotator, never empty.
    """

    prediction: GroupPrediction
    sentence: str


def closed_set(schema: LabelSchema, task: Task) -> ClosedSet | None:
    """Returns the names a task's regions may have, None where any text may be written."""
    labels = closed_labels(schema, task.labels)
    return ClosedSet(vocabulary_of(labels)) if labels else None


def settle(
    question: TextPrompt | None, prompts: tuple[Prompt, ...]
) -> tuple[TextPrompt | None, tuple[Prompt, ...]]:
    """A text under a drawn box is its name, unless it asks for one; a text alone asks for all."""
    if question is None or question.box is None:
        return question, () if question is not None else prompts
    try:
        if read_request(question.text).asks_name:
            return question, prompts
    except UnclearRequestError:
        return None, prompts
    label = question.text
    return None, tuple(replace(p, label=label) if p.id == question.id else p for p in prompts)


def reply_to(
    question: TextPrompt,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    predictor: ServedModel,
    closed: ClosedSet | None,
) -> Reply:
    """Answers one question about a group.

    Args:
        question: as typed.
        group: 1 to 8 images.
        group_prediction: what the predictor predicted for the group.
        predictor: the version that answers.
        closed: the project's labels, and what is known of them; None when any name is allowed.
    """
    vocabulary = None if closed is None else closed.vocabulary
    try:
        request = read_request(question.text, vocabulary)
        if request.kinds:
            return _of_kinds(request.kinds, group_prediction, vocabulary)
        if request.asks_name:
            return _named(question, group, group_prediction, predictor, closed)
        return _found(request, group, group_prediction, predictor, vocabulary)
    except CalicoError as error:
        return Reply(replace(group_prediction, parts=()), str(error).removeprefix("request: "))


def _of_kinds(
    kinds: Sequence[RegionKind], group_prediction: GroupPrediction, vocabulary: Vocabulary | None
) -> Reply:
    parts = tuple(part for part in group_prediction.parts if part.kind in kinds)
    if vocabulary is not None:  # in the project's words, and nothing that it has no word for
        named = [(part, match(part.label, vocabulary)) for part in parts]
        parts = tuple(replace(part, label=label) for part, label in named if label is not None)
    sentences = []
    for kind in kinds:
        labels = dict.fromkeys(part.label for part in parts if part.kind is kind)
        shown = kind.value.replace("_", " ")
        sentences.append(f"{shown}: {', '.join(labels)}" if labels else _NOTHING_OF[kind])
    return Reply(replace(group_prediction, parts=parts), "; ".join(sentences))


def _found(
    request: Request,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    predictor: ServedModel,
    vocabulary: Vocabulary | None,
) -> Reply:
    wanted = [(thing, label) for thing in request.things for label in thing.labels]
    if len(wanted) > MOST_NAMES:
        raise UnclearRequestError(f"expected at most {MOST_NAMES} names, got {len(wanted)}")
    found = _look_for(wanted, group, group_prediction, predictor, vocabulary) if wanted else []
    sentences = [
        _told(thing, one, len(group)) for (thing, _), one in zip(wanted, found, strict=True)
    ]
    if vocabulary is not None and (unknown := unknown_words(request.things, vocabulary)):
        sentences.append(unknown)
    parts = tuple(part for one in found for part in one.parts)
    return Reply(replace(group_prediction, parts=parts), "; ".join(sentences))


def _look_for(
    wanted: Sequence[tuple[Thing, str]],
    group: ImageGroup,
    group_prediction: GroupPrediction,
    predictor: ServedModel,
    vocabulary: Vocabulary | None,
) -> list[Reference]:
    """Asks for every label by each of its names: which one the model knows it by, nobody says."""
    spelled = [_spellings(label, vocabulary) for _, label in wanted]
    names = [
        (name, thing.owner)
        for (thing, _), some in zip(wanted, spelled, strict=True)
        for name in some
    ]
    answers = iter(predictor.refer(group, names, group_prediction))
    found = []
    for (_, label), some in zip(wanted, spelled, strict=True):
        tried = list(islice(answers, len(some)))
        best = max(tried, key=lambda one: sum(part.score for part in one.parts))
        parts = tuple(_relabelled(part, best.label, label) for part in best.parts)
        found.append(replace(best, label=label, parts=parts))
    return found


def _spellings(label: str, vocabulary: Vocabulary | None) -> tuple[str, ...]:
    return (label,) if vocabulary is None else vocabulary.spellings(label)[:_MOST_SPELLINGS]


def _relabelled(part: PartMask, name: str, label: str) -> PartMask:
    is_linked = part.part_id is not None and part.part_id.endswith(f":{name}")
    part_id = f"{part.kind.value}:{label}" if is_linked else part.part_id
    return replace(part, label=label, part_id=part_id)


def _told(thing: Thing, found: Reference, images: int) -> str:
    """ "leg (for 'hind legs'): on images 1, 2; absent on image 3"."""
    name = found.label if thing.is_literal else f"{found.label} (for {thing.words!r})"
    if not found.parts:
        return f"{name}: absent on {'every image' if images > 1 else 'this image'}"
    scores = ", ".join(f"{part.image_index + 1} ({part.score:.0%})" for part in found.parts)
    there = f"{name}: on image{'s' if len(found.parts) > 1 else ''} {scores}"
    if not found.absent:
        return there
    numbers = ", ".join(str(image + 1) for image in found.absent)
    return f"{there}, absent on {numbers}"


def _named(
    question: TextPrompt,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    predictor: ServedModel,
    closed: ClosedSet | None,
) -> Reply:
    if question.box is None:
        raise UnclearRequestError("draw a box and type the question under it, or type a name")
    part = predictor.look_into(group, question.image_index, question.box, group_prediction)
    if closed is not None and part.mask.any():
        part = _in_words(part, group, group_prediction, predictor, closed)
    told = f"{part.label} ({part.score:.0%})" if part.label else "nothing it could be named after"
    return Reply(replace(group_prediction, parts=(part,)), told)


def _in_words(
    part: PartMask,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    predictor: ServedModel,
    closed: ClosedSet,
) -> PartMask:
    """A region by the likeliest of the project's labels: who asks wants a guess, and its chance."""
    outline = Outline(part.image_index, part.mask, predicted_label=part.label)
    (named,) = predictor.name(group, [outline], closed, group_prediction)
    label, chance = named.ranked[0]
    return replace(part, label=label, score=chance * named.inside)
