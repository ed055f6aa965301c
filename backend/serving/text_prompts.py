"""Typed questions -> the regions and the sentence that answer them.

One of the three questions picks from the prediction; a name is looked for on every image; "what is
this?" names a drawn box. Every text gets an answer: things that are not there are said to be
absent, names that the model has not learned to be unknown, and what is no name is answered with
names there are. Pure but for the model it calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from backend.label_schema import LabelSchema
from backend.label_studio.label_set import closed_labels, vocabulary_of
from backend.served_model import ServedModel
from backend.serving.named_sources import begin_names, join_names
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import NOBODY_JUDGED, TaskTrust
from backend.types import Prompt, Task, TextPrompt
from calico_model.errors import CalicoError, UnclearRequestError
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.interactive.text_request import (
    MAX_REQUEST_LENGTH,
    Request,
    Thing,
    is_nonsense,
    read_request,
    unknown_words,
)
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary, match

if TYPE_CHECKING:
    from calico_model.interactive.referring import Reference

MOST_NAMES = 12
_MOST_EXAMPLES = 3  # of names, for who wrote none
_MOST_SPELLINGS = 4  # of one label that are looked for
NOTHING_KNOWN = "I find nothing that I know on these images: outline the parts once"
_NO_REGIONS = {
    RegionKind.COMMON_OBJECT: "the images share no object",
    RegionKind.COMMON_PART: "the objects share no part",
    RegionKind.UNIQUE_PART: "no part is unique",
}


@dataclass(frozen=True, eq=False)
class QuestionAnswer:
    """The answer to one question.

    Attributes:
        prediction: the regions to suggest; their version is that of the prediction asked about.
        sentence: for the annotator, never empty.
    """

    prediction: GroupPrediction
    sentence: str


def task_labels(schema: LabelSchema, task: Task) -> ClosedSet | None:
    """Returns the names a task's regions may have, None where any text may be written."""
    labels = closed_labels(schema, task.labels)
    return ClosedSet(vocabulary_of(labels)) if labels else None


def separate_question(
    question: TextPrompt | None, prompts: tuple[Prompt, ...]
) -> tuple[TextPrompt | None, tuple[Prompt, ...]]:
    """Separates a question from prompts; one of the two is left.

    A text under a drawn box is the name of the box, unless it asks for a name. A text without a
    box is a question about the whole group.
    """
    if question is None or question.box is None:
        return question, () if question is not None else prompts
    try:
        if read_request(question.text).asks_name:
            return question, prompts
    except UnclearRequestError:
        return None, prompts
    label = question.text
    return None, tuple(replace(p, label=label) if p.id == question.id else p for p in prompts)


def answer_question(
    question: TextPrompt,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    model: ServedModel,
    closed: ClosedSet | None,
    *,
    sources: SourcePool | None = None,
    trust: TaskTrust = NOBODY_JUDGED,
) -> QuestionAnswer:
    """Answers one question about a group.

    Args:
        question: as typed.
        group: 1 to 8 images.
        group_prediction: what the model predicted for the group.
        model: the version that answers.
        closed: the project's labels, and what is known of them; None when any name is allowed.
        sources: those that know words are asked for names beside the model; None for it alone.
        trust: in the sources, for this task.
    """
    vocabulary = None if closed is None else closed.vocabulary
    try:
        request = read_request(question.text, vocabulary)
    except UnclearRequestError as error:
        sentence = _not_understood(question.text, group_prediction, vocabulary)
        if len(question.text) > MAX_REQUEST_LENGTH:
            sentence = str(error).removeprefix("request: ")
        return QuestionAnswer(replace(group_prediction, parts=()), sentence)
    try:
        if request.kinds:
            return _pick_kinds(request.kinds, group_prediction, vocabulary)
        if request.asks_name:
            return _name_box(question, group, group_prediction, model, closed)
        named = _Named(group, group_prediction, model, vocabulary, sources, trust)
        return _find_things(request, named)
    except CalicoError as error:
        sentence = str(error).removeprefix("request: ")
        return QuestionAnswer(replace(group_prediction, parts=()), sentence)


def _pick_kinds(
    kinds: Sequence[RegionKind], group_prediction: GroupPrediction, vocabulary: Vocabulary | None
) -> QuestionAnswer:
    """Answers one of the three questions from the prediction."""
    if not group_prediction.parts:
        return QuestionAnswer(group_prediction, NOTHING_KNOWN)
    parts = tuple(part for part in group_prediction.parts if part.kind in kinds)
    if vocabulary is not None:  # under the project's labels; regions without a label are left out
        labeled = [(part, match(part.label, vocabulary)) for part in parts]
        parts = tuple(replace(part, label=label) for part, label in labeled if label is not None)
    sentences = []
    for kind in kinds:
        labels = dict.fromkeys(part.label for part in parts if part.kind is kind)
        kind_name = kind.value.replace("_", " ")
        sentences.append(f"{kind_name}: {', '.join(labels)}" if labels else _NO_REGIONS[kind])
    return QuestionAnswer(replace(group_prediction, parts=parts), "; ".join(sentences))


@dataclass(frozen=True, eq=False)
class _Named:
    """What names are looked for in, and by whom; see `answer_question`."""

    group: ImageGroup
    group_prediction: GroupPrediction
    model: ServedModel
    vocabulary: Vocabulary | None
    sources: SourcePool | None
    trust: TaskTrust


def _find_things(request: Request, named: _Named) -> QuestionAnswer:
    """Looks for named things on every image."""
    group_prediction, vocabulary = named.group_prediction, named.vocabulary
    wanted = [(thing, label) for thing in request.things for label in thing.labels]
    if len(wanted) > MOST_NAMES:
        raise UnclearRequestError(f"expected at most {MOST_NAMES} names, got {len(wanted)}")
    references = _refer(wanted, named) if wanted else []
    sentences = [
        _not_understood(thing.words, group_prediction, vocabulary)
        if not reference.is_known and is_nonsense(thing.words)
        else _sentence(thing, reference, len(named.group))
        for (thing, _), reference in zip(wanted, references, strict=True)
    ]
    if vocabulary is not None and (unknown := unknown_words(request.things, vocabulary)):
        sentences.append(unknown)
    parts = tuple(part for reference in references for part in reference.parts)
    return QuestionAnswer(replace(group_prediction, parts=parts), "; ".join(sentences))


def _refer(wanted: Sequence[tuple[Thing, str]], named: _Named) -> list[Reference]:
    """Looks for every label under each of its spellings, and keeps the one found most surely.

    Which spelling the model knows a label by is not known beforehand. The sources are asked
    meanwhile.
    """
    spellings = [_spellings(label, named.vocabulary) for _, label in wanted]
    asked = {
        label: of_label
        for (thing, label), of_label in zip(wanted, spellings, strict=True)
        if not is_nonsense(thing.words)
    }
    question = begin_names(named.sources, named.group, asked)
    names = [
        (name, thing.owner)
        for (thing, _), of_label in zip(wanted, spellings, strict=True)
        for name in of_label
    ]
    answers = iter(named.model.refer(named.group, names, named.group_prediction))
    references = []
    for (_, label), of_label in zip(wanted, spellings, strict=True):
        tried = list(islice(answers, len(of_label)))
        best = max(
            tried,
            key=lambda tried_name: (
                sum(part.score for part in tried_name.parts),
                tried_name.is_known,
            ),
        )
        parts = tuple(_relabelled(part, best.label, label) for part in best.parts)
        references.append(replace(best, label=label, parts=parts))
    sought = [reference for reference in references if reference.label in asked]
    joined, _ = join_names(question, sought, named.group, named.trust)
    by_label = {reference.label: reference for reference in joined}
    return [by_label.get(reference.label, reference) for reference in references]


def _spellings(label: str, vocabulary: Vocabulary | None) -> tuple[str, ...]:
    return (label,) if vocabulary is None else vocabulary.spellings(label)[:_MOST_SPELLINGS]


def _relabelled(part: PartMask, name: str, label: str) -> PartMask:
    is_linked = part.part_id is not None and part.part_id.endswith(f":{name}")
    part_id = f"{part.kind.value}:{label}" if is_linked else part.part_id
    return replace(part, label=label, part_id=part_id)


def _sentence(thing: Thing, reference: Reference, images: int) -> str:
    """Says where a thing is: "leg (for 'hind legs'): on images 1 (80%), 2 (70%), absent on 3"."""
    label = reference.label
    if not reference.is_known and reference.broader is not None:
        return f'I know "{reference.broader}", not "{label}": outline it once'
    if not reference.is_known:
        return f'I do not know "{label}" yet: outline it once'
    name = label if thing.is_literal else f"{label} (for {thing.words!r})"
    if not reference.parts:
        return f"{name}: absent on {'every image' if images > 1 else 'this image'}"
    scores = ", ".join(
        f"{image + 1} ({_scores(reference.parts, image)})"
        for image in dict.fromkeys(part.image_index for part in reference.parts)
    )
    there = f"{name}: on image{'s' if ',' in scores else ''} {scores}"
    if not reference.absent:
        return there
    numbers = ", ".join(str(image + 1) for image in reference.absent)
    return f"{there}, absent on {numbers}"


def _scores(parts: Sequence[PartMask], image: int) -> str:
    """Says how sure the regions of one image are: "80%", or "2: 80% and 70%"."""
    scores = [f"{part.score:.0%}" for part in parts if part.image_index == image]
    return scores[0] if len(scores) == 1 else f"{len(scores)}: {' and '.join(scores)}"


def _not_understood(
    text: str, group_prediction: GroupPrediction, vocabulary: Vocabulary | None
) -> str:
    """Answers a text that is no name and no question."""
    labels = [part.label for part in group_prediction.parts if part.label]
    known = vocabulary.labels if vocabulary is not None else (*dict.fromkeys(labels), "handle")
    shown = ", ".join(f'"{label}"' for label in known[:_MOST_EXAMPLES])
    return f'I do not understand "{text.strip()}"; write a part\'s name, such as {shown}'


def _name_box(
    question: TextPrompt,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    model: ServedModel,
    closed: ClosedSet | None,
) -> QuestionAnswer:
    """Outlines and names what a drawn box shows."""
    if question.box is None:
        raise UnclearRequestError("draw a box and type the question under it, or type a name")
    part = model.look_into(group, question.image_index, question.box, group_prediction)
    if closed is not None and part.mask.any():
        part = _with_likeliest_label(part, group, group_prediction, model, closed)
    sentence = (
        f"{part.label} ({part.score:.0%})" if part.label else "nothing it could be named after"
    )
    return QuestionAnswer(replace(group_prediction, parts=(part,)), sentence)


def _with_likeliest_label(
    part: PartMask,
    group: ImageGroup,
    group_prediction: GroupPrediction,
    model: ServedModel,
    closed: ClosedSet,
) -> PartMask:
    """Gives a region the likeliest of the project's labels, with its chance as the score.

    Unsure labels, too: whoever asks wants a guess.
    """
    outline = Outline(part.image_index, part.mask, predicted_label=part.label)
    (named,) = model.name(group, [outline], closed, group_prediction)
    label, chance = named.ranked[0]
    return replace(part, label=label, score=chance * named.inside)
