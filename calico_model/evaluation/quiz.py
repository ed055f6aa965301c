"""Five-choice questions about a group, and how well the likelier choices do.

`intersection` and `difference` ask for the parts, the objects being named. `whole2part` asks for an
object before anything is said about its parts, `part2whole` when its true parts are said as well:
the difference of the two is what knowing the parts is worth. Knows names; not masks or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.evaluation.answers import first_sentence, true_items, write_answer
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
from calico_model.types import LabeledGroup, Likelihood, RegionKind
from calico_model.vocabulary import normalise

PART_TASKS = {"intersection": RegionKind.COMMON_PART, "difference": RegionKind.UNIQUE_PART}
OBJECT_TASKS = ("whole2part", "part2whole")
ACCURACIES = tuple(f"accuracy_{reading}" for reading in READINGS)
CHOSEN = tuple(
    f"chosen_{half}{suffix}" for suffix in ("", "_compat") for half in ("precision", "recall")
)
GAIN = "gain"


@dataclass(frozen=True)
class Question:
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
) -> Iterator[Question]:
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


def score_question(question: Question, likelihoods: Sequence[Likelihood]) -> dict[str, Tally]:
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
) -> Question:
    right = int(rng.integers(CHOICES))
    answers = [*wrong[:right], truth, *wrong[right:]]
    return Question(
        task,
        kind,
        tuple(write_answer(labeled, kind, items) for items in answers),
        right,
        tuple(frozenset((normalise(name), images) for name, images in items) for items in answers),
    )


def _object_questions(
    labeled: LabeledGroup, parts: Sequence[Item], taxonomy: Taxonomy, rng: np.random.Generator
) -> Iterator[Question]:
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
    yield Question("whole2part", kind, tuple(map(first_sentence, full)), right)
    yield Question("part2whole", kind, full, right)


def _candidates(labeled: LabeledGroup, kind: RegionKind, taxonomy: Taxonomy) -> list[Item]:
    """Other parts of the compared objects, where a wrong answer would claim them."""
    every = tuple(compared.image_index for compared in labeled.objects)
    found: dict[Item, None] = {}
    for compared in labeled.objects:
        images = every if kind is RegionKind.COMMON_PART else (compared.image_index,)
        for part in taxonomy.parts.get(normalise(compared.label), ()):
            found[part, images] = None
    truth = {(normalise(name), images) for name, images in true_items(labeled, kind)}
    return [item for item in found if item not in truth]
