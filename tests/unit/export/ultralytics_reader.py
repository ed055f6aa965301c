"""Reads a YOLO data set with ultralytics and writes what it found; run as a program of its own.

`python ultralytics_reader.py DATA.yaml OUT.npz`. Its own process, because ultralytics changes the
settings of its libraries, and because it asks for torchvision, which only an empty package stands
for here: reading labels does not need it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset, polygon2mask


def main(data_file: str, out: str) -> None:
    """Writes one mask per line of the labels, under "split/image/number/label"."""
    data = check_det_dataset(data_file, autodownload=False)
    found: dict[str, np.ndarray] = {}
    for split in ("train", "val"):
        dataset = YOLODataset(
            img_path=data[split], data=data, task="segment", augment=False, imgsz=64
        )
        for item in dataset.labels:
            height, width = item["shape"]
            stem = Path(item["im_file"]).stem
            found[f"{split}/{stem}"] = np.array([height, width])
            pairs = zip(item["cls"].ravel(), item["segments"], strict=True)
            for number, (label, line) in enumerate(pairs):
                mask = polygon2mask((height, width), [(line * (width, height)).ravel()])
                name = data["names"][int(label)]
                found[f"{split}/{stem}/{number}/{name}"] = mask.astype(bool)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
