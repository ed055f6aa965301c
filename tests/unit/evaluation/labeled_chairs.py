"""Hand-made groups with exact truth, and a predictor that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from calico_model.errors import InvalidImageError
from calico_model.types import (
    GroupPrediction,
    ImageGroup,
    LabeledGroup,
    Likelihood,
    PartMask,
    RegionKind,
)

SIDE = 32
COMMON_OBJECT, COMMON_PART, UNIQUE_PART = RegionKind


def box(top: int, bottom: int, left: int, right: int, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def chair_group(seed: int = 0) -> LabeledGroup:
    """Two chairs share legs and a seat; only the first has an arm rest, the second a wheel."""
    rng = np.random.default_rng(seed)
    images = tuple(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(2))
    parts: list[PartMask] = []
    for image in range(2):
        low = 2 * image
        parts += [
            PartMask(image, COMMON_OBJECT, "chair", box(2, 30, 2, 30), part_id="o0"),
            PartMask(image, COMMON_PART, "leg", box(20 + low, 28, 4, 10), "chair", "p0"),
            PartMask(image, COMMON_PART, "seat", box(12, 18, 4 + low, 24), "chair", "p1"),
        ]
    parts.append(PartMask(0, UNIQUE_PART, "arm rest", box(6, 10, 4, 12), "chair", "u0"))
    parts.append(PartMask(1, UNIQUE_PART, "front wheel", box(22, 28, 20, 28), "chair", "u1"))
    return LabeledGroup(ImageGroup(images, (f"{seed}a", f"{seed}b")), tuple(parts))


class Oracle:
    """Knows the truth of the groups it was given and answers with an edit of it."""

    version = "oracle-1"

    def __init__(
        self,
        groups: Sequence[LabeledGroup],
        edit: Callable[[tuple[PartMask, ...]], Sequence[PartMask]] = lambda parts: parts,
        answers: dict[str, str] | None = None,
        refuses: Sequence[str] = (),
    ) -> None:
        self.truth = {labeled.group.ids: labeled.parts for labeled in groups}
        self.edit = edit
        self.answers = answers or {}
        self.refuses = refuses

    def predict(self, group: ImageGroup) -> GroupPrediction:
        if group.ids[0] in self.refuses:
            raise InvalidImageError("images[0]: too dark")
        return GroupPrediction(tuple(self.edit(self.truth[group.ids])), self.version, self.answers)


class SteerableOracle(Oracle):
    """Can be asked everything; a test overrides what it asks."""

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        raise NotImplementedError

    def predict_forced(
        self, group: ImageGroup, answers: Mapping[RegionKind, str]
    ) -> GroupPrediction:
        raise NotImplementedError

    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        raise NotImplementedError
