"""The one definition of what is common and what is unique in a group.

Pure: names or compact maps in, names out (paper, section 3.1; MixedParts, 4.2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.data.catalogue import PART_NAMES
from calico_model.data.scene import Scene

MIN_OBJECT_SHARE = 0.005
"""Smallest share of the image at which an object counts as present."""

MIN_PART_SHARE = 0.002
"""Smallest share of the image at which a part of the compared object counts as visible."""


@dataclass(frozen=True)
class SceneComparison:
    """What a group of scenes has in common and what sets its images apart.

    Attributes:
        common_objects: categories present in every image, main category of the first image first.
        common_parts: part names visible on the compared object of every image.
        unique_parts: per image, part names visible on the compared object of no other image.
        mains: category of the compared object of each image.
    """

    common_objects: tuple[str, ...]
    common_parts: tuple[str, ...]
    unique_parts: tuple[tuple[str, ...], ...]
    mains: tuple[str, ...]


def compare(scenes: Sequence[Scene]) -> SceneComparison:
    """Compares the main objects of one or more scenes.

    In a group of one, everything visible is common and nothing is unique.
    """
    present = [present_categories(scene) for scene in scenes]
    parts = [visible_parts(scene) for scene in scenes]
    common, unique = partition(parts)
    return SceneComparison(
        common_objects=_in_all(present),
        common_parts=common,
        unique_parts=unique,
        mains=tuple(scene.categories[0] for scene in scenes),
    )


def partition(
    visible: Sequence[Sequence[str]], known: Sequence[Collection[str]] | None = None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Parts the names seen in a group into common and unique; the rest is neither.

    Args:
        visible: per image, the names that show well enough, without repetition.
        known: per image, every name it is known to have, also what shows too little to be
            answered but keeps another image from being the only one; `visible` if None.

    Returns:
        Names visible in every image, in the order of the first; and per image, names visible
        there and known in no other image. In a group of one nothing is unique.
    """
    holders: Sequence[Collection[str]] = visible if known is None else known
    unique = []
    for index, own in enumerate(visible):
        elsewhere = {name for n, names in enumerate(holders) if n != index for name in names}
        unique.append(tuple(name for name in own if name not in elsewhere))
    if len(visible) == 1:
        unique = [()]
    return _in_all(visible), tuple(unique)


def present_categories(scene: Scene) -> tuple[str, ...]:
    """Returns the categories whose visible area reaches `MIN_OBJECT_SHARE`, in object order."""
    areas = np.bincount(scene.object_map.ravel(), minlength=len(scene.categories) + 1)
    totals: dict[str, int] = {}
    for name, area in zip(scene.categories, areas[1:], strict=True):
        totals[name] = totals.get(name, 0) + int(area)
    least = MIN_OBJECT_SHARE * scene.object_map.size
    return tuple(name for name, area in totals.items() if area >= least)


def visible_parts(scene: Scene) -> tuple[str, ...]:
    """Returns the parts of the main object that reach `MIN_PART_SHARE`, in catalogue order."""
    main = scene.part_map[scene.object_map == 1]
    areas = np.bincount(main, minlength=len(PART_NAMES) + 1)[1:]
    least = MIN_PART_SHARE * scene.object_map.size
    return tuple(PART_NAMES[index] for index in np.flatnonzero(areas >= least))


def _in_all(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the names found in every tuple, in the order of the first."""
    return tuple(name for name in names[0] if all(name in other for other in names[1:]))
