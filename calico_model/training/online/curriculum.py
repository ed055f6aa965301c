"""What an update sees when: corrected groups, pairs made of them, and the base's own data.

Everything is drawn from one seeded source. Knows examples; not tensors or losses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from calico_model.training.online.batches import Question, question_weight
from calico_model.training.online.example import Example
from calico_model.training.online.recombination import can_recombine, draw_pair, recombine
from calico_model.types import RegionKind

_TRIES = 4


@dataclass(frozen=True)
class Replay:
    """What must not be forgotten.

    Attributes:
        corrections: examples of earlier updates.
        base: examples of the data the base was trained on; there the base is a teacher too.
    """

    corrections: tuple[Example, ...] = ()
    base: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Mix:
    """How a batch is made up.

    Attributes:
        batch: questions in it.
        base_share: of the batch, drawn from the base's data where there is any.
        newest: how many times as often a new correction is drawn as an earlier one.
        recombined: share of the corrected groups that are pairs made of several.
        mixed: share of those pairs that compare with an image of the base's data.
    """

    batch: int
    base_share: float
    newest: float
    recombined: float
    mixed: float


class Curriculum:
    """Draws the questions of one step after another.

    Attributes:
        corrected: groups something is known of.
        weights: how often each is drawn, relatively.
    """

    def __init__(
        self,
        new: Sequence[Example],
        replay: Replay,
        mix: Mix,
        seed: int,
        *,
        in_pairs: bool = False,
    ) -> None:
        """Draws from `new` and `replay`; in pairs if that is how the model is asked."""
        self.corrected = [one for one in (*new, *replay.corrections) if one.known]
        fresh = {id(one) for one in new}
        self.weights = [
            one.weight * (mix.newest if id(one) in fresh else 1.0) for one in self.corrected
        ]
        self._base = [one for one in replay.base if one.known]
        self._pairable = [one for one in self.corrected if can_recombine(one)]
        self._partners = [one for one in self._base if can_recombine(one)]
        self._mix, self._in_pairs = mix, in_pairs
        self.choose = random.Random(f"{seed}/curriculum")

    def questions(self) -> list[Question]:
        """Returns the next batch; base questions come last."""
        size = self._mix.batch
        from_base = round(size * self._mix.base_share) if self._base else 0
        if not self.corrected:
            from_base = size
        asked = [self._corrected_question() for _ in range(size - from_base)]
        asked += [self._ask(self.choose.choice(self._base), True) for _ in range(from_base)]
        return asked

    def _corrected_question(self) -> Question:
        if self.choose.random() < self._mix.recombined:
            for _ in range(_TRIES):
                pair = recombine([self._seen(one) for one in self._two()], self.choose)
                if pair is not None:
                    return self._ask(pair, False)
        example = self.choose.choices(self.corrected, self.weights)[0]
        return self._ask(self._seen(example), False)

    def _seen(self, example: Example) -> Example:
        """The group itself or one of its views."""
        return self.choose.choice((example, *example.views))

    def _two(self) -> list[Example]:
        """Two groups that give one image each."""
        if len(self._pairable) < 1:
            return []
        if self._partners and (len(self._pairable) < 2 or self.choose.random() < self._mix.mixed):
            return [self.choose.choice(self._pairable), self.choose.choice(self._partners)]
        return self.choose.sample(self._pairable, min(2, len(self._pairable)))

    def _ask(self, example: Example, is_base: bool) -> Question:
        if self._in_pairs:
            example = draw_pair(example, self.choose)
        kinds = [kind for kind in RegionKind if kind in example.known]
        weights = [question_weight(example, kind) for kind in kinds]
        return Question(example, self.choose.choices(kinds, weights)[0], is_base)
