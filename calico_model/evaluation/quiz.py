"""True answers in the words of the answer grammar, and five-choice questions made of them.

True answers are what teacher forcing feeds to a model. Each question offers the true answer among
four wrong ones. `intersection` and `difference` ask for parts while the objects are named.
`whole2part` asks for an object before its parts are named, `part2whole` after its true parts are
named: the difference of the two is what knowing the parts is worth. Knows labels and the grammar of
prompts.py; not masks or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model import prompts
from calico_model.evaluation.choices import (
    CHOICES,
    READINGS,
    Item,
    Taxonomy,
    choose,
    wrong_answers,
    wrong_objects,
)
from calico_model.evaluation.metrics import Tally
from calico_model.prompts import Phrase
from calico_model.types import LabeledGroup, Likelihood, RegionKind
from calico_model.vocabulary import normalise


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
    """Name of the object of each image, "object" where the truth has none."""
    named = {part.image_index: part.object_label for part in labeled.parts if part.object_label}
    named |= {compared.image_index: compared.label for compared in labeled.objects}
    return [named.get(image, "object") for image in range(len(labeled.group))]


PART_TASKS = {"intersection": RegionKind.COMMON_PART, "difference": RegionKind.UNIQUE_PART}
OBJECT_TASKS = ("whole2part", "part2whole")
ACCURACIES = tuple(f"accuracy_{reading}" for reading in READINGS)
CHOSEN = tuple(
    f"chosen_{half}{suffix}" for suffix in ("", "_compat") for half in ("precision", "recall")
)
GAIN = "gain"


@dataclass(frozen=True)
class QuizQuestion:
    """One question with its choices.

    Attributes:
        task: what is asked.
        kind: the question of the prompt.
        choices: full answer texts, the right one among them.
        right: its 0-based position.
        parts: the parts each choice claims; empty for object tasks.
    """

    task: str
    kind: RegionKind
    choices: tuple[str, ...]
    right: int
    parts: tuple[frozenset[Item], ...] = ()


def draw_questions(
    labeled: LabeledGroup, taxonomy: Taxonomy, rng: np.random.Generator
) -> Iterator[QuizQuestion]:
    """Yields the questions a group gives rise to; those without four wrong answers are left out.

    Args:
        labeled: truth; nothing is asked without compared objects and known parts.
        taxonomy: where wrong answers come from.
        rng: source of all choices.
    """
    if not labeled.objects:
        return
    shared = true_items(labeled, RegionKind.COMMON_PART)
    for task, kind in PART_TASKS.items():
        items = true_items(labeled, kind)
        if kind in labeled.known and items and shared:
            wrong = wrong_answers(items, _candidates(labeled, kind, taxonomy), taxonomy, rng)
            if len(wrong) == CHOICES - 1:
                yield _part_question(labeled, task, kind, tuple(items), wrong, rng)
    if shared:
        yield from _object_questions(labeled, shared, taxonomy, rng)


def score_question(question: QuizQuestion, likelihoods: Sequence[Likelihood]) -> dict[str, Tally]:
    """Whether the likeliest choice is right, under every reading, and the parts of the chosen one.

    The parts are those of the choice read by sum, or as the released code reads for `_compat`.
    """
    tallies: dict[str, Tally] = {
        f"accuracy_{reading}": (float(choose(likelihoods, reading) == question.right), 1.0)
        for reading in READINGS
    }
    for suffix, reading in (("", "sum"), ("_compat", "compat")) if question.parts else ():
        chosen = question.parts[choose(likelihoods, reading)]
        truth = question.parts[question.right]
        tallies[f"chosen_precision{suffix}"] = (len(chosen & truth), len(chosen))
        tallies[f"chosen_recall{suffix}"] = (len(chosen & truth), len(truth))
    return tallies


def _part_question(
    labeled: LabeledGroup,
    task: str,
    kind: RegionKind,
    truth: tuple[Item, ...],
    wrong: Sequence[tuple[Item, ...]],
    rng: np.random.Generator,
) -> QuizQuestion:
    right = int(rng.integers(CHOICES))
    answers = [*wrong[:right], truth, *wrong[right:]]
    return QuizQuestion(
        task,
        kind,
        tuple(write_answer(labeled, kind, items) for items in answers),
        right,
        tuple(frozenset((normalise(name), images) for name, images in items) for items in answers),
    )


def _object_questions(
    labeled: LabeledGroup, parts: Sequence[Item], taxonomy: Taxonomy, rng: np.random.Generator
) -> Iterator[QuizQuestion]:
    """The same choice of names for one compared object, without and with the parts."""
    names = [compared.label for compared in labeled.objects]
    true_name = names[int(rng.integers(len(names)))]
    wrong = wrong_objects(true_name, names, taxonomy, rng)
    if len(wrong) < CHOICES - 1:
        return
    right = int(rng.integers(CHOICES))
    choices = [*wrong[:right], true_name, *wrong[right:]]
    kind = RegionKind.COMMON_PART
    full = tuple(write_answer(labeled, kind, parts, {true_name: name}) for name in choices)
    yield QuizQuestion("whole2part", kind, tuple(map(first_sentence, full)), right)
    yield QuizQuestion("part2whole", kind, full, right)


def _candidates(labeled: LabeledGroup, kind: RegionKind, taxonomy: Taxonomy) -> list[Item]:
    """Other parts of the compared objects, where a wrong answer would claim them."""
    every = tuple(compared.image_index for compared in labeled.objects)
    candidates: dict[Item, None] = {}
    for compared in labeled.objects:
        images = every if kind is RegionKind.COMMON_PART else (compared.image_index,)
        for part in taxonomy.parts.get(normalise(compared.label), ()):
            candidates[part, images] = None
    truth = {(normalise(name), images) for name, images in true_items(labeled, kind)}
    return [item for item in candidates if item not in truth]
