"""Photographs into groups: by folder, by name, by time, or by what they show.

Values in, values out. What is one picture saved twice never comes into one group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath

import numpy as np

from backend.cli.import_plan import Plan, Way, photographs_by_folder
from backend.cli.photo_folder import natural_order
from backend.cli.photo_survey import Photograph
from backend.errors import SettingsError
from calico_model.similarity.duplicates import near_duplicates
from calico_model.similarity.grouping import group_similar

_VIEW = re.compile(
    r"(?:[\s_.-]+\(?\d{1,2}\)?|[\s_.-]+\(?[a-z]\)?|(?<=\d)[a-z]"
    r"|[\s_.-]*(?:front|back|rear|left|right|side|top|bottom|detail|close\s?up))\Z",
    re.IGNORECASE,
)
"""The end of a name that tells views of one thing apart: chair_01_a, chair_01_b, chair (2)."""

Group = tuple[Photograph, ...]


def set_duplicates_aside(
    photographs: Sequence[Photograph],
) -> tuple[list[Photograph], list[tuple[Photograph, Photograph]]]:
    """Takes out what is the same file, or the same picture saved again.

    Returns:
        One photograph of each, the largest; and every other with the one it repeats.
    """
    first_of: dict[str, Photograph] = {}
    repeated = []
    for photograph in photographs:
        original = first_of.setdefault(photograph.facts.digest, photograph)
        if original is not photograph:
            repeated.append((photograph, original))
    distinct = list(first_of.values())
    left_out = set()
    for members in near_duplicates([one.facts.fingerprint for one in distinct]):
        best = max(members, key=lambda place: (_pixels(distinct[place]), -place))
        for place in members:
            if place != best:
                left_out.add(place)
                repeated.append((distinct[place], distinct[best]))
    return [one for place, one in enumerate(distinct) if place not in left_out], repeated


def arrange(photographs: Sequence[Photograph], plan: Plan) -> list[Group]:
    """Divides photographs into groups.

    Raises:
        SettingsError: the plan needs something that no photograph has.
    """
    if not photographs:
        return []
    if plan.way is Way.SIMILARITY:
        return _similar(photographs, plan.sizes)
    if plan.way is Way.TIME:
        return _in_time(photographs, plan)
    by_name = {photograph.name: photograph for photograph in photographs}
    names = list(by_name)
    together = (
        photographs_by_folder(names) if plan.way is Way.FOLDER else _by_view(names, plan.pattern)
    )
    groups: list[Group] = []
    for members in together.values():
        found = [by_name[name] for name in members]
        if plan.way is Way.FOLDER and len(found) > plan.sizes[1]:
            groups += _similar(found, plan.sizes)
        else:
            groups += _evenly(found, plan.sizes[1])
    return groups


def arrange_series(
    photographs: Sequence[Photograph], most: int, imported: Iterable[Sequence[str]]
) -> list[Group]:
    """Divides every folder into tasks in the order of its names; two that follow share an image.

    Args:
        photographs: all of the folders, also those of the project.
        most: images of a task, at least 2.
        imported: content hashes of the images of each task that the project has; a piece that one
            of these tasks holds is left out.
    """
    known = [set(digests) for digests in imported]
    by_name = {photograph.name: photograph for photograph in photographs}
    pieces = []
    for names in photographs_by_folder(list(by_name)).values():
        frames = [by_name[name] for name in sorted(names, key=natural_order)]
        starts = range(0, max(len(frames) - 1, 1), most - 1)
        pieces += [tuple(frames[start : start + most]) for start in starts]
    digests_of = [{one.facts.digest for one in piece} for piece in pieces]
    return [
        piece
        for piece, digests in zip(pieces, digests_of, strict=True)
        if not any(digests <= task for task in known)
    ]


def _similar(photographs: Sequence[Photograph], sizes: tuple[int, int]) -> list[Group]:
    vectors = np.stack([one.vector for one in photographs if one.vector is not None])
    return [
        tuple(photographs[place] for place in sorted(members))
        for members in group_similar(vectors, sizes)
    ]


def _in_time(photographs: Sequence[Photograph], plan: Plan) -> list[Group]:
    """Sessions of one camera after another; those without a time are grouped by folder."""
    timed = [(one.facts.taken, one) for one in photographs if one.facts.taken is not None]
    if not timed:
        raise SettingsError(
            "--group-by: time: expected photographs that say when they were taken (EXIF), "
            "found none; use folder, name or similarity"
        )
    sessions: list[list[Photograph]] = [[]]
    timed.sort(key=lambda pair: (pair[0], natural_order(pair[1].name)))
    start = datetime.min
    for (before, _), (now, photograph) in pairwise([(start, timed[0][1]), *timed]):
        if before is not start and now - before > plan.gap:
            sessions.append([])
        sessions[-1].append(photograph)
    without = {one.name: one for one in photographs if one.facts.taken is None}
    sessions += [
        [without[name] for name in names] for names in photographs_by_folder(list(without)).values()
    ]
    return [group for session in sessions for group in _evenly(session, plan.sizes[1])]


def _by_view(names: Sequence[str], pattern: re.Pattern[str] | None) -> dict[str, list[str]]:
    """Names that differ only in their view, or that share what a pattern finds."""
    if pattern is None:
        return _collected(names, _without_view)
    found = {name: pattern.search(PurePath(name).stem) for name in names}
    if not any(found.values()):
        raise SettingsError(
            f"--name-pattern: expected a pattern that fits names of photographs, "
            f"{pattern.pattern!r} fits none, for example {names[0]!r}"
        )
    return _collected(names, lambda name: _key_of(found[name], name))


def _key_of(match: re.Match[str] | None, name: str) -> str:
    """What a group shares; a photograph whose name does not fit stays alone."""
    if match is None:
        return f"\0{name}"
    return str(match[1] if match.re.groups else match[0])


def _without_view(name: str) -> str:
    path = PurePath(name)
    return str(path.parent / (_VIEW.sub("", path.stem) or path.stem)).lower()


def _collected(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(key(name), []).append(name)
    return together


def _evenly(members: Sequence[Photograph], most: int) -> list[Group]:
    """Divides what belongs together into as few groups as possible, of about one size, in order."""
    count = -(-len(members) // most)
    bounds = [len(members) * part // count for part in range(count + 1)]
    return [tuple(members[start:end]) for start, end in pairwise(bounds)]


def _pixels(photograph: Photograph) -> int:
    height, width = photograph.facts.size_hw
    return height * width
