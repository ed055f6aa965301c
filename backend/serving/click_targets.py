"""Which region of the canvas a click or box means, and which prompts belong together.

Label Studio sends positions, not the selected region. A click inside regions of its label means the
smallest of them; a box means the region it fits; a click beside all regions means the region that
it would outline again. Pure; masks are compared by their runs and stay undecoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backend.errors import InvalidRleError
from backend.rle import iou_of, length_of, runs_of
from backend.types import Prompt, Region
from calico_model.types import PartMask, RegionKind
from calico_model.vocabulary import Vocabulary, name_of

_SAME_BOX, _SAME_MASK = 0.7, 0.5  # IoU from which two are one region


@dataclass(frozen=True)
class PromptChain:
    """Prompts that mean one region: the first one, then those that correct it."""

    prompts: tuple[Prompt, ...]

    @property
    def first(self) -> Prompt:
        """The prompt that decides which region is meant."""
        return self.prompts[0]


def prompt_chains(prompts: Sequence[Prompt]) -> tuple[PromptChain, ...]:
    """Groups successive prompts of one image and label; a box begins another region."""
    chains: list[list[Prompt]] = []
    for prompt in prompts:
        if chains and prompt.is_click and _is_same_subject(chains[-1][0], prompt):
            chains[-1].append(prompt)
        else:
            chains.append([prompt])
    return tuple(PromptChain(tuple(chain)) for chain in chains)


def prompted_region(
    prompt: Prompt,
    regions: Sequence[Region],
    size_hw: tuple[int, int],
    vocabulary: Vocabulary | None = None,
) -> Region | None:
    """Returns the region that a click lies in or a box fits; None if there is none.

    Args:
        prompt: a click or a box.
        regions: of the whole canvas.
        size_hw: of the image; regions of another size are not looked at.
        vocabulary: the labels that regions may have; None where any text may be written.
    """
    candidates = list(_candidates(prompt, regions, size_hw, vocabulary))
    if prompt.is_click:
        position = _position(prompt, size_hw)
        under = [region for region in candidates if _covers(region, position)]
        return min(under, key=_area, default=None)
    fits = [(_box_iou(region, prompt.box), region) for region in candidates]
    best = max(fits, key=lambda item: item[0], default=(0.0, None))
    return best[1] if best[0] >= _SAME_BOX else None


def overlapping_region(
    part: PartMask, regions: Sequence[Region], vocabulary: Vocabulary | None = None
) -> Region | None:
    """Returns the region of the canvas that has a part's label and most of its pixels, or None."""
    height, width = part.mask.shape
    candidates = list(_candidates(part, regions, (height, width), vocabulary))
    if not candidates:
        return None
    runs = runs_of(part.mask)
    overlaps = ((iou_of(runs, region.runs, least=_SAME_MASK), region) for region in candidates)
    iou, best = max(overlaps, key=lambda pair: pair[0])
    return best if iou >= _SAME_MASK else None


def _candidates(
    wanted: Prompt | PartMask,
    regions: Sequence[Region],
    size_hw: tuple[int, int],
    vocabulary: Vocabulary | None,
) -> Iterator[Region]:
    """Yields the readable regions of the image that may have the wanted kind and label."""
    for region in regions:
        if region.image_index != wanted.image_index or region.size_hw != size_hw:
            continue
        if _differ(wanted.kind, region.kind):
            continue
        if _differ_in_name(wanted.label, region.labels, vocabulary):
            continue
        try:
            if len(region.runs):
                yield region
        except InvalidRleError:
            continue


def _is_same_subject(first: Prompt, prompt: Prompt) -> bool:
    return (first.image_index, first.kind, first.label) == (
        prompt.image_index,
        prompt.kind,
        prompt.label,
    )


def _differ(kind: RegionKind | None, other: RegionKind | None) -> bool:
    """Whether two kinds are known and different."""
    return kind is not None and other is not None and kind != other


def _differ_in_name(
    wanted: str | None, labels: Sequence[str], vocabulary: Vocabulary | None
) -> bool:
    """Whether a wanted label and a region's labels are known and different."""
    names = [name_of(label, vocabulary) for label in labels if label]
    return bool(wanted and names) and name_of(wanted or "", vocabulary) not in names


def _position(prompt: Prompt, size_hw: tuple[int, int]) -> int:
    """Returns the row-major index of the pixel under a click, of the edge outside the image."""
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
