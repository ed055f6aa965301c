"""Colours and hotkeys of a labeling config's labels.

Colours differ as much as possible for the human eye, so that neighbours on a photograph can be told
apart.
Hotkeys are the same on every image, and none of them is the key of one of the editor's tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

NO_HOTKEY = "–"
"""A key no keyboard sends. Without any key, the editor would choose one that a tool has already."""

# Taken by the editor: b, e, h, k, m, o, p, r, v, w (tools), u (unselect), shift+1 and 2 (zoom).
_KEYS = "1234567890qtasdfgzxcyijln"
_ZOOM_KEYS = ("shift+1", "shift+2")
_CANDIDATE_HUES = range(0, 360, 10)
_CANDIDATE_TONES = tuple(product((0.45, 0.7, 1.0), (0.6, 0.8, 0.95)))
# The first colour, and what photographs and the page are full of.
_FIRST = (31, 119, 180)
_AVOIDED = ((0, 0, 0), (128, 128, 128), (255, 255, 255))


def hotkeys(count: int) -> tuple[str, ...]:
    """Returns one key for each label, NO_HOTKEY where single keys and Shift are used up."""
    shifted = (f"shift+{key}" for key in _KEYS)
    keys = [*_KEYS, *(key for key in shifted if key not in _ZOOM_KEYS)]
    return (*keys[:count], *[NO_HOTKEY] * (count - len(keys)))


@lru_cache(maxsize=8)
def colours(count: int) -> tuple[str, ...]:
    """Returns colours as "#rrggbb": each is the one farthest from all before it in CIELAB.

    A longer palette begins with the shorter one, so a label that is added changes no colour.
    After some three hundred, colours repeat.
    """
    rgb = _candidates()
    lab = _to_lab(rgb)
    distance = _distances(lab, _to_lab(np.array(_AVOIDED, np.float32) / np.float32(255))).min(
        axis=1
    )
    chosen: list[int] = []
    for place in range(min(count, len(rgb))):
        index = 0 if place == 0 else int(distance.argmax())
        chosen.append(index)
        distance = np.minimum(distance, _distances(lab, lab[index : index + 1])[:, 0])
    texts = [_hex(rgb[index]) for index in chosen]
    return tuple(texts[place % len(texts)] for place in range(count))


def _candidates() -> NDArray[np.float32]:
    """Returns (N, 3) float32 RGB in 0..1: the first colour, then all hues in nine tones."""
    hsv = [
        (hue, saturation, value)
        for hue in _CANDIDATE_HUES
        for saturation, value in _CANDIDATE_TONES
    ]
    rgb = cv2.cvtColor(np.array([hsv], np.float32), cv2.COLOR_HSV2RGB)[0]
    return np.vstack([np.array([_FIRST], np.float32) / 255, rgb]).astype(np.float32)


def _to_lab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns CIELAB (N, 3) float32 of RGB (N, 3) in 0..1."""
    return np.asarray(cv2.cvtColor(rgb[None], cv2.COLOR_RGB2LAB)[0], np.float32)


def _distances(lab: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the (N, M) float32 distances of every colour to every other."""
    return np.asarray(np.linalg.norm(lab[:, None] - others[None], axis=2), np.float32)


def _hex(rgb: Sequence[float] | NDArray[np.float32]) -> str:
    red, green, blue = (round(float(channel) * 255) for channel in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"
