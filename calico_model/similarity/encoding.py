"""A photograph as one vector: what it shows, in the terms of the frozen photo trunk.

The vector is the mean of the trunk's last map over the whole picture, which is what its own
classifier reads. A picture keeps its proportions, which tell a bus from a stool.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from calico_model.modeling.photo_trunk import load_photo_trunk, weights_file
from calico_model.types import RgbImage, Vector

SIDE = 256
"""Pictures are encoded at the area of a square with this side, in pixels."""

_STRIDE, _LEAST = 32, 64
_KIND = "efficientnet-lite2"
ENCODER = f"{_KIND}/{SIDE}/mean/1"
"""Names what the vectors mean; vectors of different names must not be compared."""


class PhotoEncoder:
    """Encodes photographs; may be called by several threads at once.

    Raises:
        CheckpointError: the weights of the photo trunk are missing or damaged.
    """

    def __init__(self) -> None:
        self._trunk = load_photo_trunk(_KIND, weights_file(_KIND))

    def vector(self, image: RgbImage) -> Vector:
        """Returns (1280,) float32 of unit length for an (H, W, 3) uint8 picture of any size."""
        height, width = image.shape[:2]
        scale = SIDE / (height * width) ** 0.5
        size = [max(_LEAST, round(scale * side / _STRIDE) * _STRIDE) for side in (width, height)]
        scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(scaled).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            mean = self._trunk(pixels)[-1].mean((2, 3))[0].numpy()
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
