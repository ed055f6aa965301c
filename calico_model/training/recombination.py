"""New pairs out of corrected pairs: two images that were never compared have a known comparison.

In a pair whose two part questions are answered, common and unique parts together are all parts of
each image. So any two such images can be compared, and K groups teach as much as K squared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from calico_model.features import concatenate
from calico_model.training.example import Example, RegionLesson, Teaches
from calico_model.types import RegionKind
from calico_model.vocabulary import normalise

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
    inventories = [_inventory(one, image) for one, image in zip(sources, images, strict=True)]
    if not all(inventories):
        return None
    shared = inventories[0].keys() & inventories[1].keys()
    lessons: list[RegionLesson] = []
    for slot, inventory in enumerate(inventories):
        for name, lesson in inventory.items():
            kind = RegionKind.COMMON_PART if name in shared else RegionKind.UNIQUE_PART
            lessons.append(_moved(lesson, slot, kind))
    compared = [one.objects[image] for one, image in zip(sources, images, strict=True)]
    names = [None if one is None else normalise(one.label) for one in compared]
    known = set(_PARTS)
    if names[0] is not None and names[0] == names[1]:
        wholes = [_whole(one, image) for one, image in zip(sources, images, strict=True)]
        if all(wholes):
            known.add(RegionKind.COMMON_OBJECT)
            for slot, whole in enumerate(wholes):
                if whole is not None:
                    lessons.append(_moved(whole, slot, RegionKind.COMMON_OBJECT))
    return Example(
        key="+".join(f"{one.key}/{image}" for one, image in zip(sources, images, strict=True)),
        features=concatenate(
            [one.features.image(image) for one, image in zip(sources, images, strict=True)]
        ),
        sizes_hw=tuple(one.sizes_hw[image] for one, image in zip(sources, images, strict=True)),
        lessons=tuple(lessons),
        objects=tuple(
            None if one is None else replace(one, image_index=slot)
            for slot, one in enumerate(compared)
        ),
        known=frozenset(known),
        weight=min(one.weight for one in sources),
    )


def _inventory(example: Example, image: int) -> dict[str, RegionLesson]:
    """The parts of one image by name."""
    return {
        normalise(one.region.label): one
        for one in example.lessons
        if one.region.image_index == image
        and one.region.kind in _PARTS
        and Teaches.ABSENCE not in one.teaches
    }


def _whole(example: Example, image: int) -> RegionLesson | None:
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


def _moved(lesson: RegionLesson, slot: int, kind: RegionKind) -> RegionLesson:
    region = replace(lesson.region, image_index=slot, kind=kind, part_id=None)
    return RegionLesson(region, lesson.teaches)
