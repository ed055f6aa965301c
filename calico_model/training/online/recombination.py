"""Pairs out of corrected groups: two images that were never compared have a known comparison.

In a pair whose two part questions are answered, common and unique parts together are all parts of
each image. So any two such images can be compared, and K groups teach as much as K squared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from calico_model.modeling.features import concatenate
from calico_model.training.online.example import Example, RegionTarget
from calico_model.types import RegionKind, Supervision
from calico_model.vocabulary import normalise

_ALONE_SHARE = 0.4  # of the pairs; the others are two images
_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})


def can_recombine(example: Example) -> bool:
    """Whether the parts of each image are known completely."""
    return len(example) <= 2 and example.known >= _PARTS


def recombine(examples: Sequence[Example], choose: random.Random) -> Example | None:
    """Compares two images of different examples.

    Args:
        examples: that `can_recombine`.
        choose: picks the images.

    Returns:
        A pair; None if it would say nothing new or nothing sure.
    """
    if len(examples) < 2:
        return None
    sources = choose.sample(list(examples), 2)
    images = [choose.randrange(len(one)) for one in sources]
    if not all(_inventory(one, image) for one, image in zip(sources, images, strict=True)):
        return None
    return _side_by_side(list(zip(sources, images, strict=True)), _PARTS)


def draw_pair(example: Example, choose: random.Random) -> Example:
    """Shows two images of a corrected group as it is asked about in pairs (pairing.py).

    What is in some images of a larger group but not in all is no part of its truth, so it is
    learned as not worth a word, which is what becomes of it.

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
    """Compares two images; the object question is known where both show the same one."""
    inventories = [_inventory(one, image) for one, image in shown]
    shared = inventories[0].keys() & inventories[1].keys()
    lessons: list[RegionTarget] = []
    for slot, inventory in enumerate(inventories):
        for name, lesson in inventory.items():
            kind = RegionKind.COMMON_PART if name in shared else RegionKind.UNIQUE_PART
            lessons.append(_moved(lesson, slot, kind))
        for lesson in _removed(*shown[slot]):
            lessons += [_moved(lesson, slot, kind) for kind in sorted(known & _PARTS)]
    compared = [one.objects[image] for one, image in shown]
    names = [None if one is None else normalise(one.label) for one in compared]
    wholes = [_whole(one, image) for one, image in shown]
    if names[0] is not None and names[0] == names[1] and all(wholes):
        known |= {RegionKind.COMMON_OBJECT}
        for slot, whole in enumerate(wholes):
            if whole is not None:
                lessons.append(_moved(whole, slot, RegionKind.COMMON_OBJECT))
    return Example(
        key="+".join(f"{one.key}/{image}" for one, image in shown),
        features=concatenate([one.features.image(image) for one, image in shown]),
        sizes_hw=tuple(one.sizes_hw[image] for one, image in shown),
        lessons=tuple(lessons),
        objects=tuple(
            None if one is None else replace(one, image_index=slot)
            for slot, one in enumerate(compared)
        ),
        known=known,
        weight=min(one.weight for one, _ in shown),
    )


def _removed(example: Example, image: int) -> list[RegionTarget]:
    """The parts an annotator took away from one image."""
    return [
        one
        for one in example.lessons
        if one.region.image_index == image
        and one.region.kind in _PARTS
        and Supervision.ABSENCE in one.teaches
    ]


def _inventory(example: Example, image: int) -> dict[str, RegionTarget]:
    """The parts of one image by name."""
    return {
        normalise(one.region.label): one
        for one in example.lessons
        if one.region.image_index == image
        and one.region.kind in _PARTS
        and Supervision.ABSENCE not in one.teaches
    }


def _whole(example: Example, image: int) -> RegionTarget | None:
    """The compared object of one image as an answer to the object question."""
    compared = example.objects[image]
    for one in example.lessons:
        if (
            compared is not None
            and one.region.kind is RegionKind.COMMON_OBJECT
            and one.region.image_index == image
            and normalise(one.region.label) == normalise(compared.label)
        ):
            return one
    return None


def _moved(lesson: RegionTarget, slot: int, kind: RegionKind) -> RegionTarget:
    region = replace(lesson.region, image_index=slot, kind=kind, part_id=None)
    return RegionTarget(region, lesson.teaches)
