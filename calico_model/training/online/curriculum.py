"""Questions of an online update: about corrected groups, pairs made of them, and base data.

Everything is drawn from one seeded source. Knows examples; not tensors or losses.

In a pair whose two part questions are answered, common and unique parts together are all parts of
each image. So any two such images can be compared, and K groups teach as much as K squared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from calico_model.modeling.features import concatenate
from calico_model.training.online.batches import TrainingQuestion, question_weight
from calico_model.training.online.example import Example, RegionTarget
from calico_model.training.online.plan import Mix
from calico_model.types import RegionKind, Supervision
from calico_model.vocabulary import normalise

_TRIES = 4
_ALONE_SHARE = 0.4  # of the pairs; the others are two images
_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})


@dataclass(frozen=True)
class Replay:
    """Examples to rehearse, so that they are not forgotten.

    Attributes:
        corrections: examples of earlier updates.
        base: examples of the data the base was trained on; for them the base is a teacher too.
    """

    corrections: tuple[Example, ...] = ()
    base: tuple[Example, ...] = ()


class Curriculum:
    """Draws the questions of one step after another.

    Attributes:
        corrected: corrected groups with at least one question whose truth is known.
        weights: relative frequency at which each is drawn.
        choose: source of everything that is drawn.
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
        """Draws from `new` and `replay`.

        Args:
            new: corrections not learned from before.
            replay: examples to rehearse.
            mix: which questions a batch consists of.
            seed: of everything that is drawn.
            in_pairs: larger groups are shown two images at a time, as the model is asked then.
        """
        corrections = (*new, *replay.corrections)
        self.corrected = [example for example in corrections if example.known]
        fresh = {id(example) for example in new}
        self.weights = [
            example.weight * (mix.newest if id(example) in fresh else 1.0)
            for example in self.corrected
        ]
        self._base = [example for example in replay.base if example.known]
        self._pairable = [example for example in self.corrected if can_recombine(example)]
        self._partners = [example for example in self._base if can_recombine(example)]
        self._mix, self._in_pairs = mix, in_pairs
        self.choose = random.Random(f"{seed}/curriculum")

    def questions(self) -> list[TrainingQuestion]:
        """Returns the next batch; base questions come last."""
        size = self._mix.batch
        from_base = round(size * self._mix.base_share) if self._base else 0
        if not self.corrected:
            from_base = size
        questions = [self._corrected_question() for _ in range(size - from_base)]
        questions += [self._ask(self.choose.choice(self._base), True) for _ in range(from_base)]
        return questions

    def _corrected_question(self) -> TrainingQuestion:
        if self.choose.random() < self._mix.recombined:
            for _ in range(_TRIES):
                views = [self._draw_view(example) for example in self._draw_two()]
                pair = recombine(views, self.choose)
                if pair is not None:
                    return self._ask(pair, False)
        example = self.choose.choices(self.corrected, self.weights)[0]
        return self._ask(self._draw_view(example), False)

    def _draw_view(self, example: Example) -> Example:
        """The group itself or one of its augmented views."""
        return self.choose.choice((example, *example.views))

    def _draw_two(self) -> list[Example]:
        """Two groups that give one image each; fewer where there are none."""
        if len(self._pairable) < 1:
            return []
        if self._partners and (len(self._pairable) < 2 or self.choose.random() < self._mix.mixed):
            return [self.choose.choice(self._pairable), self.choose.choice(self._partners)]
        return self.choose.sample(self._pairable, min(2, len(self._pairable)))

    def _ask(self, example: Example, is_base: bool) -> TrainingQuestion:
        if self._in_pairs:
            example = draw_pair(example, self.choose)
        kinds = [kind for kind in RegionKind if kind in example.known]
        weights = [question_weight(example, kind) for kind in kinds]
        return TrainingQuestion(example, self.choose.choices(kinds, weights)[0], is_base)


def can_recombine(example: Example) -> bool:
    """Whether the parts of each image are known completely."""
    return len(example) <= 2 and example.known >= _PARTS


def recombine(examples: Sequence[Example], choose: random.Random) -> Example | None:
    """Makes a pair of two images of different examples.

    Args:
        examples: two or more that `can_recombine`.
        choose: picks the images.

    Returns:
        The pair; None with fewer than two examples, or if an image has no parts.
    """
    if len(examples) < 2:
        return None
    sources = choose.sample(list(examples), 2)
    shown = [(example, choose.randrange(len(example))) for example in sources]
    if not all(_parts_by_name(example, image) for example, image in shown):
        return None
    return _side_by_side(shown, _PARTS)


def draw_pair(example: Example, choose: random.Random) -> Example:
    """Makes a pair of two images of a corrected group, as a model that compares pairs is asked.

    A part that some images of a larger group show, but not all, is not in the group's truth. The
    pair does not name it either, and such parts are dropped when answers of pairs are merged.

    Args:
        example: a group.
        choose: picks an image and itself, or an image and the next.

    Returns:
        The pair; the group itself if nothing is known about its parts.
    """
    if RegionKind.COMMON_PART not in example.known:
        return example
    images = len(example)
    first = choose.randrange(images)
    second = first if images == 1 or choose.random() < _ALONE_SHARE else (first + 1) % images
    known = example.known & _PARTS
    if first == second:
        known -= {RegionKind.UNIQUE_PART}
    return _side_by_side([(example, first), (example, second)], known)


def _side_by_side(shown: Sequence[tuple[Example, int]], known: frozenset[RegionKind]) -> Example:
    """Compares two images; the object question is known where both show the same object."""
    parts = [_parts_by_name(example, image) for example, image in shown]
    shared = parts[0].keys() & parts[1].keys()
    targets: list[RegionTarget] = []
    for slot, named in enumerate(parts):
        for name, target in named.items():
            kind = RegionKind.COMMON_PART if name in shared else RegionKind.UNIQUE_PART
            targets.append(_moved(target, slot, kind))
        for target in _removed_parts(*shown[slot]):
            targets += [_moved(target, slot, kind) for kind in sorted(known & _PARTS)]
    compared = [example.objects[image] for example, image in shown]
    names = [None if region is None else normalise(region.label) for region in compared]
    wholes = [_whole(example, image) for example, image in shown]
    if names[0] is not None and names[0] == names[1] and all(wholes):
        known |= {RegionKind.COMMON_OBJECT}
        for slot, whole in enumerate(wholes):
            if whole is not None:
                targets.append(_moved(whole, slot, RegionKind.COMMON_OBJECT))
    return Example(
        key="+".join(f"{example.key}/{image}" for example, image in shown),
        features=concatenate([example.features.image(image) for example, image in shown]),
        sizes_hw=tuple(example.sizes_hw[image] for example, image in shown),
        targets=tuple(targets),
        objects=tuple(
            None if region is None else replace(region, image_index=slot)
            for slot, region in enumerate(compared)
        ),
        known=known,
        weight=min(example.weight for example, _ in shown),
    )


def _part_targets(example: Example, image: int) -> list[RegionTarget]:
    """The parts of one image, present ones and removed ones."""
    return [
        target
        for target in example.targets
        if target.region.image_index == image and target.region.kind in _PARTS
    ]


def _removed_parts(example: Example, image: int) -> list[RegionTarget]:
    """The parts that an annotator removed from one image."""
    parts = _part_targets(example, image)
    return [target for target in parts if Supervision.ABSENCE in target.supervision]


def _parts_by_name(example: Example, image: int) -> dict[str, RegionTarget]:
    """The parts of one image by the normal form of their name."""
    return {
        normalise(target.region.label): target
        for target in _part_targets(example, image)
        if Supervision.ABSENCE not in target.supervision
    }


def _whole(example: Example, image: int) -> RegionTarget | None:
    """The compared object of one image as an answer to the object question."""
    compared = example.objects[image]
    for target in example.targets:
        if (
            compared is not None
            and target.region.kind is RegionKind.COMMON_OBJECT
            and target.region.image_index == image
            and normalise(target.region.label) == normalise(compared.label)
        ):
            return target
    return None


def _moved(target: RegionTarget, slot: int, kind: RegionKind) -> RegionTarget:
    region = replace(target.region, image_index=slot, kind=kind, part_id=None)
    return RegionTarget(region, target.supervision)
