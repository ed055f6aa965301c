"""Which parts the things of each class can have: in the drawn world, or in a data set's records."""

from __future__ import annotations

from calico_model.data.catalogue import CATEGORIES, parts_of
from calico_model.data.groups import GroupSet

PartsOf = dict[str, tuple[str, ...]]


def drawn_taxonomy() -> PartsOf:
    """Returns every part an instance of each drawn category can have."""
    return {name: parts_of(name) for name in CATEGORIES}


def read_taxonomy(groups: GroupSet) -> PartsOf:
    """Returns the parts each class has anywhere in the records of a data set.

    Args:
        groups: opened, so that every record was checked.
    """
    parts: dict[str, dict[str, None]] = {}
    for index in range(len(groups)):
        compared = groups.comparison(index)
        if compared is None:
            continue
        shared = [part.part_cat for part in compared.common or ()]
        unique = compared.unique.part_cats if compared.unique else ((),) * len(compared.cats)
        for label, names in zip(compared.cats, unique, strict=True):
            known = parts.setdefault(label.lower(), {})
            known |= dict.fromkeys(name.lower() for name in (*shared, *names))
    return {label: tuple(names) for label, names in parts.items()}
