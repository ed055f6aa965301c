"""A prediction on disk: overlays for people, prediction.json and coco.json for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from calico_model.overlay import contact_sheet, draw_overlay
from calico_model.types import BoolMask, GroupPrediction, ImageGroup


def write_prediction(
    folder: Path, files: Sequence[Path], group: ImageGroup, prediction: GroupPrediction
) -> None:
    """Writes one overlay per image, sheet.png, prediction.json and coco.json.

    Args:
        folder: made if missing; files of the same names are replaced.
        files: the file of each image.
        group: the images.
        prediction: of the model for the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlays = draw_overlay(group, prediction)
    for name, picture in zip(group.ids, overlays, strict=True):
        Image.fromarray(picture).save(folder / f"{name}_overlay.png")
    Image.fromarray(contact_sheet([overlays])).save(folder / "sheet.png")
    documents = {
        "prediction.json": as_document(files, group, prediction),
        "coco.json": as_coco(files, group, prediction),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def as_document(
    files: Sequence[Path], group: ImageGroup, prediction: GroupPrediction
) -> dict[str, Any]:
    """Returns all regions of the prediction with the model's own texts; `image` is 0-based."""
    return {
        "version": prediction.version,
        "images": [
            {"id": name, "file": str(file), "height": height, "width": width}
            for name, file, (height, width) in zip(group.ids, files, group.sizes_hw, strict=True)
        ],
        "regions": [
            {
                "image": part.image_index,
                "kind": str(part.kind),
                "label": part.label,
                "object_label": part.object_label,
                "part_id": part.part_id,
                "score": round(part.score, 4),
            }
            | _shape(part.mask)
            for part in prediction.parts
        ],
        "answers": dict(prediction.answers),
    }


def as_coco(
    files: Sequence[Path], group: ImageGroup, prediction: GroupPrediction
) -> dict[str, Any]:
    """The same as a COCO data set: one category per label, ids from 1.

    What COCO has no field for (kind, score, part_id, object_label) stands beside it in each
    annotation, where its readers ignore it.
    """
    labels = list(dict.fromkeys(part.label for part in prediction.parts))
    names = _names_of(files)
    return {
        "info": {"description": "CALICO prediction", "version": prediction.version},
        "images": [
            {"id": index, "file_name": name, "height": height, "width": width}
            for index, (name, (height, width)) in enumerate(
                zip(names, group.sizes_hw, strict=True), start=1
            )
        ],
        "categories": [{"id": index, "name": label} for index, label in enumerate(labels, start=1)],
        "annotations": [
            {
                "id": index,
                "image_id": part.image_index + 1,
                "category_id": labels.index(part.label) + 1,
                "iscrowd": 0,
                "kind": str(part.kind),
                "score": round(part.score, 4),
                "part_id": part.part_id,
                "object_label": part.object_label,
            }
            | _shape(part.mask)
            for index, part in enumerate(prediction.parts, start=1)
        ],
    }


def _names_of(files: Sequence[Path]) -> list[str]:
    """Names of the files, with as much of their folders as tells different ones apart."""
    whole = [file.absolute() for file in files]
    if len({file.name for file in whole}) == len(set(whole)):
        return [file.name for file in whole]
    shared = Path(os.path.commonpath([file.parent for file in whole]))
    return [file.relative_to(shared).as_posix() for file in whole]


def _shape(mask: BoolMask) -> dict[str, Any]:
    """COCO run lengths, area in pixels and box as left, top, width, height."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = mask.shape
    return {
        "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
        "area": int(np.count_nonzero(mask)),
        "bbox": [float(side) for side in coco_mask.toBbox(encoded)],
    }
