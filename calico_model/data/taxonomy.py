"""Which parts the things of each class can have: in the drawn world, or in a data set's records."""

from __future__ import annotations

from pathlib import Path

from calico_model.data.catalogue import CATEGORIES, parts_of
from calico_model.data.mixedparts.folders import find_records
from calico_model.data.records import RECORDS_FILE, Record, read_document

PartsOf = dict[str, tuple[str, ...]]


def drawn_taxonomy() -> PartsOf:
    """Returns every part an instance of each drawn category can have."""
    return {name: parts_of(name) for name in CATEGORIES}


def read_taxonomy(path: Path) -> PartsOf:
    """Returns the parts each class has anywhere in the records of a data set.

    Args:
        path: whatever `open_groups` opens.

    Raises:
        InvalidRecordError: no readable records.
    """
    own = path / RECORDS_FILE
    records = own if own.is_file() else find_records(path) or own
    parts: dict[str, dict[str, None]] = {}
    for record in read_document(records, tuple[Record, ...]):
        for compared in record.pairs:
            shared = [part.part_cat for part in compared.common or ()]
            unique = compared.unique.part_cats if compared.unique else ((),) * len(compared.cats)
            for label, names in zip(compared.cats, unique, strict=True):
                known = parts.setdefault(label.lower(), {})
                known |= dict.fromkeys(name.lower() for name in (*shared, *names))
    return {label: tuple(names) for label, names in parts.items()}
