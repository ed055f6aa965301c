"""Questions out of records: which are asked, in which words, with which masks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from calico_model.data.groups import GroupFolder, read_groups
from calico_model.data.records import encode_mask
from calico_model.data.samples import Sample, list_samples, write_sample
from calico_model.prompts import parse_answer
from calico_model.types import RegionKind

SIDE = 8


def square(left: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:5, left : left + 2] = True
    return mask


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., GroupFolder]:
    """Writes two blank images with annotations 1-6 on the first, 11-16 on the second."""
    (tmp_path / "images").mkdir()
    for image in (1, 2):
        cv2.imwrite(str(tmp_path / "images" / f"{image}.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    rle = {n: encode_mask(square(n % 6)) for n in (*range(1, 7), *range(11, 17))}
    document = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in (1, 2)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": 1 if n < 10 else 2,
                "category_id": 1,
                "segmentation": {"size": rle[n].size, "counts": rle[n].counts},
            }
            for n in rle
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))

    def write(*records: dict[str, object]) -> GroupFolder:
        base = {"dataset_name": "d", "img_ids": [1, 2]}
        (tmp_path / "records.json").write_text(json.dumps([base | r for r in records]))
        return read_groups(tmp_path)

    return write


def shared(name: str, n: int, visibility: float) -> dict[str, object]:
    return {"cat": name, "ann_ids": [[n], [n + 10]], "visibility": [visibility, visibility]}


def pair(visibility: float, **parts: object) -> dict[str, object]:
    own = {"cats": ["chair", "stool"], "ann_ids": [[1], [11]], "visibility": [visibility] * 2}
    return own | parts


LEG = {"part_cat": "leg", "part_ann_ids": [[2], [12]]}
SEAT = {"part_cat": "seat", "part_ann_ids": [[3], [13]]}
ALONE = {"part_cats": [["back", "arm"], ["rung"]], "part_ann_ids": [[[4], [5]], [[14]]]}


def test_the_most_visible_objects_are_taken(build: Callable[..., GroupFolder]) -> None:
    objects = [shared("cup", 1, 0.1), shared("dog", 2, 0.3), shared("hat", 3, 0.2)]
    folder = build({"is_object": True, "common": objects})
    kind = RegionKind.COMMON_OBJECT
    assert list_samples(folder, most_objects=2) == (Sample(0, kind, ("dog", "hat")),)
    assert list_samples(folder, most_objects=1) == (Sample(0, kind, ("dog",)),)

    written = write_sample(folder, list_samples(folder, most_objects=2)[0], None)
    assert "cup" not in written.answer
    assert len(written.masks) == 4


def test_the_most_visible_comparisons_are_taken(build: Callable[..., GroupFolder]) -> None:
    pairs = [pair(0.1, common=[LEG]), pair(0.3, common=[SEAT]), pair(0.2, unique=ALONE)]
    folder = build({"is_object": False, "pairs": pairs})
    assert [s.group for s in list_samples(folder, most_objects=2)] == [1, 2]
    (best,) = list_samples(folder, most_objects=1)
    assert (best.group, best.kind) == (1, RegionKind.COMMON_PART)


def test_silence_of_the_records_is_asked_about_only_on_request(
    build: Callable[..., GroupFolder],
) -> None:
    folder = build({"is_object": False, "pairs": [pair(0.1, common=[LEG])]})
    assert [s.kind for s in list_samples(folder, most_objects=4)] == [RegionKind.COMMON_PART]
    every = list_samples(folder, most_objects=4, with_empty=True)
    assert [s.kind for s in every] == list(RegionKind)
    assert write_sample(folder, every[0], None).answer == "The images share no object. </s>"
    unique = write_sample(folder, every[2], None)
    assert unique.answer.endswith("No part is unique. </s>")
    assert len(unique.masks) == 2  # the compared objects are named all the same


@pytest.mark.parametrize("seed", range(6))
def test_masks_follow_their_images_through_any_order(
    build: Callable[..., GroupFolder], seed: int
) -> None:
    folder = build({"is_object": False, "pairs": [pair(0.1, common=[LEG, SEAT], unique=ALONE)]})
    own = {
        (1, "chair"): 1, (2, "stool"): 11, (1, "leg"): 2, (2, "leg"): 12, (1, "seat"): 3,
        (2, "seat"): 13, (1, "back"): 4, (1, "arm"): 5, (2, "rung"): 14,
    }  # fmt: skip
    for sample in list_samples(folder, most_objects=4):
        written = write_sample(folder, sample, random.Random(seed))
        parsed = parse_answer(sample.kind, written.answer)
        assert parsed.malformed == 0
        named = [(slot, phrase.label) for phrase in parsed.phrases for slot in phrase.images]
        assert [slot for slot, _ in named] == [mask.slot for mask in written.masks]
        for (slot, label), mask in zip(named, written.masks, strict=True):
            assert (mask.mask == square(own[written.image_ids[slot], label] % 6)).all()
        if sample.kind is RegionKind.UNIQUE_PART:
            slots = [m.slot for m in written.masks[2:]]
            assert slots == sorted(slots)


def test_two_images_are_swapped_half_the_time(build: Callable[..., GroupFolder]) -> None:
    folder = build({"is_object": False, "pairs": [pair(0.1, common=[LEG])]})
    (sample,) = list_samples(folder, most_objects=4)
    swapped = [
        write_sample(folder, sample, random.Random(n)).image_ids == (2, 1) for n in range(200)
    ]
    assert 70 < sum(swapped) < 130
    assert write_sample(folder, sample, None).image_ids == (1, 2)
