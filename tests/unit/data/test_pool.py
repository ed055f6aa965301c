"""A pool folder says what it is made of, and takes nothing else in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calico_model.data.pool import fill_pool
from calico_model.errors import InvalidRecordError


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    fill_pool(tmp_path, scenes=2, seed=1, size_px=32, groups_per_chunk=1)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("changed", ["seed", "size_px", "groups_per_chunk"])
def test_scenes_of_another_making_are_not_mixed_in(pool: Path, changed: str) -> None:
    before = files(pool)
    asked = {"seed": 1, "size_px": 32, "groups_per_chunk": 1} | {changed: 2}
    with pytest.raises(InvalidRecordError, match=f"pool.json: {changed}: .*got 2"):
        fill_pool(pool, scenes=50, **asked)
    assert files(pool) == before


def test_scenes_of_unknown_making_are_not_continued(pool: Path) -> None:
    (pool / "pool.json").unlink()
    with pytest.raises(InvalidRecordError, match="pool.json: missing"):
        fill_pool(pool, scenes=50, seed=1, size_px=32, groups_per_chunk=1)
    assert not (pool / "pool.json").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_an_unreadable_note_is_an_error(pool: Path, text: str) -> None:
    (pool / "pool.json").write_text(text)
    with pytest.raises(InvalidRecordError, match="pool.json"):
        fill_pool(pool, scenes=50, seed=1, size_px=32, groups_per_chunk=1)


def test_the_note_is_complete(pool: Path) -> None:
    note = json.loads((pool / "pool.json").read_text())
    assert note == {"seed": 1, "size_px": 32, "groups_per_chunk": 1}
