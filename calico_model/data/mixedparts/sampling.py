"""Which images to put together: every class or pair of classes in turn, images at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")
_REPEATS = 200
"""Draws in a row that were made before, after which a pool counts as used up."""

Draw = tuple[tuple[str, int], ...]
"""Per image of a group, the class that brought it in and its id."""


def draw_groups(
    rng: np.random.Generator,
    pair: tuple[str, str],
    pools: Mapping[str, Sequence[int]],
    group_sizes: tuple[int, int],
) -> Iterator[Draw]:
    """Draws groups of different images, each group once; ends when hardly any is left.

    Args:
        rng: draws.
        pair: classes of the first two images; further ones are of either class.
        pools: image ids by class.
        group_sizes: smallest and largest number of images.
    """
    drawn: set[frozenset[tuple[str, int]]] = set()
    repeats = 0
    while repeats < _REPEATS:
        size = int(rng.integers(group_sizes[0], group_sizes[1] + 1))
        labels = [*pair, *(pair[int(rng.integers(2))] for _ in range(size - 2))]
        ids = [int(pools[label][int(rng.integers(len(pools[label])))]) for label in labels]
        group = tuple(zip(labels, ids, strict=True))
        key = frozenset(group)
        if len(set(ids)) < size or key in drawn:
            repeats += 1
            continue
        drawn.add(key)
        repeats = 0
        yield tuple(group[k] for k in rng.permutation(size))


def keep_made(
    draws: Iterable[Draw], make: Callable[[Draw], _Item | None], patience: int
) -> Iterator[_Item]:
    """Yields what can be made of draws; ends after `patience` draws in a row gave nothing."""
    misses = 0
    for draw in draws:
        made = make(draw)
        if made is not None:
            misses = 0
            yield made
            continue
        misses += 1
        if misses == patience:
            return


def take_turns(streams: Sequence[Iterator[_Item]]) -> Iterator[_Item]:
    """Yields one item of each stream in turn, until all have ended."""
    open_streams = list(streams)
    while open_streams:
        ended = []
        for stream in open_streams:
            try:
                yield next(stream)
            except StopIteration:
                ended.append(stream)
        open_streams = [stream for stream in open_streams if stream not in ended]
