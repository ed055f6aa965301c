"""Reading MixedParts records: what was written comes back, what is broken is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from calico_model.data.describing import describe_group
from calico_model.data.groups import read_groups
from calico_model.data.records import Rle, encode_mask
from calico_model.data.scene import Scene
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.errors import InvalidRecordError
from calico_model.types import RegionKind


def test_written_groups_come_back_equal(written_set: Path) -> None:
    groups = read_groups(written_set)
    assert len(groups) == 6
    for index, group in enumerate(groups):
        rng = group_rng(Stream.EVALUATION, 11, index)
        size = int(rng.integers(1, 5))
        expected = labeled_group(
            draw_group(rng, split=SceneSplit.SEEN, group_size=size, size_px=64), group.group.ids
        )
        for a, b in zip(group.group.images, expected.group.images, strict=True):
            assert (a == b).all()
        for part, wanted in zip(group.parts, expected.parts, strict=True):
            assert (part.image_index, part.kind, part.label) == (
                wanted.image_index,
                wanted.kind,
                wanted.label,
            )
            assert (part.object_label, part.part_id) == (wanted.object_label, wanted.part_id)
            assert (part.mask == wanted.mask).all()
        for found, main in zip(group.objects, expected.objects, strict=True):
            assert (found.image_index, found.label) == (main.image_index, main.label)
            assert (found.mask == main.mask).all()


def test_groups_can_be_indexed_and_sliced(written_set: Path) -> None:
    groups = read_groups(written_set)
    assert groups[-1].group.ids == groups[5].group.ids
    assert [g.group.ids for g in groups[1:3]] == [groups[1].group.ids, groups[2].group.ids]
    with pytest.raises(IndexError):
        groups[6]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_annotations(
    written_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = COCO(str(written_set / "annotations.json"))
    assert "index created" in capsys.readouterr().out
    assert len(coco.anns) > 20
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum()
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
        assert annotation["category_id"] in coco.cats


def test_polygons_plain_runs_and_unions_are_read(tmp_path: Path) -> None:
    _write_pair(tmp_path)
    (group,) = read_groups(tmp_path)
    first, second = group.of_kind(RegionKind.COMMON_PART)
    assert np.flatnonzero(first.mask.any(axis=1)).tolist() == [0, 1, 2, 3]  # two annotations
    assert second.mask.sum() == 4
    assert second.mask[:4, 0].all()
    assert [part.label for part in group.of_kind(RegionKind.UNIQUE_PART)] == ["lid"]
    assert group.of_kind(RegionKind.COMMON_OBJECT) == ()


def test_each_comparison_of_a_pair_is_a_group(tmp_path: Path) -> None:
    def double(records: Any, _: Any) -> None:
        records[0]["pairs"].append(records[0]["pairs"][0] | {"cats": ["cup", "cup"]})

    _write_pair(tmp_path, double)
    assert [g.objects[0].label for g in read_groups(tmp_path)] == ["mug", "cup"]


def _set(path: str, value: object) -> Callable[[Any, Any], None]:
    """Returns a change of one value, addressed like "r.0.img_ids" (records) or "c..." (COCO)."""

    def change(records: Any, coco: Any) -> None:
        node: Any = {"r": records, "c": coco}
        *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in way:
            node = node[key]
        node[last] = value

    return change


_PAIR = "r.0.pairs.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("r.0.img_ids", [1]), r"records.json: \[0\].pairs\[0\].cats: expected 1 entries"),
        (_set("r.0.img_ids", []), r"\[0\].img_ids: expected 1 to 8 different images, got \[\]"),
        (_set("r.0.img_ids", [1, 1]), r"img_ids: expected 1 to 8 different images"),
        (_set("r.0.img_ids", [1, 7]), r"\[0\].img_ids: no image 7 in annotations.json"),
        (_set("r.0.img_ids", "12"), r"records.json: Expected `array`.*img_ids"),
        (_set(f"{_PAIR}.ann_ids", [[1]]), r"pairs\[0\].ann_ids: expected 2 entries, got 1"),
        (_set(f"{_PAIR}.ann_ids", [[1], [99]]), r"ann_ids\[1\]: no annotation 99"),
        (_set(f"{_PAIR}.ann_ids", [[1], []]), r"ann_ids\[1\]: expected at least one"),
        (_set(f"{_PAIR}.ann_ids", [[1], [2]]), r"ann_ids\[1\]: annotation 2 belongs to image 1"),
        (_set(f"{_PAIR}.common.0.part_ann_ids", [[1], [98]]), r"common\[0\].part_ann_ids\[1\]"),
        (_set(f"{_PAIR}.unique.part_cats", [["lid", "rim"], []]), r"part_ann_ids\[0\]: expected 2"),
        (_set(f"{_PAIR}.unique.part_ann_ids", [[[97]], []]), r"part_ann_ids\[0\]\[0\]: no anno"),
        (
            _set(f"{_PAIR}.common.0", {"part_cat": "leg"}),
            r"Expected either `part_ann_ids` or .*pairs\[0\].common\[0\]",
        ),
        (_set("c.images.0.file_name", "gone.png"), r"image 1: file_name: no file 'gone.png'"),
        (_set("c.images", None), r"annotations.json: Expected `array`"),
    ],
)
def test_broken_references_are_named_when_opened(
    tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    _write_pair(tmp_path, change)
    with pytest.raises(InvalidRecordError, match=message):
        read_groups(tmp_path)


_MASK = "c.annotations.0.segmentation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(_MASK, {"size": [8, 8], "counts": [64]}), "annotation 1: .* got an empty mask"),
        (_set(_MASK, {"size": [8, 9], "counts": [72]}), r"size: expected \[8, 8\], got \[8, 9\]"),
        (_set(_MASK, {"size": [8, 8], "counts": [60]}), "do not add up to 8 x 8"),
        (_set(_MASK, {"size": [8, 8], "counts": [-1, 65]}), "do not add up to 8 x 8"),
        (_set(_MASK, {"size": [8, 8], "counts": "11"}), "do not add up to 8 x 8"),
        (_set(_MASK, {"size": [8, 8], "counts": "é"}), "character 'é' in run lengths"),
        (_set(_MASK, {"size": [8, 8], "counts": "P"}), "stop in the middle of a number"),
        (_set(_MASK, [[0.0, 0.0, 3.0, 3.0]]), "a polygon of 4 numbers"),
        (_set(_MASK, []), "annotation 1: segmentation: expected"),
        (_set("c.images.0.width", 9), r"images/1.png: expected 9 x 8 px .* got 8 x 8"),
    ],
)
def test_broken_pixels_are_named_when_loaded(
    tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    _write_pair(tmp_path, change)
    with pytest.raises(InvalidRecordError, match=message):
        read_groups(tmp_path)[0]


def test_missing_and_damaged_files_are_named(written_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match=r"^records.json: expected a readable file"):
        read_groups(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(written_set, copy)
    (copy / "images" / "000000_1.png").write_bytes(b"\x89PNG")
    with pytest.raises(InvalidRecordError, match=r"^images/000000_1.png: expected a readable"):
        read_groups(copy)[0]
    (copy / "records.json").write_text("[{")
    with pytest.raises(InvalidRecordError, match=r"^records.json: Input data was truncated"):
        read_groups(copy)


def test_two_objects_of_one_category_are_one_mask_and_two_annotations() -> None:
    objects = np.zeros((10, 10), np.uint8)
    objects[:, :2], objects[:, 8:] = 1, 2
    image = np.zeros((10, 10, 3), np.uint8)
    scene = Scene(image, objects, np.zeros_like(objects), ("mug", "mug"), "flat")
    document = describe_group([scene], 0, "t")
    (mask,) = labeled_group([scene]).of_kind(RegionKind.COMMON_OBJECT)
    assert (mask.mask == (objects > 0)).all()
    assert document.records[0].common[0].ann_ids == (tuple(a.id for a in document.annotations),)
    assert document.records[0].common[0].visibility == (0.4,)


def test_encoded_mask_is_compressed_coco() -> None:
    mask = np.zeros((4, 3), np.bool_)
    mask[1:3, 0] = True
    assert encode_mask(mask) == Rle((4, 3), "129")  # columns first: 1 off, 2 on, 9 off


def _write_pair(folder: Path, change: Callable[[Any, Any], None] | None = None) -> None:
    """Writes a hand-made set: two mugs of 8 x 8 pixels, one with a lid."""
    (folder / "images").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    top = [[0.0, 0.0, 8.0, 0.0, 8.0, 2.0, 0.0, 2.0]]
    below = [[0.0, 2.0, 8.0, 2.0, 8.0, 4.0, 0.0, 4.0]]
    column = {"size": [8, 8], "counts": [0, 4, 60]}
    coco: Any = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 8, "height": 8, "license": 3}
            for n in (1, 2)
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": top},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": below},
            {"id": 3, "image_id": 2, "category_id": 1, "segmentation": column},
        ],
    }
    compared = {
        "cats": ["mug", "mug"],
        "ann_ids": [[1, 2], [3]],
        "visibility": [0.5, 0.06],
        "common": [{"part_cat": "body", "part_ann_ids": [[1, 2], [3]]}],
        "unique": {"part_cats": [["lid"], []], "part_ann_ids": [[[1]], []]},
    }
    records: Any = [
        {"dataset_name": "t", "img_ids": [1, 2], "is_object": False, "pairs": [compared]}
    ]
    if change is not None:
        change(records, coco)
    (folder / "annotations.json").write_text(json.dumps(coco))
    (folder / "records.json").write_text(json.dumps(records))
