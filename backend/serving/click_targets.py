"""Which region of the canvas a click or box is about, and which prompts belong together.

Label Studio sends places, not what is selected. A place inside a region of the same label means
that region, the smallest one; a box means the region it fits; a click beside all of them means the
region it would outline anew. Pure; masks are compared by their runs and stay undecoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backend.errors import InvalidRleError
from backend.rle import iou_of, length_of, runs_of
from backend.types import Prompt, Region
from calico_model.types import PartMask
from calico_model.vocabulary import Vocabulary, name_of

_SAME_BOX, _SAME_MASK = 0.7, 0.5  # IoU from which two are one thing


@dataclass(frozen=True)
class Chain:
    """Prompts that mean one region: what came first, then what corrects it."""

    prompts: tuple[Prompt, ...]

    @property
    def first(self) -> Prompt:
        """The prompt that says which region is meant."""
        return self.prompts[0]


def chains(prompts: Sequence[Prompt]) -> tuple[Chain, ...]:
    """Groups prompts of one image and label; a box begins another region."""
    found: list[list[Prompt]] = []
    for prompt in prompts:
        if found and prompt.is_click and _is_same_ask(found[-1][0], prompt):
            found[-1].append(prompt)
        else:
            found.append([prompt])
    return tuple(Chain(tuple(some)) for some in found)


def pointed_at(
    prompt: Prompt,
    regions: Sequence[Region],
    size_hw: tuple[int, int],
    vocabulary: Vocabulary | None = None,
) -> Region | None:
    """Returns the region that a prompt lies in or, as a box, fits; None if there is none.

    Args:
        prompt: of an image.
        regions: of the whole canvas.
        size_hw: of the image; regions of another size are not looked at.
        vocabulary: the labels that regions may have; None where any text may be written.
    """
    near = list(_candidates(prompt, regions, size_hw, vocabulary))
    if prompt.is_click:
        place = _position(prompt, size_hw)
        under = [region for region in near if _covers(region, place)]
        return min(under, key=_area, default=None)
    fits = [(_box_iou(region, prompt.box), region) for region in near]
    best = max(fits, key=lambda item: item[0], default=(0.0, None))
    return best[1] if best[0] >= _SAME_BOX else None


def overlapped(
    part: PartMask, regions: Sequence[Region], vocabulary: Vocabulary | None = None
) -> Region | None:
    """Returns the region of the canvas that shows a part of its label again, or None."""
    height, width = part.mask.shape
    near = list(_candidates(part, regions, (height, width), vocabulary))
    if not near:
        return None
    own = runs_of(part.mask)
    alike = ((iou_of(own, one.runs, least=_SAME_MASK), one) for one in near)
    iou, best = max(alike, key=lambda pair: pair[0])
    return best if iou >= _SAME_MASK else None


def _candidates(
    asked: Prompt | PartMask,
    regions: Sequence[Region],
    size_hw: tuple[int, int],
    vocabulary: Vocabulary | None,
) -> Iterator[Region]:
    """Regions on the asked image that bear the label, and can be read."""
    for region in regions:
        if region.image_index != asked.image_index or region.size_hw != size_hw:
            continue
        if _differ(asked.kind, region.kind):
            continue
        if _differ_in_name(asked.label, region.labels, vocabulary):
            continue
        try:
            if len(region.runs):
                yield region
        except InvalidRleError:
            continue


def _is_same_ask(one: Prompt, other: Prompt) -> bool:
    return (one.image_index, one.kind, one.label) == (other.image_index, other.kind, other.label)


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _differ_in_name(
    asked: str | None, labels: Sequence[str], vocabulary: Vocabulary | None
) -> bool:
    names = [name_of(label, vocabulary) for label in labels if label]
    return bool(asked and names) and name_of(asked or "", vocabulary) not in names


def _position(prompt: Prompt, size_hw: tuple[int, int]) -> int:
    """Row-major position of the pixel under a click; outside the image, of its edge."""
    height, width = size_hw
    column = min(max(int(prompt.box[0]), 0), width - 1)
    row = min(max(int(prompt.box[1]), 0), height - 1)
    return row * width + column


def _covers(region: Region, position: int) -> bool:
    runs = region.runs
    at = int(np.searchsorted(runs[:, 0], position, side="right")) - 1
    return at >= 0 and position < int(runs[at, 1])


def _area(region: Region) -> int:
    return length_of(region.runs)


def _box_iou(region: Region, box: tuple[float, float, float, float]) -> float:
    width, runs = region.size_hw[1], region.runs
    rows, last_rows = runs[:, 0] // width, (runs[:, 1] - 1) // width
    is_wrapped = last_rows > rows  # such a run reaches both edges of the image
    left = float(np.where(is_wrapped, 0, runs[:, 0] % width).min())
    right = float(np.where(is_wrapped, width, (runs[:, 1] - 1) % width + 1).max())
    top, bottom = float(rows.min()), float(last_rows.max()) + 1
    x0, x1 = sorted((box[0], box[2]))
    y0, y1 = sorted((box[1], box[3]))
    shared = max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, bottom) - max(y0, top))
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared
    return shared / union if union > 0 else 0.0
