"""The three sources: names from their tables, masks pixel by pixel, what is broken by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from calico_model.data.mixedparts.ade import part_labels
from calico_model.data.mixedparts.classes import ObjectClass, SourcePlan, read_plan
from calico_model.data.mixedparts.coco import CocoFile, Problems
from calico_model.data.mixedparts.folders import SourceFolders
from calico_model.data.mixedparts.paco import PacoLvis
from calico_model.data.mixedparts.source import DatasetName, SourceSplit
from calico_model.errors import InvalidConfigError, InvalidRecordError
from tests.unit.mixedparts_sources import (
    HEIGHT,
    TRUTH,
    WIDTH,
    object_boxes,
    paint,
    write_ade,
    write_paco,
    write_partimagenet,
    write_sources,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SourceFolders:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("split", SourceSplit)
@pytest.mark.parametrize("name", DatasetName)
def test_every_object_and_part_is_found_pixel_by_pixel(
    folders: SourceFolders, name: DatasetName, split: SourceSplit
) -> None:
    source = folders.open(name, split)
    census = source.census(getattr(read_plan(), name), Problems(skip=False))
    seen = 0
    for image_id, instances in census.instances.items():
        stem = source.image_path(image_id).stem.removeprefix(f"ADE_{split}_")
        stem = stem.removeprefix("ADE_val_")
        label, parts = TRUTH[name][stem]
        instance = next(i for i in instances if i.label == label)
        mask = source.object_mask((instance.ann_id,))
        assert (mask == paint(object_boxes(parts))).all()
        found = {
            part: region[1]
            for part, ids in instance.parts.items()
            if (region := source.find_part(image_id, ids, mask)) is not None
        }
        assert found.keys() == parts.keys()
        for part, boxes in parts.items():
            assert (found[part] == paint(boxes)).all(), (stem, part)
            seen += 1
        source.check_image("key", image_id)
        assert source.image(image_id).shape == (HEIGHT, WIDTH, 3)
    assert seen == sum(len(parts) for _, parts in TRUTH[name].values())


def test_classes_come_from_the_tables_of_the_sources(folders: SourceFolders) -> None:
    def classes(name: DatasetName) -> dict[str, frozenset[str]]:
        source = folders.open(name, SourceSplit.VAL)
        census = source.census(getattr(read_plan(), name), Problems(skip=False))
        return {label: found.parts for label, found in census.classes.items()}

    assert classes(DatasetName.PACO_LVIS) == {
        "chair": {"leg", "seat", "back"},
        "stool": {"leg", "seat", "step"},
        "car": {"wheel"},
    }
    assert classes(DatasetName.PART_IMAGE_NET) == {
        "timber wolf": {"head", "body", "foot", "tail"},
        "bald eagle": {"head", "body", "wing", "tail"},
    }
    chair = classes(DatasetName.ADE20K_PART_234)["chair"]
    assert "seat" in chair
    assert "seat cushion" not in chair


def test_part_labels_are_the_published_numbers() -> None:
    labels = part_labels()
    assert (len(labels), len(set(labels)), len({owner for owner, _ in labels})) == (234, 234, 44)
    known = {0: "person arm", 18: "cabinet door", 49: "chair seat", 233: "light shade"}
    assert {n: " ".join(labels[n]) for n in known} == known


def test_parts_of_two_classes_of_one_super_category_belong_to_neither(tmp_path: Path) -> None:
    def add_coyote(whole: Any) -> None:
        whole["categories"].append({"id": 6, "name": "coyote", "supercategory": "Quadruped"})
        whole["annotations"].append(whole["annotations"][0] | {"id": 77, "category_id": 6})

    write_partimagenet(tmp_path, add_coyote)
    source = _open(DatasetName.PART_IMAGE_NET, tmp_path)
    census = source.census(SourcePlan(), Problems(skip=False))
    assert [dict(i.parts) for i in census.instances[0]] == [{}, {}]
    assert census.instances[1][0].parts


def test_images_in_folders_by_synset_are_found(tmp_path: Path) -> None:
    write_partimagenet(tmp_path)
    images = tmp_path / "images" / "train"
    (images / "n01614925").mkdir()
    (images / "n01614925_3.JPEG").rename(images / "n01614925" / "n01614925_3.JPEG")
    source = _open(DatasetName.PART_IMAGE_NET, tmp_path)
    source.check_image("key", 2)
    assert source.image_path(2).parent.name == "n01614925"


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    def make_crowd(content: Any) -> None:
        content["annotations"][0]["iscrowd"] = 1

    write_ade(tmp_path, make_crowd)
    census = _open(DatasetName.ADE20K_PART_234, tmp_path).census(SourcePlan(), Problems(skip=False))
    assert 1 not in census.instances


def _first(field: str, value: object, of: str = "annotations") -> Any:
    def change(content: Any) -> None:
        content[of][0][field] = value

    return change


def _double(of: str) -> Any:
    return lambda content: content[of].append(content[of][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first("image_id", 444), r"paco_lvis_v1_train.json: annotation 900: image_id: 444 is not"),
        (_first("category_id", 55), "annotation 900: category_id: 55 is not in the file"),
        (_first("obj_ann_id", 66), "annotation 900: obj_ann_id: 66 is not in the file"),
    ],
)
def test_dangling_ids_stop_or_are_listed(tmp_path: Path, change: Any, message: str) -> None:
    write_paco(tmp_path, tmp_path / "coco", change)
    source = PacoLvis(tmp_path, tmp_path / "coco", SourceSplit.TRAIN)
    with pytest.raises(InvalidRecordError, match=message):
        source.census(SourcePlan(), Problems(skip=False))
    problems = Problems(skip=True)
    census = source.census(SourcePlan(), problems)
    assert len(problems.messages) == 1
    assert all(i.ann_id != 900 for found in census.instances.values() for i in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_double("images"), r"train.json: images\[3\].id: 9 is there twice"),
        (_double("annotations"), r"annotations\[\d+\].id: 900 is there twice"),
        (_double("categories"), r"categories\[10\].id: 1 is there twice"),
        (_first("id", "x"), r"Expected `int`, got `str` - at `\$.annotations\[0\].id`"),
        (_first("width", 0, "images"), r"Expected `int` >= 1 - at `\$.images\[0\].width`"),
        (_first("height", -3, "images"), r"Expected `int` >= 1 - at `\$.images\[0\].height`"),
        (lambda content: content.pop("categories"), "missing required field `categories`"),
    ],
)
def test_broken_files_are_named_when_opened(tmp_path: Path, change: Any, message: str) -> None:
    write_paco(tmp_path, tmp_path / "coco", change)
    with pytest.raises(InvalidRecordError, match=message):
        PacoLvis(tmp_path, tmp_path / "coco", SourceSplit.TRAIN)


def test_missing_empty_and_truncated_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match=r"PACO: expected one of .*paco_lvis_v1_val.json"):
        PacoLvis(tmp_path, tmp_path, SourceSplit.VAL)
    path = tmp_path / "paco_lvis_v1_val.json"
    path.write_bytes(b"")
    with pytest.raises(InvalidRecordError, match=r"paco_lvis_v1_val.json: expected a readable"):
        PacoLvis(tmp_path, tmp_path, SourceSplit.VAL)
    path.write_bytes(b'{"images": [{"id": 1')
    with pytest.raises(InvalidRecordError, match=r"paco_lvis_v1_val.json: Input data was trunc"):
        PacoLvis(tmp_path, tmp_path, SourceSplit.VAL)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "got an empty mask"),
        ({"size": [HEIGHT, 9], "counts": [HEIGHT * 9]}, r"size: expected \[30, 40\], got"),
        ({"size": [HEIGHT, WIDTH], "counts": "!"}, "annotation 900: segmentation: expected a mask"),
        ([[1.0, 2.0, 3.0, 4.0]], "annotation 900: segmentation: expected a mask, got no polygon"),
        ([], "got no polygon"),
        (7, "annotation 900: segmentation: Expected"),
    ],
)
def test_broken_masks_are_named(tmp_path: Path, shape: object, message: str) -> None:
    write_paco(tmp_path, tmp_path / "coco", _first("segmentation", shape))
    file = CocoFile(tmp_path / "annotations" / "paco_lvis_v1_train.json")
    with pytest.raises(InvalidRecordError, match=message):
        file.mask(900)


def test_pictures_of_another_size_are_named_unless_their_tag_turns_them(tmp_path: Path) -> None:
    write_ade(tmp_path)
    path = tmp_path / "images" / "training" / "ADE_train_00000001.jpg"
    source = _open(DatasetName.ADE20K_PART_234, tmp_path)
    turned = Image.new("RGB", (HEIGHT, WIDTH))
    turned.paste((250, 250, 250), (0, 0, HEIGHT, 10))
    turned.save(path, quality=95)
    with pytest.raises(InvalidRecordError, match=r"image 1: expected 40 x 30 px, got 30 x 40"):
        source.image(1)
    exif = Image.Exif()
    exif[274] = 6  # show it turned a quarter to the right
    turned.save(path, exif=exif, quality=95)
    source.check_image_size(1)
    pixels = source.image(1)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels[:, -5:].min() > 200
    assert pixels[:, :20].max() < 50
    path.write_bytes(b"no picture")
    with pytest.raises(InvalidRecordError, match=r"00000001.jpg: expected a readable image"):
        source.image(1)


def test_missing_and_broken_label_maps_are_named(tmp_path: Path) -> None:
    write_ade(tmp_path)
    path = tmp_path / "annotations_detectron2_part" / "training" / "ADE_train_00000001.png"
    mask = np.ones((HEIGHT, WIDTH), np.bool_)

    def open_again() -> Any:
        return _open(DatasetName.ADE20K_PART_234, tmp_path)

    with pytest.raises(InvalidRecordError, match=r"expected labels \[3\] inside the object"):
        open_again().labeled_mask(1, (3,), mask)
    cv2.imwrite(str(path), np.zeros((4, 5), np.uint16))
    with pytest.raises(InvalidRecordError, match=r"00000001.png: expected 40 x 30 px .* 5 x 4"):
        open_again().labeled_mask(1, (3,), mask)
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(InvalidRecordError, match=r"expected a grey PNG"):
        open_again().labeled_mask(1, (3,), mask)
    path.unlink()
    with pytest.raises(InvalidRecordError, match=r"image 1: no label map .*00000001.png"):
        open_again().check_image("key", 1)


def test_comparable_classes_follow_the_rule_and_its_exceptions() -> None:
    classes = {
        name: ObjectClass(frozenset(parts), frozenset({name, "thing"}))
        for name, parts in {
            "chair": {"leg", "seat"},
            "stool": {"leg"},
            "desk": {"top", "leg"},
            "shelf": {"top"},
            "ball": set(),
        }.items()
    }
    plan = SourcePlan(
        families={"a": ("chair", "stool", "ball"), "b": ("desk", "shelf")},
        include=(("stool", "desk"), ("shelf", "chair")),
        exclude=(("stool", "stool"),),
        weak=("top",),
    )
    assert plan.comparable(classes) == (
        ("chair", "chair"),
        ("chair", "stool"),
        ("desk", "desk"),
        ("desk", "stool"),
    )
    assert ("chair", "desk") in SourcePlan(families={"all": ("thing",)}).comparable(classes)


def test_a_plan_is_toml_or_json_and_its_keys_are_checked(tmp_path: Path) -> None:
    toml, json_file = tmp_path / "plan.toml", tmp_path / "plan.json"
    toml.write_text('[paco_lvis.rename]\n"chair: back" = "backrest"\nrim = "edge"\n')
    json_file.write_text('{"paco_lvis": {"rename": {"chair: back": "backrest", "rim": "edge"}}}')
    assert read_plan(toml) == read_plan(json_file)
    plan = read_plan(toml).paco_lvis
    assert [plan.part_name("chair", p) for p in ("back", "rim", "leg")] == [
        "backrest",
        "edge",
        "leg",
    ]
    assert plan.part_name("stool", "back") == "back"
    toml.write_text("[paco_lvis]\nfamily = {}\n")
    with pytest.raises(InvalidConfigError, match=r"plan.toml: .*unknown field `family`"):
        read_plan(toml)
    json_file.write_text("{")
    with pytest.raises(InvalidConfigError, match=r"plan.json: expected TOML or JSON"):
        read_plan(json_file)
    with pytest.raises(InvalidConfigError, match=r"--classes: expected a readable file"):
        read_plan(tmp_path / "none.toml")


def _open(name: DatasetName, folder: Path) -> Any:
    return SourceFolders({name: folder}, folder).open(name, SourceSplit.TRAIN)
