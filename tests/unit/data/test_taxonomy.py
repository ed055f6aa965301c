"""Which parts a class can have, from the drawn world and from records."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_model.data.catalogue import CATEGORIES
from calico_model.data.synthetic import Split, write_groups
from calico_model.data.taxonomy import drawn_taxonomy, read_taxonomy
from calico_model.errors import InvalidRecordError


def test_every_drawn_category_has_parts() -> None:
    taxonomy = drawn_taxonomy()
    assert set(taxonomy) == set(CATEGORIES)
    assert "leg" in taxonomy["chair"]
    assert all(taxonomy.values())


def test_records_tell_some_of_it(tmp_path: Path) -> None:
    write_groups(tmp_path / "set", groups=4, seed=2, split=Split.SEEN, size_px=64)
    drawn, read = drawn_taxonomy(), read_taxonomy(tmp_path / "set")
    assert read
    assert all(set(parts) <= set(drawn[name]) for name, parts in read.items())
    assert any(parts for parts in read.values())


def test_no_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match=r"records\.json"):
        read_taxonomy(tmp_path)
