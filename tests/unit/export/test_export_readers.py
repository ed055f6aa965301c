"""Drawn groups, exported in every format and read back by the tools the formats are for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from backend.label_studio.label_config import parse_label_config
from backend.label_studio.result import render_prediction
from calico_model.data.groups import read_groups
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.masks import mask_iou
from calico_model.types import GroupPrediction, PartMask, RegionKind
from tests.unit.export.fake_studio import FakeStudio, config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ULTRALYTICS = Path(sys.prefix) / "ultralytics"
TORCHVISION = "0.28.0"  # the one that goes with our torch, so that ultralytics does not warn
GROUPS, SIZE_PX = 5, 160


def is_plain(mask):
    """Whether a mask is in one piece and has no hole."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return len(lines) == 1


@pytest.fixture(scope="module")
def drawn_groups(tmp_path_factory):
    """Groups of drawn pictures with their truth."""
    folder = tmp_path_factory.mktemp("drawn")
    sizes = {"group_sizes": (2, 3), "size_px": SIZE_PX}
    write_groups(folder, groups=GROUPS, seed=5, split=SceneSplit.SEEN, **sizes)
    return list(read_groups(folder))


@pytest.fixture
def studio(drawn_groups, tmp_path):
    """A project in which somebody drew exactly the truth of every group, and one ring."""
    labels = sorted({part.label for group in drawn_groups for part in group.parts})
    studio = FakeStudio(config(*labels, "ring", "never drawn"))
    schema = parse_label_config(studio.label_config)
    for number, group in enumerate(drawn_groups):
        urls = [f"/{number}/photo_{index}.png" for index in range(len(group.group))]
        for url, pixels in zip(urls, group.group.images, strict=True):
            path = tmp_path / "picture.png"
            Image.fromarray(pixels).save(path)
            studio.files[url] = path.read_bytes()
        parts = group.parts
        if number == 0:
            parts += (PartMask(0, RegionKind.UNIQUE_PART, "ring", ring()),)
        truth = GroupPrediction(parts, "truth")
        rendered = render_prediction(truth, schema, sizes_hw=group.group.sizes_hw)
        studio.annotate(studio.add_task(*urls), json.loads(rendered.result))
    return studio


def ring():
    """(H, W) bool with a hole, and a second piece."""
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    distance = np.hypot(rows - 60, columns - 60)
    return (distance < 40) & (distance > 20) | (np.hypot(rows - 140, columns - 140) < 10)


def truth_of(studio, drawn_groups, folder):
    """The drawn masks as {(image stem, label): [mask, ...]}."""
    found = {}
    groups = json.loads((folder / "groups.json").read_text())
    for written, group in zip(groups, drawn_groups, strict=True):
        for part in group.parts:
            stem = written["images"][part.image_index].rpartition(".")[0]
            found.setdefault((stem, part.label), []).append(part.mask)
    found.setdefault((groups[0]["images"][0].rpartition(".")[0], "ring"), []).append(ring())
    return found


def best_ious(truth, read):
    """For each drawn mask, the IoU of the best mask that was read under its label and image."""
    assert set(read) == set(truth)
    assert {key: len(masks) for key, masks in read.items()} == {
        key: len(masks) for key, masks in truth.items()
    }
    return [
        (mask, max(mask_iou(mask, other) for other in read[key]))
        for key, masks in truth.items()
        for mask in masks
    ]


def coco_masks(folder):
    coco = COCO(str(folder / "annotations.json"))
    read = {}
    for found in coco.anns.values():
        stem = coco.imgs[found["image_id"]]["file_name"].rpartition(".")[0]
        name = coco.cats[found["category_id"]]["name"]
        mask = coco.annToMask(found).astype(bool)
        assert np.allclose(found["bbox"], box_of(mask), atol=1)
        read.setdefault((stem, name), []).append(mask)
    return read


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_pycocotools_reads_the_drawn_masks(studio, drawn_groups, tmp_path, monkeypatch):
    studio.exported(monkeypatch, "coco", tmp_path / "rle")
    compared = best_ious(
        truth_of(studio, drawn_groups, tmp_path / "rle"), coco_masks(tmp_path / "rle")
    )
    assert min(found for _, found in compared) == 1.0
    summary = studio.exported(monkeypatch, "coco", tmp_path / "polygons", "--polygons")
    compared = best_ious(
        truth_of(studio, drawn_groups, tmp_path / "polygons"), coco_masks(tmp_path / "polygons")
    )
    assert min(found for _, found in compared) >= 0.97
    assert np.mean([found for _, found in compared]) >= 0.99
    assert summary["with_holes"] >= 1


def test_voc_pictures_hold_the_drawn_masks(studio, drawn_groups, tmp_path, monkeypatch):
    studio.exported(monkeypatch, "voc-png", tmp_path / "out")
    labels = (tmp_path / "out" / "labels.txt").read_text().splitlines()
    truth = truth_of(studio, drawn_groups, tmp_path / "out")
    lists = tmp_path / "out" / "ImageSets" / "Segmentation"
    stems = {name: set((lists / f"{name}.txt").read_text().split()) for name in ("train", "val")}
    assert stems["train"] | stems["val"] == {stem for stem, _ in truth}
    assert not stems["train"] & stems["val"]
    for stem in stems["train"] | stems["val"]:
        classes = np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / f"{stem}.png"))
        masks = [(label, m) for (at, label), ms in truth.items() if at == stem for m in ms]
        for label, mask in masks:
            smaller = [m for _, m in masks if m.sum() < mask.sum()]
            # What no smaller region covers is there as it was drawn.
            visible = mask & ~np.logical_or.reduce([np.zeros_like(mask), *smaller])
            assert (classes[visible] == labels.index(label)).mean() >= 0.99


def test_our_own_reader_reads_the_drawn_masks(studio, drawn_groups, tmp_path, monkeypatch):
    studio.exported(monkeypatch, "mixedparts", tmp_path / "out")
    read = [
        (part.label, part.mask) for group in read_groups(tmp_path / "out") for part in group.parts
    ]
    for group in drawn_groups:
        for part in group.parts:
            assert any(
                label == part.label and np.array_equal(mask, part.mask) for label, mask in read
            )


@pytest.fixture
def yolo(studio, tmp_path, monkeypatch):
    """The summary of a YOLO export, and what ultralytics reads: {"split/image/...": array}."""
    assert ULTRALYTICS.is_dir(), "ultralytics is missing; `make test` installs it"
    summary = studio.exported(monkeypatch, "yolo-seg", tmp_path / "out")
    empty = tmp_path / "empty"
    (empty / "torchvision").mkdir(parents=True)
    (empty / "torchvision" / "__init__.py").write_text(f'__version__ = "{TORCHVISION}"\n')
    (empty / f"torchvision-{TORCHVISION}.dist-info").mkdir()
    (empty / f"torchvision-{TORCHVISION}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torchvision\nVersion: {TORCHVISION}\n"
    )
    settings = tmp_path / "settings"
    (settings / "Ultralytics").mkdir(parents=True)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # Present, so that nothing is asked for over the network.
    shutil.copy(fonts / "DejaVuSans.ttf", settings / "Ultralytics" / "Arial.ttf")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ULTRALYTICS), str(empty))),
        "YOLO_CONFIG_DIR": str(settings),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
    }
    script = [sys.executable, str(Path(__file__).with_name("ultralytics_reader.py"))]
    arguments = [str(tmp_path / "out" / "data.yaml"), str(tmp_path / "read.npz")]
    done = subprocess.run(
        [*script, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "corrupt" not in done.stdout.replace("0 corrupt", ""), done.stdout
    with np.load(tmp_path / "read.npz") as read:
        return summary, dict(read)


def test_ultralytics_reads_the_drawn_masks(yolo, studio, drawn_groups, tmp_path):
    summary, found = yolo
    stems = {key.split("/")[1] for key in found if key.count("/") == 1}
    assert len(stems) == len(studio.files) == summary["train"] + summary["val"]
    read = {}
    for key, mask in found.items():
        if key.count("/") == 3:
            _, stem, _, label = key.split("/")
            read.setdefault((stem, label), []).append(mask)
    truth = truth_of(studio, drawn_groups, tmp_path / "out")
    compared = best_ious(truth, read)
    plain = [found for mask, found in compared if is_plain(mask)]
    assert len(plain) > 20
    assert min(plain) >= 0.97
    # A line joins pieces and holes. It adds pixels, but hides none.
    joined = [(key, mask) for key, masks in truth.items() for mask in masks if not is_plain(mask)]
    assert len(joined) >= 5
    for key, mask in joined:
        assert max((other & mask).sum() for other in read[key]) >= 0.97 * mask.sum()
    ious = [found for _, found in compared]
    # The loss that the command reports is the one that ultralytics has.
    assert summary["outline_iou_min"] == pytest.approx(min(ious), abs=0.002)
    assert summary["coarse"] == sum(found < 0.97 for found in ious)
    # And no task is on both sides.
    sides = {key.split("/")[1]: key.split("/")[0] for key in found if key.count("/") == 1}
    assert set(sides.values()) == {"train", "val"}
    for group in json.loads((tmp_path / "out" / "groups.json").read_text()):
        assert len({sides[name.rpartition(".")[0]] for name in group["images"]}) == 1
