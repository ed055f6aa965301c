"""Which parts a class can have, from the drawn world and from records."""

from __future__ import annotations

import json
from pathlib import Path

from calico_model.data.catalogue import CATEGORIES
from calico_model.data.opening import drawn_taxonomy, open_groups, read_taxonomy
from calico_model.data.synthetic import SceneSplit, write_groups
from tests.unit.mixedparts_sources import write_sources


def test_every_drawn_category_has_parts() -> None:
    taxonomy = drawn_taxonomy()
    assert set(taxonomy) == set(CATEGORIES)
    assert "leg" in taxonomy["chair"]
    assert all(taxonomy.values())


def test_records_tell_some_of_it(tmp_path: Path) -> None:
    write_groups(tmp_path / "set", groups=4, seed=2, split=SceneSplit.SEEN, size_px=64)
    drawn, read = drawn_taxonomy(), read_taxonomy(open_groups(tmp_path / "set"))
    assert read
    assert all(set(parts) <= set(drawn[name]) for name, parts in read.items())
    assert any(parts for parts in read.values())


def test_broken_records_that_are_skipped_tell_nothing(tmp_path: Path) -> None:
    pair = {
        "cats": ["Chair", "stool"],
        "ann_ids": [[900], [2500]],
        "common": [{"part_cat": "Leg", "part_ann_ids": [[901], [2501]]}],
        "unique": {"part_cats": [["back"], ["step"]], "part_ann_ids": [[[904]], [[2503]]]},
    }
    broken = pair | {"cats": ["chair", "stool", "dragon"]}
    write_sources(tmp_path)
    base = tmp_path / "Part_Segm"
    records = [
        {"dataset_name": "paco_lvis", "img_ids": ids, "is_object": False, "pairs": [compared]}
        for ids, compared in (([9, 25], pair), ([9, 30], broken))
    ]
    (base / "mixed_parts_test.json").write_text(json.dumps(records))
    groups = open_groups(base, skip_broken=True)
    assert len(groups.skipped) == 1
    assert read_taxonomy(groups) == {"chair": ("leg", "back"), "stool": ("leg", "step")}
