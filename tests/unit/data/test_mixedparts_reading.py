"""Released records: read as they are written, lazily, and what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico_model.data.groups import GroupFolder
from calico_model.data.mixedparts.reading import MixedPartsGroups
from calico_model.data.mixedparts.source import DatasetName
from calico_model.data.opening import open_groups
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.errors import InvalidRecordError
from calico_model.types import RegionKind
from tests.unit.mixedparts_sources import (
    CHAIR,
    EAGLE,
    STOOL,
    WOLF,
    ade_label,
    object_boxes,
    paint,
    write_sources,
)


def released() -> list[Any]:
    """Returns records as the release writes them: every source, both kinds, capitals, null."""
    seat, cushion = ade_label("chair", "seat"), ade_label("chair", "seat cushion")
    return [
        {
            "dataset_name": "paco_lvis",
            "img_ids": [9, 25],
            "is_object": False,
            "pairs": [
                {
                    "cats": ["Chair ", "stool"],
                    "ann_ids": [[900], [2500]],
                    "visibility": [0.55, 0.33],
                    "common": [
                        {
                            "part_cat": "leg",
                            "part_ann_ids": [[901, 902], [2501]],
                            "part_visibility": [0.06, 0.2],
                        }
                    ],
                    "unique": {
                        "part_cats": [["Back"], ["step"]],
                        "part_ann_ids": [[[904]], [[2503]]],
                    },
                }
            ],
        },
        {
            "dataset_name": "paco_lvis",
            "img_ids": [9, 30],
            "is_object": True,
            "common": [{"cat": "chair", "ann_ids": [[900], [3000]], "visibility": [0.5, 0.3]}],
        },
        {
            "dataset_name": "part_image_net",
            "img_ids": [0, 2],
            "is_object": False,
            "pairs": [
                {
                    "cats": ["timber wolf", "bald eagle"],
                    "ann_ids": [[0], [2]],
                    "visibility": [0.3, 0.3],
                    "common": None,
                    "unique": {"part_cats": [["foot"], []], "part_ann_ids": [[[2]], []]},
                },
                {
                    "cats": ["timber wolf", "bald eagle"],
                    "ann_ids": [[0], [2]],
                    "visibility": [0.3, 0.3],
                    "common": [{"part_cat": "tail", "part_ann_ids": [[3], [10]]}],
                    "unique": None,
                },
            ],
        },
        {
            "dataset_name": "ade20k_part234",
            "img_ids": [1, 3],
            "is_object": False,
            "pairs": [
                {
                    "cats": ["chair", "chair"],
                    "ann_ids": [[1], [3]],
                    "visibility": [0.5, 0.4],
                    "common": [
                        {
                            "part_cat": "seat",
                            "part_cat_ids": [[seat, cushion], [seat]],
                            "part_visibility": [0.1, 0.1],
                        }
                    ],
                    "unique": {
                        "part_cats": [["leg"], []],
                        "part_cat_ids": [[[ade_label("chair", "leg")]], []],
                    },
                }
            ],
        },
        {
            "dataset_name": "ade20k_part234",
            "img_ids": [1, 3],
            "is_object": True,
            "common": [{"cat": "chair", "ann_ids": [[1], [3]], "visibility": [0.5, 0.4]}],
        },
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release")
    write_sources(root)
    return root / "Part_Segm"


@pytest.fixture
def write(base: Path) -> Callable[[object], Path]:
    def write_records(records: object) -> Path:
        path = base / "mixed_parts_test.json"
        path.write_text(records if isinstance(records, str) else json.dumps(records))
        return path

    return write_records


def test_the_release_is_read_exactly(write: Callable[[object], Path]) -> None:
    groups = MixedPartsGroups(write(released()))
    assert len(groups) == 5  # the ADE records are of the same images, one record compares twice
    found = [
        [(p.image_index, str(p.kind), p.label, p.object_label) for p in group.parts]
        for group in groups
    ]
    both = [("common_part", "leg"), ("unique_part", "back"), ("unique_part", "step")]
    assert found[0] == [
        (0, *both[0], "chair"),
        (1, *both[0], "stool"),
        (0, *both[1], "chair"),
        (1, *both[2], "stool"),
    ]
    assert found[1] == [(n, "common_object", "chair", None) for n in (0, 1)]
    assert found[2] == [(0, "unique_part", "foot", "timber wolf")]
    assert [row[2] for row in found[3]] == ["tail", "tail"]
    assert [row[1:3] for row in found[4]] == [
        ("common_object", "chair"),
        ("common_object", "chair"),
        ("common_part", "seat"),
        ("common_part", "seat"),
        ("unique_part", "leg"),
    ]


def test_its_masks_are_right_pixel_by_pixel(write: Callable[[object], Path]) -> None:
    groups = MixedPartsGroups(write(released()))
    chair = object_boxes(CHAIR)
    without_leg = object_boxes({name: CHAIR[name] for name in ("seat", "back")})
    expected = [
        [CHAIR["leg"], STOOL["leg"], CHAIR["back"], STOOL["step"]],
        [chair, object_boxes({name: CHAIR[name] for name in ("leg", "seat")})],
        [WOLF["foot"]],
        [WOLF["tail"], EAGLE["tail"]],
        [chair, without_leg, CHAIR["seat"], CHAIR["seat"], CHAIR["leg"]],
    ]
    for group, boxes in zip(groups, expected, strict=True):
        for part, wanted in zip(group.parts, boxes, strict=True):
            assert (part.mask == paint(wanted)).all(), (group.group.ids, part.label)
    assert (groups[4].objects[0].mask == paint(chair)).all()


def test_a_group_knows_the_subtasks_of_its_records(write: Callable[[object], Path]) -> None:
    groups = MixedPartsGroups(write(released()))
    objects, parts = {RegionKind.COMMON_OBJECT}, {RegionKind.COMMON_PART, RegionKind.UNIQUE_PART}
    expected = [parts, objects, parts, parts, objects | parts]
    assert [group.known for group in groups] == expected
    assert [groups.known(n) for n in range(5)] == expected


def test_parts_of_a_group_can_be_asked_for_alone(write: Callable[[object], Path]) -> None:
    groups = MixedPartsGroups(write(released()))
    ids = [groups.image_ids(n) for n in range(5)]
    assert len({i for own in ids for i in own}) == 7
    assert groups.read_image(ids[2][1]).shape == (30, 40, 3)
    assert groups.image_path(ids[2][1]).name == "n01614925_3.JPEG"
    assert groups.dataset_name(2) is DatasetName.PART_IMAGE_NET
    assert groups.common_objects(0) == ()
    assert groups.comparison(1) is None
    compared = groups.comparison(4)
    assert compared is not None
    assert compared.cats == ("chair", "chair")
    parts, mains = groups.truth(4)
    assert [part.label for part in parts] == [part.label for part in groups[4].parts]
    assert len(mains) == 2
    assert np.array_equal(groups[4].group.images[0], groups.read_image(ids[4][0]))


def test_groups_are_indexed_and_sliced(write: Callable[[object], Path]) -> None:
    groups = MixedPartsGroups(write(released()))
    assert groups[-1].group.ids == groups[4].group.ids
    assert [g.group.ids for g in groups[3:]] == [groups[3].group.ids, groups[4].group.ids]
    with pytest.raises(IndexError):
        groups[5]


def test_only_the_sources_and_pixels_in_use_are_read(tmp_path: Path) -> None:
    write_sources(tmp_path)
    base = tmp_path / "Part_Segm"
    for source in ("PartImageNet", "ADE20KPart234"):
        (base / source).rename(base / f"no_{source}")
    picture = tmp_path / "coco_2017" / "val2017" / "000000000009.jpg"
    picture.write_bytes(b"no picture")
    path = base / "mixed_parts_test_1k.json"
    path.write_text(json.dumps(released()[:2]))
    groups = MixedPartsGroups(path)
    assert len(groups) == 2
    with pytest.raises(InvalidRecordError, match=r"_1k.json: \[0\]: .*009.jpg: expected a read"):
        groups[0]
    (base / "mixed_parts_test.json").write_text(json.dumps(released()))
    with pytest.raises(InvalidRecordError, match=r"part_image_net: expected a folder"):
        MixedPartsGroups(base / "mixed_parts_test.json")


def _set(path: str, value: object) -> Callable[[Any], None]:
    def change(records: Any) -> None:
        *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        node = records
        for key in way:
            node = node[key]
        node[last] = value

    return change


_PAIR = "0.pairs.0"
_ADE = "3.pairs.0"
_NAME = r"^mixed_parts_test.json: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("0.dataset_name", "voc"), r"\[0\].dataset_name: expected one of paco_lvis, .*'voc'"),
        (_set("0.img_ids", [9]), r"\[0\].img_ids: expected 2 to 8 different images, got \[9\]"),
        (_set("0.img_ids", [9, 9]), r"\[0\].img_ids: expected 2 to 8 different images"),
        (_set("0.img_ids", [9, 4]), r"\[0\].img_ids: no image 4 in paco_lvis_v1_test.json"),
        (_set("0.img_ids", "9"), r"\[0\]: Expected `array`, got `str` - at `\$.img_ids`"),
        (_set("0.pairs", []), r"\[0\].pairs: expected at least one entry"),
        (_set("1.common", []), r"\[1\].common: expected at least one entry"),
        (
            _set("1.pairs", released()[0]["pairs"]),
            r"\[1\].pairs: expected none where is_object is true, got 1",
        ),
        (
            _set("0.common", released()[1]["common"]),
            r"\[0\].common: expected none where is_object is false, got 1",
        ),
        (_set("1.common.0.ann_ids", [[900], [5]]), r"\[1\].common\[0\].ann_ids\[1\]: no annot.* 5"),
        (_set(f"{_PAIR}.cats", ["chair"]), r"\[0\].pairs\[0\].cats: expected 2 entries, got 1"),
        (_set(f"{_PAIR}.ann_ids", [[900], []]), r"ann_ids\[1\]: expected at least one id"),
        (_set(f"{_PAIR}.ann_ids", [[900], [900]]), r"annotation 900 belongs to image 9, expected"),
        (_set(f"{_PAIR}.ann_ids", [[900, 900], [2500]]), r"ann_ids\[0\]: expected different ids"),
        (
            _set(f"{_PAIR}.common.0.part_ann_ids", [[901], [8]]),
            r"\[0\].pairs\[0\].common\[0\].part_ann_ids\[1\]: no annotation 8",
        ),
        (_set(f"{_PAIR}.common.0", {"part_cat": "leg"}), r"Expected either `part_ann_ids` or"),
        (
            _set(f"{_PAIR}.common.0", {"part_cat": "leg", "part_cat_ids": [[1], [2]]}),
            r"part_cat_ids\[0\]: label 1 of image 9: expected part_ann_ids, paco_lvis has no",
        ),
        (_set(f"{_PAIR}.unique.part_cats", [["back"], []]), r"part_ann_ids\[1\]: expected 0"),
        (
            _set(f"{_PAIR}.unique.part_cats", [["leg"], ["step"]]),
            r"\[0\].pairs\[0\]: parts of image 0: expected different names, got 'leg' twice",
        ),
        (
            _set("2.pairs.0.unique.part_ann_ids", [[[10]], []]),
            r"part annotation 10 belongs to image n01614925_3.JPEG, expected n02114367_1.JPEG",
        ),
        (
            _set(f"{_ADE}.common.0.part_cat_ids", [[234], [49]]),
            r"\[3\].pairs\[0\].common\[0\].part_cat_ids\[0\]: label 234 .* expected 0 to 233",
        ),
        (
            _set(f"{_ADE}.common.0", {"part_cat": "seat", "part_ann_ids": [[1], [3]]}),
            r"expected part_cat_ids, ade20k_part234 has no part annotations",
        ),
        (_set("1.img_ids", [1, 3]), r"\[1\].img_ids: no image 1 in paco"),
        (lambda records: records.append(records[1]), r"\[5\].img_ids: record 1 names the common"),
    ],
)
def test_broken_records_are_named_with_index_and_key(
    write: Callable[[object], Path], change: Callable[[Any], None], message: str
) -> None:
    records = released()
    change(records)
    path = write(records)
    with pytest.raises(InvalidRecordError, match=_NAME + ".*" + message):
        MixedPartsGroups(path)
    groups = MixedPartsGroups(path, skip_broken=True)
    assert len(groups.skipped) == 1
    assert 3 <= len(list(groups)) <= 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a readable JSON file"),
        ("[{", "Input data was truncated"),
        (json.dumps(released())[:-40], "Input data was truncated"),
        ('{"records": []}', "Expected `array`, got `object`"),
    ],
)
def test_truncated_files_are_named(
    write: Callable[[object], Path], content: str, message: str
) -> None:
    path = write(content)
    with pytest.raises(InvalidRecordError, match=_NAME + message):
        MixedPartsGroups(path)


def test_labels_that_do_not_show_are_named_when_read(write: Callable[[object], Path]) -> None:
    records = released()
    _set(f"{_ADE}.common.0.part_cat_ids", [[ade_label("sofa", "arm")], [49]])(records)
    groups = MixedPartsGroups(write(records))
    with pytest.raises(InvalidRecordError, match=r"\[4\] and \[3\]: .*1.png: expected labels"):
        groups[4]
    kept = MixedPartsGroups(write(records), skip_broken=True)
    assert len(kept) == 4
    assert "expected labels" in kept.skipped[0]


def test_opening_picks_the_layout(base: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "ours", groups=1, seed=0, split=SceneSplit.SEEN, size_px=64)
    assert isinstance(open_groups(tmp_path / "ours"), GroupFolder)
    path = base / "mixed_parts_test.json"
    path.write_text(json.dumps(released()))
    for place in (path, base, base.parent):
        assert isinstance(open_groups(place), MixedPartsGroups)
    (base / "mixed_parts_val.json").write_text("[]")
    with pytest.raises(InvalidRecordError, match=r"expected one file of records, name one of"):
        open_groups(base.parent)
    (base / "mixed_parts_val.json").unlink()
    with pytest.raises(InvalidRecordError, match=r"records.json: expected a readable file"):
        open_groups(tmp_path)
    other = base / "records_of_mine.json"
    other.write_text("[]")
    with pytest.raises(InvalidRecordError, match=r"expected a name like mixed_parts_test.json"):
        open_groups(other)
    other.unlink()
