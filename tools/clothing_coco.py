"""Clothing Co-Parsing (github.com/bearpaw/clothing-co-parsing, Apache-2.0) as COCO part data.

The repository has 1,004 street photographs with a label map each. This writes what
`calico train-photo-refiner` learned the shipped weights from: one annotation per label, category =
label, supercategory = "person". Needs scipy, which the product does not: `pip install scipy`.

    python tools/clothing_coco.py CHECKOUT OUT [--without FILE] [--side 640]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.io import loadmat  # type: ignore[import-not-found,import-untyped,unused-ignore]

_BACKGROUND = 0
_QUALITY = 92


def main() -> None:
    """Reads the command line and writes `annotations.json` and `images/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder with photos/ and annotations/")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--without", type=Path, help="COCO file whose images are left out")
    parser.add_argument("--side", type=int, default=640, help="longest side in pixels")
    options = parser.parse_args()
    left_out = set()
    if options.without is not None:
        known = json.loads(options.without.read_text())
        left_out = {Path(image["file_name"]).stem for image in known["images"]}
    (options.out / "images").mkdir(parents=True)
    names = _label_names(options.checkout)
    images, annotations = [], []
    maps = sorted((options.checkout / "annotations" / "pixel-level").glob("*.mat"))
    for path in maps:
        if path.stem in left_out:
            continue
        photo = cv2.imread(str(options.checkout / "photos" / f"{path.stem}.jpg"))
        labels = loadmat(str(path))["groundtruth"].astype(np.uint8)
        if photo is None or photo.shape[:2] != labels.shape:
            print(f"{path.stem}: photo and label map do not fit, left out")
            continue
        scale = min(1.0, options.side / max(labels.shape))
        size = round(labels.shape[1] * scale), round(labels.shape[0] * scale)
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        image_id = len(images) + 1
        name = f"{path.stem}.jpg"
        cv2.imwrite(str(options.out / "images" / name), photo, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for label in np.unique(labels):
            if label == _BACKGROUND:
                continue
            mask = np.asfortranarray(labels == label).astype(np.uint8)
            rle = coco_mask.encode(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label),
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": [float(side) for side in coco_mask.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
        if len(images) % 100 == 0:
            print(f"{len(images)} of {len(maps)} photographs", flush=True)
    categories = [
        {"id": number, "name": name, "supercategory": "person"}
        for number, name in enumerate(names)
        if number != _BACKGROUND
    ]
    found = {"images": images, "annotations": annotations, "categories": categories}
    (options.out / "annotations.json").write_text(json.dumps(found))
    print(f"{len(images)} photographs, {len(annotations)} masks in {options.out}")


def _label_names(checkout: Path) -> list[str]:
    """Name of every number of a label map."""
    cells = loadmat(str(checkout / "label_list.mat"))["label_list"][0]
    return [str(cell[0]) for cell in cells]


if __name__ == "__main__":
    main()
