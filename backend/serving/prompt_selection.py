"""Which regions of a group's prediction a click or box picks, where nothing is outlined anew.

Pure. A position on one image picks a thing; the answer is that thing on every image of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.types import Prompt
from calico_model.masks import extent_of
from calico_model.types import GroupPrediction, PartMask

_MIN_BOX_IOU = 0.1


def select_prompted(prediction: GroupPrediction, prompts: Sequence[Prompt]) -> GroupPrediction:
    """Returns the regions that the prompts point at, on every image that shows them.

    A positive prompt picks the smallest region under the click, or the region that fits the box
    best; a negative click leaves out every region under it. The label picked by the annotator is
    echoed on all of them, because the editor would overwrite it on the clicked image alone.
    """
    picked: dict[int, PartMask] = {}
    for prompt in prompts:
        if prompt.is_positive and (target := _target(prediction, prompt)) is not None:
            for index, part in enumerate(prediction.parts):
                if part is target or _is_same(part, target):
                    picked[index] = _relabelled(part, prompt)
    excluded = [prompt for prompt in prompts if not prompt.is_positive]
    kept = tuple(
        part for _, part in sorted(picked.items()) if not any(_covers(part, p) for p in excluded)
    )
    return replace(prediction, parts=kept)


def _target(prediction: GroupPrediction, prompt: Prompt) -> PartMask | None:
    parts = [
        part
        for part in prediction.of_image(prompt.image_index)
        if prompt.kind is None or part.kind is prompt.kind
    ]
    if prompt.is_click:
        under = [part for part in parts if _covers(part, prompt)]
        return min(under, key=lambda part: int(part.mask.sum()), default=None)
    best = max(parts, key=lambda part: _box_iou(part, prompt), default=None)
    return best if best is not None and _box_iou(best, prompt) >= _MIN_BOX_IOU else None


def _covers(part: PartMask, prompt: Prompt) -> bool:
    if part.image_index != prompt.image_index:
        return False
    height, width = part.mask.shape
    x = min(max(int((prompt.box[0] + prompt.box[2]) / 2), 0), width - 1)
    y = min(max(int((prompt.box[1] + prompt.box[3]) / 2), 0), height - 1)
    return bool(part.mask[y, x])


def _box_iou(part: PartMask, prompt: Prompt) -> float:
    extent = extent_of(part.mask)
    if extent is None:
        return 0.0
    x0, y0, x1, y1 = prompt.box
    left, top, right, bottom = extent
    shared = max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, bottom) - max(y0, top))
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared
    return shared / union if union > 0 else 0.0


def _is_same(part: PartMask, target: PartMask) -> bool:
    return target.part_id is not None and part.part_id == target.part_id


def _relabelled(part: PartMask, prompt: Prompt) -> PartMask:
    return replace(part, kind=prompt.kind or part.kind, label=prompt.label or part.label)
