"""Groups of similar things, each of a wanted size: a tree of similarity, cut into groups.

SciPy's hierarchical clustering (Ward) says in which order things join. Going up the tree, things
wait until enough of them are together. What is still too few joins the next that comes, so that
the last ones meet their own kind first; what is enough does not wait for less similar things: the
late joins of the tree close it. Large numbers are halved by k-means before, because the tree needs
memory for every pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.cluster.vq import ClusterError, kmeans2

MOST_IN_A_TREE = 4096

Vectors = NDArray[np.float32]
_Group = list[int]


def group_similar(vectors: Vectors, sizes: tuple[int, int]) -> list[list[int]]:
    """Divides things into groups of similar ones.

    Args:
        vectors: (N, D) float32, compared by their direction from the mean of all.
        sizes: fewest and most members of a group, 1 <= fewest <= most.

    Returns:
        Positions of the members; every position once. At most one group has fewer members than
        wanted, where the numbers do not come out even.
    """
    if len(vectors) == 0:
        return []
    low, high = sizes
    centred = vectors - vectors.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    groups: list[_Group] = []
    rest: _Group = []
    for part in _parts(centred, np.arange(len(centred))):
        found, left = _cut_tree(centred[part], low, high)
        groups += [[int(part[k]) for k in members] for members in found]
        rest += [int(part[k]) for k in left]
    if len(rest) >= low and rest:
        # What several parts left over may still be alike.
        found, left = _cut_tree(centred[rest], low, high)
        groups += [[rest[k] for k in members] for members in found]
        rest = [rest[k] for k in left]
    rest = _placed(rest, groups, centred, low, high)
    return [*groups, rest] if rest else groups


def _parts(vectors: Vectors, members: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Halves the members until a tree of each part fits into memory."""
    if len(members) <= MOST_IN_A_TREE:
        return [members]
    inside = vectors[members]
    apart = int(np.argmin(inside @ inside[0]))  # the two centres begin far from each other
    try:
        _, side = kmeans2(inside, inside[[0, apart]], minit="matrix", missing="raise")
        one, other = members[side == 0], members[side == 1]
    except ClusterError:  # all alike
        one, other = np.array_split(members, 2)
    return [*_parts(vectors, one), *_parts(vectors, other)]


def _cut_tree(vectors: Vectors, low: int, high: int) -> tuple[list[_Group], _Group]:
    """Returns groups of wanted size, and fewer than `low` members that are left over."""
    count = len(vectors)
    waiting: dict[int, _Group] = {index: [index] for index in range(count)}
    groups: list[_Group] = []
    late = count - 2 * count // (low + high)  # from here on the tree has fewer nodes than groups
    for step, (one, other) in enumerate(_joins(vectors)):
        most = high if step < late else low
        together, full = _join(waiting.pop(one), waiting.pop(other), vectors, low, most)
        groups += full
        waiting[count + step] = together
    (rest,) = waiting.values()
    if len(rest) >= low:
        groups.append(rest)
        rest = []
    return groups, rest


def _joins(vectors: Vectors) -> list[tuple[int, int]]:
    """The tree as pairs of nodes, nearest first; leaves are 0 to N-1, then one node per pair."""
    if len(vectors) == 1:
        return []
    count = len(vectors)
    distances = np.empty(count * (count - 1) // 2)  # the upper triangle, row after row
    end = 0
    for index in range(count - 1):
        start, end = end, end + count - 1 - index
        squared = 2.0 - 2.0 * (vectors[index + 1 :] @ vectors[index])
        distances[start:end] = np.sqrt(np.maximum(squared, 0.0))
    return [(int(row[0]), int(row[1])) for row in linkage(distances, "ward")]


def _join(
    one: _Group, other: _Group, vectors: Vectors, low: int, high: int
) -> tuple[_Group, list[_Group]]:
    """Returns who goes on waiting, and the groups that are complete."""
    if len(one) + len(other) <= high:
        together = one + other
        return ([], [together]) if len(together) == high else (together, [])
    if not one or not other:
        return [], [one or other]
    small, large = sorted((one, other), key=len)
    if len(small) >= low:
        return [], [small, large]
    if len(large) < low:  # two that are too few each, and together too many
        moved, waiting = _nearest(small, large, high - len(large), vectors)
        return waiting, [large + moved]
    missing = low - len(small)
    if len(large) - missing < low:
        return small, [large]
    moved, kept = _nearest(large, small, missing, vectors)
    return [], [small + moved, kept]


def _nearest(members: _Group, to: _Group, count: int, vectors: Vectors) -> tuple[_Group, _Group]:
    """Divides members into the `count` that are most similar to others, and the rest."""
    nearness = vectors[members] @ vectors[to].mean(axis=0)
    chosen = set(np.argsort(-nearness, kind="stable")[:count].tolist())
    return (
        [member for place, member in enumerate(members) if place in chosen],
        [member for place, member in enumerate(members) if place not in chosen],
    )


def _placed(pool: _Group, groups: list[_Group], vectors: Vectors, low: int, high: int) -> _Group:
    """Completes a pool of too few with the help of the most similar group that can help.

    The group takes the pool in, or gives up its most similar members. Returns who still waits.
    """
    missing = low - len(pool)
    if not pool or missing <= 0:
        return pool
    able = [
        group for group in groups if len(group) + len(pool) <= high or len(group) - missing >= low
    ]
    if not able:
        return pool
    centre = vectors[pool].mean(axis=0)
    best = max(able, key=lambda group: float((vectors[group] @ centre).mean()))
    if len(best) + len(pool) <= high:
        best += pool
    else:
        moved, best[:] = _nearest(best, pool, missing, vectors)
        groups.append(pool + moved)
    return []
