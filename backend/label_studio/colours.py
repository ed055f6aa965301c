"""Which colour of a labeling config each part of a group gets in the editor.

The editor takes a region's colour from the first of its results that has one. A config whose labels
are kinds has one colour per kind, so it may offer colours in a tag of their own. A name has the
same colour on all images of a task, and the same in every task where its place is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from backend.types import Region
from calico_model.types import PartMask
from calico_model.vocabulary import normalise


def colours_of(
    parts: Sequence[PartMask],
    ids: Sequence[str],
    palette: Sequence[str],
    canvas: Sequence[Region] = (),
) -> list[str | None]:
    """Returns the colour of each region; None for objects, which lie under their parts.

    Args:
        parts: the regions.
        ids: one per region.
        palette: the colours there are.
        canvas: regions that are drawn already; they and their names keep their colours.
    """
    if not palette:
        return [None] * len(parts)
    drawn = [region for region in canvas if region.colour is not None]
    by_id = {region.id: region.colour for region in drawn}
    of_name = {_name(region.label or ""): region.colour for region in drawn if region.label}
    taken = set(by_id.values())
    names = dict.fromkeys(_name(part.label) for part in parts if part.kind.is_part)
    for name in sorted(names.keys() - of_name.keys()):
        of_name[name] = _free(name, palette, taken)
        taken.add(of_name[name])
    return [
        (by_id.get(id_) or of_name[_name(part.label)]) if part.kind.is_part else None
        for part, id_ in zip(parts, ids, strict=True)
    ]


def _name(label: str) -> str:
    return normalise(label) or label.strip().casefold()


def _free(name: str, palette: Sequence[str], taken: Iterable[str | None]) -> str:
    """The colour at a name's own place, or the next one that is not taken."""
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(palette)
    turned = [*palette[first:], *palette[:first]]
    used = set(taken)
    return next((colour for colour in turned if colour not in used), turned[0])
