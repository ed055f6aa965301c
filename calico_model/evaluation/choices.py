"""Multiple choice: the true answer among four wrong ones, chosen by how likely the model finds it.

Wrong part answers come from one or two random edits of the true one, wrong objects from the
taxonomy's other classes, alike in name first (Partonomy, section on question construction).
Knows names and log-likelihoods; not masks or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from calico_model.types import Likelihood
from calico_model.vocabulary import normalise, similarity

CHOICES = 5
MAX_EDITS = 2
MAX_TRIES = 20
CO_OCCURRENCE_SHARE = 0.1
TEMPERATURE = 1.5

Item = tuple[str, tuple[int, ...]]
"""A part and the 0-based images that show it."""


READINGS: dict[str, Callable[[Likelihood], float]] = {
    "sum": Likelihood.sum,
    "mean": Likelihood.mean,
    "compat": Likelihood.compat,
}


def choose(likelihoods: Sequence[Likelihood], reading: str) -> int:
    """Returns the most likely choice; ties go to the lower index."""
    values = [READINGS[reading](likelihood) for likelihood in likelihoods]
    return values.index(max(values))


@dataclass(frozen=True)
class Taxonomy:
    """Which parts the things of each class can have.

    Attributes:
        parts: class -> its parts, in normal form.
    """

    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tidy = {
            normalise(name): tuple(dict.fromkeys(map(normalise, parts)))
            for name, parts in self.parts.items()
        }
        object.__setattr__(self, "parts", MappingProxyType(tidy))

    def affinity(self, part: str, present: Iterable[str]) -> float:
        """Log-odds that a class with the present parts has this one, by counting classes."""
        wanted = set(present)
        shares = [len(wanted & set(parts)) for parts in self.parts.values()]
        having = [part in parts for parts in self.parts.values()]
        alongside = sum(share for share, has in zip(shares, having, strict=True) if has)
        without = sum(share for share, has in zip(shares, having, strict=True) if not has)
        return math.log((alongside + 1) / (without + 1))


def wrong_answers(
    truth: Sequence[Item],
    candidates: Sequence[Item],
    taxonomy: Taxonomy,
    rng: np.random.Generator,
) -> list[tuple[Item, ...]]:
    """Four different answers, each one or two edits away from the truth; fewer if none are left.

    An edit adds, deletes or replaces a part, each as likely; no part is edited twice. New parts
    are other parts of the compared objects, or, one time in ten, parts of any class by their
    co-occurrence with the answer, at temperature 1.5.

    Args:
        truth: the true answer, not empty.
        candidates: other parts of the compared objects, with the images they would be claimed in.
        taxonomy: all classes.
        rng: source of all choices.
    """
    anywhere = sorted({part for parts in taxonomy.parts.values() for part in parts})
    answers: list[tuple[Item, ...]] = []
    taken = {frozenset(truth)}
    for _ in range(MAX_TRIES * (CHOICES - 1)):
        if len(answers) == CHOICES - 1:
            break
        answer = _edit(list(truth), candidates, anywhere, taxonomy, rng)
        if answer and frozenset(answer) not in taken:
            taken.add(frozenset(answer))
            answers.append(tuple(answer))
    return answers


def wrong_objects(
    name: str, taken: Iterable[str], taxonomy: Taxonomy, rng: np.random.Generator
) -> list[str]:
    """Four other classes, drawn by softmax over the likeness of their names to the true one.

    Args:
        name: of the object.
        taken: names that would be right or confusing.
        taxonomy: all classes.
        rng: source of all choices.
    """
    out = {normalise(name), *map(normalise, taken)}
    others = [other for other in taxonomy.parts if other not in out]
    if not others:
        return []
    weights = np.exp([similarity(name, other) for other in others])
    count = min(CHOICES - 1, len(others))
    drawn = rng.choice(len(others), size=count, replace=False, p=weights / weights.sum())
    return [others[k] for k in drawn]


def _edit(
    answer: list[Item],
    candidates: Sequence[Item],
    anywhere: Sequence[str],
    taxonomy: Taxonomy,
    rng: np.random.Generator,
) -> list[Item]:
    """One or two edits of an answer."""
    touched: set[Item] = set()
    for _ in range(int(rng.integers(1, MAX_EDITS + 1))):
        kind = ("add", "delete", "replace")[int(rng.integers(3))]
        free = [k for k, item in enumerate(answer) if item not in touched]
        if kind != "add":
            if not free:
                continue
            place = free[int(rng.integers(len(free)))]
        new = None
        if kind != "delete":
            new = _draw(answer, touched, candidates, anywhere, taxonomy, rng)
            if new is None:
                continue
            touched.add(new)
        if kind == "add" and new is not None:
            answer.append(new)
        elif kind == "replace" and new is not None:
            touched.add(answer[place])
            answer[place] = new
        else:
            touched.add(answer.pop(place))
    return answer


def _draw(
    answer: Sequence[Item],
    touched: set[Item],
    candidates: Sequence[Item],
    anywhere: Sequence[str],
    taxonomy: Taxonomy,
    rng: np.random.Generator,
) -> Item | None:
    """A part that is not in the answer, or None."""
    taken = {(normalise(label), images) for label, images in (*answer, *touched)}
    near = [item for item in candidates if (normalise(item[0]), item[1]) not in taken]
    if near and rng.random() >= CO_OCCURRENCE_SHARE:
        return near[int(rng.integers(len(near)))]
    # Any image set of the answer will do: what matters is a part that tends to come along.
    images = answer[int(rng.integers(len(answer)))][1] if answer else (0,)
    far = [part for part in anywhere if (part, images) not in taken]
    if not far:
        return near[int(rng.integers(len(near)))] if near else None
    present = [normalise(label) for label, _ in answer]
    logits = np.array([taxonomy.affinity(part, present) for part in far]) / TEMPERATURE
    weights = np.exp(logits - logits.max())
    return far[int(rng.choice(len(far), p=weights / weights.sum()))], images
