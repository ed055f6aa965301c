"""The stand-in for a model that tests build theirs from: it answers everything, and finds nothing.

A test that is about one answer overrides that method alone. Torch is imported only where an answer
needs it: servers that tests start and kill by the hundred do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calico_model.errors import CheckpointError
from calico_model.interactive.naming.closed_set import Named
from calico_model.types import GroupPrediction, PartMask, RegionKind, Vector

if TYPE_CHECKING:
    from calico_model.interactive.clicks import Refined
    from calico_model.interactive.propagate.transfer import Proposal
    from calico_model.interactive.referring import Reference


class ModelDouble:
    """Fulfils `AdaptableModel`: no regions, empty outlines, and every region keeps its name."""

    version = "double-00000001"

    def predict(self, group) -> GroupPrediction:
        return GroupPrediction((), self.version)

    def predict_groups(self, groups) -> list[GroupPrediction]:
        return [self.predict(group) for group in groups]

    def encode(self, group) -> None:
        pass

    def prepare_clicks(self, group, image_index) -> None:
        pass

    def describe(self, group) -> Vector:
        return np.ones(1, np.float32)

    def describe_regions(self, group, outlines) -> Sequence[Vector]:
        return [np.ones(1, np.float32) for _ in outlines]

    def refine(self, group, image_index, prompt, group_prediction=None) -> Refined:
        return refined(np.zeros(group.sizes_hw[image_index], np.bool_))

    def transfer(self, group, part, group_prediction) -> Sequence[Proposal]:
        return ()

    def carry(self, group, part, accepted) -> Sequence[Proposal]:
        return ()

    def refer(self, group, names, group_prediction) -> Sequence[Reference]:
        everywhere = tuple(range(len(group)))
        return [reference(name, (), everywhere) for name, _ in names]

    def look_into(self, group, image_index, box, group_prediction) -> PartMask:
        nothing = np.zeros(group.sizes_hw[image_index], np.bool_)
        return PartMask(image_index, RegionKind.COMMON_PART, "", nothing)

    def name(self, group, outlines, closed, group_prediction=None) -> Sequence[Named]:
        labels = [outline.predicted_label or "" for outline in outlines]
        return [Named(label, 1.0, ((label, 1.0),)) for label in labels]

    def with_adapter(self, version: str, folder: Path) -> ModelDouble:
        raise CheckpointError(f"{version}: this model takes no adapters")


def refined(mask, *, iou: float = 0.75, meant: PartMask | None = None) -> Refined:
    """What a click led to, without what the network alone needs of it."""
    import torch

    from calico_model.interactive.clicks import Refined

    return Refined(mask, iou, sparse=torch.zeros(0, 1), logits=torch.zeros(1, 1), meant=meant)


def reference(
    label: str,
    parts: tuple[PartMask, ...],
    absent: tuple[int, ...],
    *,
    is_known: bool = True,
    broader: str | None = None,
) -> Reference:
    """What is known about one thing that was asked for by name."""
    from calico_model.interactive.referring import Reference

    return Reference(label, parts, absent, is_known, broader)


def proposal(image_index: int, *parts: PartMask) -> Proposal:
    """What one image shows of an outlined part."""
    from calico_model.interactive.propagate.transfer import Proposal

    return Proposal(image_index, parts, score=0.75)
