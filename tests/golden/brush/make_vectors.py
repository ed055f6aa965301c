"""Writes vectors.json with label_studio_sdk; run by a python that has it (`make_vectors.py`)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:60, :80]
    found = {f"noise {i}": rng.random(rng.integers(1, 40, 2)) < rng.random() for i in range(24)}
    found["ellipse"] = ((x - 40) / 30) ** 2 + ((y - 30) / 20) ** 2 < 1
    found["empty"] = np.zeros((5, 7), bool)
    found["full"] = np.ones((5, 7), bool)
    found["one pixel in"] = np.ones((1, 1), bool)
    found["one pixel out"] = np.zeros((1, 1), bool)
    for width in (1, 2, 3, 4, 5, 16, 63, 64, 65, 16383, 16384, 16385, 16386, 32769):
        found[f"runs of {width}"] = np.arange(3 * width).reshape(1, -1) // width % 2 == 1
    return found


def main() -> None:
    encoded = [
        {
            "name": name,
            "size_hw": list(mask.shape),
            "mask": text(np.packbits(mask).tobytes()),
            "rle": text(bytes(mask2rle(mask.astype(np.uint8) * 255))),
        }
        for name, mask in masks().items()
    ]
    rng = np.random.default_rng(21)
    coloured = []
    for index in range(12):  # four different channels, partial alpha: as the editor stores strokes
        height, width = rng.integers(1, 24, 2)
        pixels = np.zeros((height, width, 4), np.uint8)
        pixels[rng.random((height, width)) < 0.6] = (214, 39, 40, 255)
        soft = rng.random((height, width)) < 0.3
        pixels[soft, 3] = rng.integers(0, 256, soft.sum())
        rle = encode_rle(pixels.ravel())
        alpha = decode_rle(rle).reshape(height, width, 4)[:, :, 3]
        coloured.append(
            {
                "name": f"stroke {index}",
                "size_hw": [int(height), int(width)],
                "mask": text(np.packbits(alpha >= 128).tobytes()),
                "rle": text(bytes(rle)),
            }
        )
    vectors = {"encoded": encoded, "coloured": coloured}
    Path(__file__).with_name("vectors.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
