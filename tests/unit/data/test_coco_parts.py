"""COCO part data becomes groups of one object class, and comes back from a file as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from calico_model.data.coco_parts import CocoParts, CocoPlan, write_coco
from calico_model.errors import InvalidRecordError
from calico_model.types import RegionKind

_SIZE = (60, 80)


def _rle(rows: slice, columns: slice) -> dict[str, object]:
    mask = np.zeros(_SIZE, np.uint8, order="F")
    mask[rows, columns] = 1
    found = coco_mask.encode(mask)
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def _write(folder: Path, images: dict[int, list[tuple[str, str, dict[str, object]]]]) -> Path:
    """Image id -> (object, part, segmentation) of its annotations."""
    (folder / "images").mkdir(parents=True)
    categories: dict[tuple[str, str], int] = {}
    annotations = []
    for image_id, regions in images.items():
        pixels = np.full((*_SIZE, 3), 10 * image_id, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{image_id}.png")
        for above, name, segmentation in regions:
            number = categories.setdefault((above, name), len(categories) + 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number,
                    "segmentation": segmentation,
                }
            )
    document = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": _SIZE[0], "width": _SIZE[1]}
            for n in images
        ],
        "annotations": annotations,
        "categories": [
            {"id": n, "name": name, "supercategory": above}
            for (above, name), n in categories.items()
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def _car(*extra: tuple[str, str, dict[str, object]]) -> list[tuple[str, str, dict[str, object]]]:
    whole = ("car", "(whole object)", _rle(slice(10, 50), slice(10, 70)))
    return [whole, ("car", "left_wheel", _rle(slice(40, 50), slice(10, 25))), *extra]


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    door = ("car", "door", _rle(slice(20, 40), slice(30, 50)))
    images = {1: _car(door), 2: _car(), 3: [("cat", "tail", _rle(slice(0, 30), slice(0, 30)))]}
    return _write(tmp_path / "set", images)


def test_a_group_shows_one_class_and_says_what_is_shared(cars: Path) -> None:
    (group,) = CocoParts(cars, cars.parent / "images")
    found = {(one.image_index, one.label, one.kind) for one in group.parts}
    first = next(k for k, name in enumerate(group.group.ids) if name == "1.png")
    assert found == {
        (0, "car", RegionKind.COMMON_OBJECT),
        (1, "car", RegionKind.COMMON_OBJECT),
        (0, "wheel", RegionKind.COMMON_PART),
        (1, "wheel", RegionKind.COMMON_PART),
        (first, "door", RegionKind.UNIQUE_PART),
    }
    (door,) = [one for one in group.parts if one.label == "door"]
    assert int(door.mask.sum()) == 20 * 20


def test_classes_of_groups_are_known_before_their_images_are_read(tmp_path: Path) -> None:
    cat = [("cat", "tail", _rle(slice(0, 30), slice(0, 30)))]
    path = _write(tmp_path / "set", {1: _car(), 2: cat, 3: _car(), 4: cat, 5: _car(), 6: _car()})
    groups = CocoParts(path, path.parent / "images", CocoPlan(seed=2))
    assert sorted(groups.object_classes) == ["car", "car", "cat"]
    shown = [{p.label for p in g.parts if p.kind is RegionKind.COMMON_OBJECT} for g in groups]
    assert [{name} for name in groups.object_classes] == shown


def test_sides_are_kept_where_they_are_wanted(cars: Path) -> None:
    plan = CocoPlan(merge_sides=False)
    (group,) = CocoParts(cars, cars.parent / "images", plan)
    assert {one.label for one in group.parts} == {"car", "left wheel", "door"}


def test_without_a_whole_the_object_is_the_union_of_its_parts(tmp_path: Path) -> None:
    parts = [
        ("cat", "tail", _rle(slice(0, 30), slice(0, 30))),
        ("cat", "head", _rle(slice(30, 50), slice(0, 30))),
    ]
    path = _write(tmp_path / "set", {1: parts, 2: parts})
    (group,) = CocoParts(path, path.parent / "images")
    whole = [one for one in group.parts if one.kind is RegionKind.COMMON_OBJECT]
    assert [int(one.mask.sum()) for one in whole] == [50 * 30, 50 * 30]


def test_large_images_are_made_smaller_with_their_masks(cars: Path) -> None:
    (group,) = CocoParts(cars, cars.parent / "images", CocoPlan(side=40))
    assert group.group.sizes_hw == ((30, 40), (30, 40))
    (door,) = [one for one in group.parts if one.label == "door"]
    assert int(door.mask.sum()) == 10 * 10


def test_equal_seeds_give_equal_groups(tmp_path: Path) -> None:
    path = _write(tmp_path / "set", {n: _car() for n in range(1, 9)})

    def ids(seed: int) -> list[tuple[str, ...]]:
        return [
            one.group.ids for one in CocoParts(path, path.parent / "images", CocoPlan(seed=seed))
        ]

    assert ids(3) == ids(3)
    assert ids(3) != ids(4)
    assert sorted(name for group in ids(3) for name in group) == [f"{n}.png" for n in range(1, 9)]


def test_what_cannot_be_read_is_named(cars: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match=r"annotations\.json: expected images of one"):
        CocoParts(cars, tmp_path)
    with pytest.raises(InvalidRecordError, match="group size: expected 1 to 8"):
        CocoPlan(sizes=(4, 9))
    (cars.parent / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(InvalidRecordError, match="image 1: expected a readable image"):
        list(CocoParts(cars, cars.parent / "images"))


def test_groups_come_back_from_a_coco_file(cars: Path, tmp_path: Path) -> None:
    (group,) = CocoParts(cars, cars.parent / "images")
    write_coco([group], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [one["file_name"] for one in document["images"]] == ["0000_0.png", "0000_1.png"]
    assert {(c["supercategory"], c["name"]) for c in document["categories"]} == {
        ("object", "car"),
        ("part", "wheel"),
        ("part", "door"),
    }
    areas = sorted(one["area"] for one in document["annotations"])
    assert areas == sorted(int(one.mask.sum()) for one in group.parts)
