"""Small PACO-LVIS, PartImageNet and ADE20K-Part-234 folders, in the formats of their authors.

Pictures are 40 x 30 pixels and regions are boxes (top, bottom, left, right), so every mask is
known without reading a file. `TRUTH` says what a picture shows, by data set and file stem.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from calico_model.data.mixedparts.ade import part_labels
from calico_model.data.mixedparts.folders import SourceFolders
from calico_model.data.mixedparts.source import DatasetName

HEIGHT, WIDTH = 30, 40
Box = tuple[int, int, int, int]
Parts = dict[str, tuple[Box, ...]]
Change = Callable[[Any], None]

CHAIR: Parts = {
    "leg": ((20, 30, 4, 8), (20, 30, 30, 34)),
    "seat": ((14, 20, 4, 34),),
    "back": ((0, 14, 4, 34),),
}
STOOL: Parts = {"leg": ((16, 28, 10, 30),), "seat": ((8, 16, 10, 30),), "step": ((20, 22, 10, 30),)}
ANIMAL: Parts = {"head": ((4, 12, 2, 12),), "body": ((8, 20, 12, 34),)}
WOLF: Parts = {**ANIMAL, "foot": ((20, 28, 14, 18), (20, 28, 28, 32)), "tail": ((8, 10, 34, 40),)}
EAGLE: Parts = {**ANIMAL, "wing": ((0, 8, 16, 30),), "tail": ((12, 14, 34, 40),)}

PACO_SCENES: dict[str, tuple[str, Parts]] = {
    "000000000009": ("chair", CHAIR),
    "000000000025": ("stool", STOOL),
    "000000000030": ("chair", {name: CHAIR[name] for name in ("leg", "seat")}),
}
IMAGENET_SCENES: dict[str, tuple[str, Parts]] = {
    "n02114367_1": ("timber wolf", WOLF),
    "n02114367_2": ("timber wolf", {name: WOLF[name] for name in ("head", "body", "foot")}),
    "n01614925_3": ("bald eagle", EAGLE),
}
ADE_SCENES: dict[str, tuple[str, Parts]] = {
    "00000001": ("chair", CHAIR),
    "00000002": ("stool", {name: STOOL[name] for name in ("leg", "seat")}),
    "00000003": ("chair", {name: CHAIR[name] for name in ("seat", "back")}),
}
TRUTH = {
    DatasetName.PACO_LVIS: PACO_SCENES,
    DatasetName.PART_IMAGE_NET: IMAGENET_SCENES,
    DatasetName.ADE20K_PART_234: ADE_SCENES,
}


def paint(boxes: tuple[Box, ...]) -> np.ndarray:
    """Returns boxes as one mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def object_boxes(parts: Parts) -> tuple[Box, ...]:
    return tuple(box for boxes in parts.values() for box in boxes)


def polygons(boxes: tuple[Box, ...]) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1] for y0, y1, x0, x1 in boxes]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]))).tolist()
    stops = [*edges, flat.size]
    return {"size": list(mask.shape), "counts": np.diff([0, *stops]).tolist()}


def write_paco(folder: Path, coco_folder: Path, change: Change | None = None) -> None:
    """Writes all splits. Objects are polygons or plain RLE, parts compressed RLE."""
    categories = [
        {"id": n, "name": name, "supercategory": "OBJECT"}
        for n, name in enumerate(("chair", "stool", "car_(automobile)"), start=1)
    ]
    names = [f"chair:{name}" for name in CHAIR] + [f"stool:{name}" for name in STOOL]
    categories += [
        {"id": n, "name": name, "supercategory": "PART"}
        for n, name in enumerate([*names, "car_(automobile):wheel"], start=101)
    ]
    ids = {category["name"]: category["id"] for category in categories}
    for split in ("train", "val", "test"):
        images, annotations = [], []
        for n, (stem, (label, parts)) in enumerate(PACO_SCENES.items()):
            image_id = int(stem)
            name = f"{'val' if split == 'test' else 'train'}2017/{stem}.jpg"
            _write_picture(coco_folder / name, n)
            images.append(_image(image_id, name) | {"neg_category_ids": [7], "license": 3})
            whole = paint(object_boxes(parts))
            owner = image_id * 100
            shape = polygons(object_boxes(parts)) if n % 2 else uncompressed(whole)
            annotations.append(
                _annotation(owner, image_id, ids[label], shape, whole) | {"obj_ann_id": owner}
            )
            pieces = [(name, box) for name, boxes in parts.items() for box in boxes]
            for k, (part, box) in enumerate(pieces, start=1):
                mask = paint((box,))
                annotations.append(
                    _annotation(owner + k, image_id, ids[f"{label}:{part}"], compressed(mask), mask)
                    | {"obj_ann_id": owner, "attribute_ids": [3]}
                )
        speck = paint(((0, 2, 0, 3),))  # a car too small to count
        annotations.append(_annotation(7, 9, 3, compressed(speck), speck) | {"obj_ann_id": 7})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
            "attributes": [],
            "part_categories": [],
        }
        _write_json(folder / "annotations" / f"paco_lvis_v1_{split}.json", content, change)


def write_partimagenet(
    folder: Path, change_whole: Change | None = None, change_parts: Change | None = None
) -> None:
    """Writes all splits; the two files of a split number images differently."""
    whole_ids = {"timber wolf": 5, "bald eagle": 9}
    part_names = [f"Quadruped {n.title()}" for n in WOLF] + [f"Bird {n.title()}" for n in EAGLE]
    part_ids = {name: n for n, name in enumerate(part_names)}
    for split in ("train", "val", "test"):
        whole: dict[str, Any] = {"images": [], "annotations": []}
        pieces: dict[str, Any] = {"images": [], "annotations": []}
        for n, (stem, (label, parts)) in enumerate(IMAGENET_SCENES.items()):
            name = f"{stem}.JPEG"
            _write_picture(folder / "images" / split / name, n, suffix=".jpg")
            whole["images"].append(_image(n, name))
            pieces["images"].append(_image(40 - n, name))
            boxes = object_boxes(parts)
            whole["annotations"].append(
                _annotation(n, n, whole_ids[label], polygons(boxes), paint(boxes))
            )
            family = "Quadruped" if label == "timber wolf" else "Bird"
            for part, own in parts.items():
                # The published files have polygons of one and two points among the others.
                shape = [*polygons(own), [3.0, 3.0], [1.0, 1.0, 9.0, 9.0]]
                category = part_ids[f"{family} {part.title()}"]
                ann_id = len(pieces["annotations"])
                pieces["annotations"].append(
                    _annotation(ann_id, 40 - n, category, shape, paint(own))
                )
        whole["categories"] = [
            {"id": 5, "name": "timber_wolf", "supercategory": "Quadruped"},
            {"id": 9, "name": "Bald_Eagle", "supercategory": "Bird"},
        ]
        pieces["categories"] = [
            {"id": n, "name": name, "supercategory": name.split()[0]}
            for name, n in part_ids.items()
        ]
        base = folder / "annotations"
        _write_json(base / f"{split}_whole" / f"{split}.json", whole, change_whole)
        _write_json(base / split / f"{split}.json", pieces, change_parts)


def write_ade(folder: Path, change: Change | None = None) -> None:
    """Writes both splits: objects as RLE, parts as labels of 16-bit PNGs."""
    for split, subfolder in (("train", "training"), ("val", "validation")):
        images, annotations = [], []
        for n, (stem, (label, parts)) in enumerate(ADE_SCENES.items(), start=1):
            name = f"ADE_{split}_{stem}.jpg"
            _write_picture(folder / "images" / subfolder / name, n)
            images.append(_image(n, name))
            labels = np.full((HEIGHT, WIDTH), 65535, np.uint16)
            # What lies outside the object has its labels too: it is of another instance.
            labels[29, 0:3] = ade_label(label, "leg")
            for part, boxes in parts.items():
                labels[paint(boxes)] = ade_label(label, part)
            if "00000001" in stem:
                labels[14:16, 4:34] = ade_label("chair", "seat cushion")
            path = folder / "annotations_detectron2_part" / subfolder / f"ADE_{split}_{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), labels)
            whole = paint(object_boxes(parts))
            category = {"chair": 8, "stool": 34}[label]
            annotations.append(_annotation(n, n, category, compressed(whole), whole))
        annotations[1]["part_category_id"] = [ade_label("stool", part) for part in ("leg", "seat")]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 8, "name": "chair"}, {"id": 34, "name": "stool"}],
        }
        _write_json(folder / f"ade20k_instance_{split}.json", content, change)


def write_sources(root: Path) -> SourceFolders:
    """Writes all three under `root`, in the folders of the MixedParts release."""
    base = root / "Part_Segm"
    write_paco(base / "paco_lvis", root / "coco_2017")
    write_partimagenet(base / "PartImageNet")
    write_ade(base / "ADE20KPart234")
    return SourceFolders(
        {
            DatasetName.PACO_LVIS: base / "paco_lvis",
            DatasetName.PART_IMAGE_NET: base / "PartImageNet",
            DatasetName.ADE20K_PART_234: base / "ADE20KPart234",
        },
        root / "coco_2017",
    )


def ade_label(label: str, part: str) -> int:
    return part_labels().index((label, part))


def _image(image_id: int, name: str) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT}


def _annotation(
    ann_id: int, image_id: int, category_id: int, shape: object, mask: np.ndarray
) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": shape,
        "area": float(mask.sum()),
        "bbox": [int(columns[0]), int(rows[0]), len(columns), len(rows)],
        "iscrowd": 0,
    }


def _write_picture(path: Path, number: int, suffix: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)
    path.write_bytes(cv2.imencode(suffix or path.suffix, pixels)[1].tobytes())


def _write_json(path: Path, content: dict[str, Any], change: Change | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if change is not None:
        change(content)
    path.write_text(json.dumps(content))
