"""Draws the contents of a group: main and secondary categories, optional parts, styles.

Defines the held-out splits. Everything is drawn from the generator passed in. `group_rng` keeps
training, evaluation and probing apart: a seed and index never give the same group in two streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from calico_model.data.catalogue import (
    HELD_OUT_CATEGORIES,
    TRAINED_CATEGORIES,
    WITHHELD_PAIRS,
    category,
    partners,
)
from calico_model.data.scene import DrawnObject, draw_instance
from calico_model.data.styles import HELD_OUT_STYLES, TRAINED_STYLES, Style

_SAME_CATEGORY, _SEQUENCE, _SHARED_STYLE, _EXTRA = 0.5, 0.4, 0.5, 0.55


class SceneSplit(StrEnum):
    """The held-out split of a picture; training draws from `SEEN`.

    `UNSEEN_DOMAIN` holds out everything at once: categories, some of their parts, and the style.
    """

    SEEN = "seen"
    UNSEEN_COMBINATION = "unseen-combination"
    UNSEEN_STYLE = "unseen-style"
    UNSEEN_CATEGORY = "unseen-category"
    UNSEEN_DOMAIN = "unseen-domain"


_STRANGE = frozenset({SceneSplit.UNSEEN_CATEGORY, SceneSplit.UNSEEN_DOMAIN})
_RESTYLED = frozenset({SceneSplit.UNSEEN_STYLE, SceneSplit.UNSEEN_DOMAIN})


class Stream(StrEnum):
    """Disjoint families of random numbers.

    On `PROBE` the gate of an online update measures forgetting: its groups are used neither for
    training nor for evaluation.
    """

    TRAINING = "training"
    EVALUATION = "evaluation"
    PROBE = "probe"


def group_rng(stream: Stream, seed: int, index: int) -> np.random.Generator:
    """Returns the generator of one group; streams, seeds and indices never overlap.

    Args:
        stream: training, evaluation or probe.
        seed: at least 0.
        index: position of the group, at least 0.
    """
    tag = list(Stream).index(stream) + 1
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(tag, index)))


def draw_mains(rng: np.random.Generator, split: SceneSplit, count: int) -> tuple[str, ...]:
    """Chooses the main category of each picture."""
    if split is SceneSplit.UNSEEN_COMBINATION:
        if count > 1 and rng.random() < 0.5:
            pairs = sorted(tuple(sorted(pair)) for pair in WITHHELD_PAIRS)
            pair = pairs[int(rng.integers(len(pairs)))]
            order = rng.permutation(np.arange(count) % 2)
            return tuple(pair[int(side)] for side in order)
        varied = [name for name in TRAINED_CATEGORIES if category(name).withheld]
        return (_choice(rng, varied),) * count
    pool = HELD_OUT_CATEGORIES if split in _STRANGE else TRAINED_CATEGORIES
    first = _choice(rng, pool)
    if count == 1 or rng.random() < _SAME_CATEGORY:
        return (first,) * count
    return _related(rng, first, count)


def draw_instances(
    rng: np.random.Generator, split: SceneSplit, names: tuple[str, ...]
) -> tuple[DrawnObject, ...]:
    """Draws the objects; in a sequence all pictures show the same object."""
    is_variant = split is SceneSplit.UNSEEN_COMBINATION and len(set(names)) == 1
    if len(set(names)) == 1 and rng.random() < _SEQUENCE:
        only = draw_instance(rng, names[0], draw_extras(rng, names[0], is_variant=is_variant))
        return (only,) * len(names)
    return tuple(
        draw_instance(rng, name, draw_extras(rng, name, is_variant=is_variant)) for name in names
    )


def draw_extras(rng: np.random.Generator, name: str, *, is_variant: bool = False) -> frozenset[str]:
    """Chooses optional parts; the withheld combination occurs in variants only."""
    kind = category(name)
    if is_variant:
        return kind.withheld
    chosen = frozenset(extra for extra in kind.extras if rng.random() < _EXTRA)
    if kind.withheld and kind.withheld <= chosen:
        return chosen - {_choice(rng, sorted(kind.withheld))}
    return chosen


def draw_styles(rng: np.random.Generator, split: SceneSplit, count: int) -> tuple[Style, ...]:
    """Chooses one style for all pictures, or one for each."""
    pool = HELD_OUT_STYLES if split in _RESTYLED else TRAINED_STYLES
    picks = rng.integers(len(pool), size=count)
    if rng.random() < _SHARED_STYLE:
        picks[:] = picks[0]
    return tuple(pool[int(pick)] for pick in picks)


def draw_other(rng: np.random.Generator, mains: Sequence[str]) -> str:
    """Chooses a secondary category that is no main category of the group."""
    return _choice(rng, [name for name in TRAINED_CATEGORIES if name not in mains])


def _related(rng: np.random.Generator, first: str, count: int) -> tuple[str, ...]:
    """Chooses categories that share one part with `first` and may be compared in training."""
    by_part = {
        part: tuple(n for n in partners(first, part) if frozenset({first, n}) not in WITHHELD_PAIRS)
        for part in category(first).parts
    }
    shared = [part for part, names in by_part.items() if names]
    if not shared:
        return (first,) * count
    names = [first, _choice(rng, by_part[_choice(rng, shared)])]
    common = set(category(names[0]).parts) & set(category(names[1]).parts)
    candidates = [first, *by_part[_choice(rng, sorted(common))]]
    while len(names) < count:
        name = _choice(rng, candidates)
        if all(frozenset({name, other}) not in WITHHELD_PAIRS for other in names):
            names.append(name)
    return tuple(names[int(i)] for i in rng.permutation(count))


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
