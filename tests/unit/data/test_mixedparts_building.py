"""Built records: what the rule says, measured on pixels, the same every time, or nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from calico_model.data.mixedparts.building import BuildOptions, BuildReport, build
from calico_model.data.mixedparts.classes import ClassPlan, SourcePlan, read_plan
from calico_model.data.mixedparts.folders import SourceFolders
from calico_model.data.mixedparts.reading import MixedPartsGroups
from calico_model.data.mixedparts.sampling import draw_groups, keep_made, take_turns
from calico_model.data.mixedparts.source import DatasetName, SourceSplit
from calico_model.data.opening import open_groups
from calico_model.data.records import Record
from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.types import LabeledGroup, RegionKind
from tests.unit.mixedparts_sources import (
    TRUTH,
    Parts,
    object_boxes,
    paint,
    write_ade,
    write_paco,
    write_sources,
)

TEST_ONLY = BuildOptions({SourceSplit.TEST: 27}, min_part_share=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SourceFolders:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def built(folders: SourceFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    build(folders, out, read_plan(), TEST_ONLY)
    return out


def records_of(out: Path, split: str = "test") -> tuple[Record, ...]:
    content = (out / "Part_Segm" / f"mixed_parts_{split}.json").read_bytes()
    return msgspec.json.decode(content, type=tuple[Record, ...])


def scene(name: str) -> tuple[str, Parts]:
    """Returns what the picture shows that a group calls `dataset/folder/stem`."""
    dataset, _, stem = name.split("/")
    return TRUTH[DatasetName(dataset)][stem.removeprefix("ADE_train_").removeprefix("ADE_val_")]


def test_built_groups_come_back_with_the_truth_of_the_sources(built: Path) -> None:
    groups = open_groups(built)
    assert isinstance(groups, MixedPartsGroups)
    kinds: Counter[tuple[str, RegionKind]] = Counter()
    for labeled in groups:
        check_against_scenes(labeled)
        source = labeled.group.ids[0].split("/")[0]
        assert {name.split("/")[0] for name in labeled.group.ids} == {source}
        kinds.update({(source, part.kind) for part in labeled.parts})
    assert set(kinds) == {(str(name), kind) for name in DatasetName for kind in RegionKind}


def check_against_scenes(labeled: LabeledGroup) -> None:
    """Works out common and unique from the scenes, and compares names and pixels."""
    scenes = [scene(name) for name in labeled.group.ids]
    if RegionKind.COMMON_OBJECT in labeled.known:
        labels = {label for label, _ in scenes}
        found = labeled.of_kind(RegionKind.COMMON_OBJECT)
        assert {part.label for part in found} == labels
        assert len(labels) == 1
        for part in found:
            boxes = object_boxes(scenes[part.image_index][1])
            assert (part.mask == paint(boxes)).all()
    if RegionKind.COMMON_PART not in labeled.known:
        return
    names = [set(parts) for _, parts in scenes]
    common = set.intersection(*names)
    assert {part.label for part in labeled.of_kind(RegionKind.COMMON_PART)} == common
    for n, own in enumerate(names):
        others = set().union(*(other for k, other in enumerate(names) if k != n))
        unique = [p for p in labeled.of_kind(RegionKind.UNIQUE_PART) if p.image_index == n]
        assert {part.label for part in unique} == own - others
    for part in labeled.parts:
        if part.kind is not RegionKind.COMMON_OBJECT:
            label, parts = scenes[part.image_index]
            assert (part.mask == paint(parts[part.label])).all()
            assert part.object_label == label
    for main in labeled.objects:
        label, parts = scenes[main.image_index]
        assert main.label == label
        assert (main.mask == paint(object_boxes(parts))).all()


def test_records_have_the_keys_of_the_release(built: Path) -> None:
    records = json.loads((built / "Part_Segm" / "mixed_parts_test.json").read_text())
    parts = {"dataset_name", "img_ids", "is_object", "pairs"}
    assert {frozenset(record) for record in records} == {
        frozenset(parts),
        frozenset({"dataset_name", "img_ids", "is_object", "common"}),
    }
    for record in records:
        for pair in record.get("pairs", ()):
            assert pair.keys() == {"cats", "ann_ids", "visibility", "common", "unique"}
            ids = "part_cat_ids" if "ade" in record["dataset_name"] else "part_ann_ids"
            for part in pair["common"] or ():
                assert part.keys() == {"part_cat", ids, "part_visibility"}
            assert pair["unique"] is None or pair["unique"].keys() == {"part_cats", ids}


def test_visibility_is_the_share_of_the_union(built: Path) -> None:
    for record in records_of(built):
        for shared in record.common:
            assert shared.visibility == pytest.approx(
                [_scene_share(record, n) for n in range(2)], abs=1e-6
            )
        for pair in record.pairs:
            assert all(len(part.part_visibility) == 2 for part in pair.common or ())


def _scene_share(record: Record, n: int) -> float:
    scenes = TRUTH[DatasetName(record.dataset_name)]
    numbers = {
        DatasetName.PACO_LVIS: lambda i: f"{i:012d}",
        DatasetName.PART_IMAGE_NET: lambda i: list(scenes)[i],
        DatasetName.ADE20K_PART_234: lambda i: f"{i:08d}",
    }
    stem = numbers[DatasetName(record.dataset_name)](record.img_ids[n])
    return float(paint(object_boxes(scenes[stem][1])).mean())


def test_the_same_arguments_give_the_same_bytes(
    folders: SourceFolders, built: Path, tmp_path: Path
) -> None:
    build(folders, tmp_path / "again", read_plan(), TEST_ONLY)
    build(folders, tmp_path / "other", read_plan(), replace(TEST_ONLY, seed=1))

    def content(out: Path) -> dict[str, bytes]:
        base = out / "Part_Segm"
        return {p.name: p.read_bytes() for p in base.iterdir() if p.is_file()}

    assert content(tmp_path / "again") == content(built)
    assert content(tmp_path / "other") != content(built)


def test_no_record_is_there_twice(built: Path) -> None:
    records = [
        (r.dataset_name, r.is_object, frozenset(zip(r.pairs[0].cats, r.img_ids, strict=True)))
        if r.pairs
        else (r.dataset_name, r.is_object, frozenset(r.img_ids))
        for r in records_of(built)
    ]
    assert len(set(records)) == len(records)


def test_quotas_are_kept_and_balanced(folders: SourceFolders, tmp_path: Path) -> None:
    options = BuildOptions({SourceSplit.TRAIN: 9, SourceSplit.VAL: 4}, min_part_share=0.0)
    report = build(folders, tmp_path / "set", read_plan(), options)
    train = {c: n for c, n in report.questions.items() if c.split is SourceSplit.TRAIN}
    assert len(train) == 9
    assert all(n == 1 for c, n in train.items() if c.subtask is not RegionKind.COMMON_PART)
    assert report.records[SourceSplit.TRAIN] == 6
    assert 4 <= sum(n for c, n in report.questions.items() if c.split is SourceSplit.VAL) <= 6
    document = json.loads((tmp_path / "set" / "Part_Segm" / "build.json").read_text())
    assert document["records"] == {"train": 6, "val": report.records[SourceSplit.VAL]}
    assert document["questions"]["train/paco_lvis/common_object"] == 1
    assert document["options"]["min_object_share"] == 0.02


def test_groups_of_more_than_two_say_what_is_on_all_and_on_one(
    folders: SourceFolders, tmp_path: Path
) -> None:
    options = replace(TEST_ONLY, group_sizes=(3, 3))
    build(folders, tmp_path / "set", read_plan(), options)
    groups = open_groups(tmp_path / "set")
    compared = [g for g in groups if RegionKind.COMMON_PART in g.known]
    assert {g.group.ids[0].split("/")[0] for g in compared} == set(DatasetName)
    for labeled in compared:
        assert len(labeled.group) == 3
        check_against_scenes(labeled)


def test_a_source_may_be_missing(folders: SourceFolders, tmp_path: Path) -> None:
    only = SourceFolders(
        {DatasetName.ADE20K_PART_234: folders.folders[DatasetName.ADE20K_PART_234]}, Path()
    )
    report = build(only, tmp_path / "set", read_plan(), TEST_ONLY)
    assert {cell.source for cell in report.questions} == {DatasetName.ADE20K_PART_234}
    assert {p.name for p in (tmp_path / "set").iterdir()} == {"Part_Segm"}
    assert len(open_groups(tmp_path / "set")) == report.records.total()


def test_shares_decide_what_counts(folders: SourceFolders, tmp_path: Path) -> None:
    def names(out: str, **changes: Any) -> set[str]:
        build(folders, tmp_path / out, read_plan(), replace(TEST_ONLY, **changes))
        return {
            name
            for record in records_of(tmp_path / out)
            for pair in record.pairs
            for name in [p.part_cat for p in pair.common or ()]
            + [n for own in (pair.unique.part_cats if pair.unique else ()) for n in own]
        }

    assert "tail" in names("all")
    assert "tail" not in names("large", min_part_share=0.05)
    with_car = replace(TEST_ONLY, min_object_share=0.0)
    build(folders, tmp_path / "tiny", read_plan(), with_car)
    shares = [v for r in records_of(tmp_path / "tiny") for c in r.common for v in c.visibility]
    assert min(shares) > 0


def test_small_parts_keep_others_from_being_unique(folders: SourceFolders, tmp_path: Path) -> None:
    # Two chairs have legs; at this share only those of the stool count as visible.
    options = replace(TEST_ONLY, min_part_share=0.1)
    build(folders, tmp_path / "set", read_plan(), options)
    for record in records_of(tmp_path / "set"):
        for pair in record.pairs:
            if record.dataset_name == "paco_lvis" and pair.unique:
                assert not any("leg" in own for own in pair.unique.part_cats)


def test_excluded_pairs_and_renamed_parts_are_followed(
    folders: SourceFolders, tmp_path: Path
) -> None:
    plan = ClassPlan(
        paco_lvis=SourcePlan(
            families={"seats": ("chair", "stool")},
            exclude=(("chair", "chair"),),
            rename={"chair: leg": "support", "stool: leg": "support"},
            drop=("seat",),
        )
    )
    build(folders, tmp_path / "set", plan, TEST_ONLY)
    compared = [r for r in records_of(tmp_path / "set") if r.pairs]
    paco = [r.pairs[0] for r in compared if r.dataset_name == "paco_lvis"]
    assert {frozenset(pair.cats) for pair in paco} == {frozenset({"chair", "stool"})}
    assert {part.part_cat for pair in paco for part in pair.common or ()} == {"support"}


def test_overlapping_instances_and_parts_are_one_mask(tmp_path: Path) -> None:
    def double(content: Any) -> None:
        """Annotates the first chair and its first leg a second time."""
        chair, leg = content["annotations"][0], content["annotations"][1]
        content["annotations"] += [
            chair | {"id": 90001, "obj_ann_id": 90001},
            leg | {"id": 90002, "obj_ann_id": 90001},
        ]

    write_paco(tmp_path / "paco", tmp_path / "coco", double)
    folders = SourceFolders({DatasetName.PACO_LVIS: tmp_path / "paco"}, tmp_path / "coco")
    build(folders, tmp_path / "set", read_plan(), TEST_ONLY)
    doubled = [
        pair
        for record in records_of(tmp_path / "set")
        for pair in record.pairs
        if any(90001 in ids for ids in pair.ann_ids)
    ]
    assert doubled
    for pair in doubled:
        n = next(n for n, ids in enumerate(pair.ann_ids) if 90001 in ids)
        scenes = TRUTH[DatasetName.PACO_LVIS]["000000000009"][1]
        assert pair.ann_ids[n] == (900, 90001)
        assert pair.visibility[n] == pytest.approx(paint(object_boxes(scenes)).mean(), abs=1e-6)
    for labeled in open_groups(tmp_path / "set"):
        check_against_scenes(labeled)


def _empty_first(content: Any) -> None:
    content["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [1200]}


@pytest.mark.parametrize(
    ("change", "break_file", "message"),
    [
        (_empty_first, None, "ade20k_instance_train.json: annotation 1: .* got an empty mask"),
        (
            lambda content: content["annotations"][0].update(image_id=77),
            None,
            "annotation 1: image_id: 77 is not in the file",
        ),
        (
            lambda content: content["images"][0].update(width=41),
            None,
            "image 1: expected 41 x 30 px, got 40 x 30",
        ),
        (None, "images/training/ADE_train_00000001.jpg", "image 1: file_name: no file"),
        (
            None,
            "annotations_detectron2_part/training/ADE_train_00000001.png",
            "image 1: no label map",
        ),
    ],
)
def test_what_is_broken_stops_the_build_or_is_skipped_and_listed(
    tmp_path: Path, change: Any, break_file: str | None, message: str
) -> None:
    write_ade(tmp_path / "ade", change)
    if break_file is not None:
        (tmp_path / "ade" / break_file).unlink()
    folders = SourceFolders({DatasetName.ADE20K_PART_234: tmp_path / "ade"}, Path())
    options = BuildOptions({SourceSplit.TRAIN: 9}, min_part_share=0.0)
    with pytest.raises(InvalidRecordError, match=message):
        build(folders, tmp_path / "set", read_plan(), options)
    assert [path.name for path in tmp_path.iterdir()] == ["ade"]
    report = build(folders, tmp_path / "set", read_plan(), replace(options, skip_broken=True))
    assert len(report.skipped) == 1
    assert message.split(":")[-1].split(",")[0].strip(" .*") in report.skipped[0]
    document = json.loads((tmp_path / "set" / "Part_Segm" / "build.json").read_text())
    assert document["skipped"] == list(report.skipped)
    groups = open_groups(tmp_path / "set")
    assert len(groups) > 0
    assert all("00000001" not in name for labeled in groups for name in labeled.group.ids)


def test_an_interrupted_build_leaves_nothing(folders: SourceFolders, tmp_path: Path) -> None:
    def interrupt(questions: int) -> None:
        if questions >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folders, tmp_path / "set", read_plan(), TEST_ONLY, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_and_wrong_options_are_refused(
    folders: SourceFolders, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidConfigError, match="--out: expected a new or empty folder"):
        build(folders, tmp_path, read_plan(), TEST_ONLY)
    with pytest.raises(InvalidConfigError, match="at least one source"):
        build(SourceFolders({}, Path()), tmp_path / "set", read_plan(), TEST_ONLY)
    for wrong in (
        {"group_sizes": (1, 2)},
        {"group_sizes": (3, 2)},
        {"group_sizes": (2, 9)},
        {"min_part_share": 1.0},
        {"min_object_share": -0.1},
        {"questions": {}},
        {"seed": -1},
    ):
        with pytest.raises(InvalidConfigError):
            replace(TEST_ONLY, **wrong)


def test_draws_hold_different_images_and_never_repeat() -> None:
    pools = {"a": (1, 2, 3), "b": (3, 4)}
    draws = list(draw_groups(np.random.default_rng(0), ("a", "b"), pools, (2, 3)))
    assert all(len({i for _, i in draw}) == len(draw) for draw in draws)
    assert len({frozenset(draw) for draw in draws}) == len(draws)
    assert all({"a", "b"} <= {label for label, _ in draw} for draw in draws)
    pairs = {frozenset(draw) for draw in draws if len(draw) == 2}
    assert len(pairs) == 5  # 3 x 2 without image 3 beside itself


def test_streams_take_turns_and_end_when_nothing_can_be_made() -> None:
    assert list(take_turns([iter("abc"), iter("1"), iter("xy")])) == list("a1xbyc")
    draws = [((str(n), n),) for n in (1, 2, 4, 6, 8, 3)]
    odd = keep_made(draws, lambda draw: draw[0][1] if draw[0][1] % 2 else None, patience=4)
    assert list(odd) == [1]


def test_reports_count_images_once(folders: SourceFolders, tmp_path: Path) -> None:
    report = build(folders, tmp_path / "set", read_plan(), TEST_ONLY)
    assert isinstance(report, BuildReport)
    assert report.images[SourceSplit.TEST] == 9
