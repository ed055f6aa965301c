"""Small groups as examples: drawn pictures seen by the micro model."""

from __future__ import annotations

import numpy as np
import torch

from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.synthetic import draw_group, labeled_group
from calico_model.inference.images import to_pixels
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.training.online.example import Example, example_of
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind

SIZE_PX = 64


def drawn(split: SceneSplit, index: int, *, seed: int = 3, size: int = 2) -> LabeledGroup:
    rng = group_rng(Stream.EVALUATION, seed, index)
    return labeled_group(draw_group(rng, split=split, group_size=size, size_px=SIZE_PX))


@torch.no_grad()
def encoded(model: Calico, group: ImageGroup) -> ImageFeatures:
    return model.encode(to_pixels(group.images, model.config))


def examples(model: Calico, split: SceneSplit, count: int) -> tuple[Example, ...]:
    groups = [drawn(split, index) for index in range(count)]
    return tuple(
        example_of(one, encoded(model, one.group), f"{split}/{number}")
        for number, one in enumerate(groups)
    )


def part(
    label: str,
    image: int = 0,
    kind: RegionKind = RegionKind.COMMON_PART,
    *,
    box: tuple[int, int, int, int] = (8, 24, 8, 24),
) -> PartMask:
    mask = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return PartMask(image, kind, label, mask)
