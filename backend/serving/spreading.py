"""One clicked or accepted region -> suggestions on all images of its group.

What is absent is said, not drawn. Pure but for the model it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backend.serving.model_host import Predictor
from calico_model.types import GroupPrediction, ImageGroup, PartMask


class Proposed(Protocol):
    """What one image shows of a part."""

    @property
    def image_index(self) -> int:
        """Which image."""

    @property
    def parts(self) -> tuple[PartMask, ...]:
        """Where it is; none if it is not there."""


@runtime_checkable
class Transferring(Predictor, Protocol):
    """A model that finds an outlined part in other images."""

    def transfer(
        self, group: ImageGroup, part: PartMask, said: GroupPrediction | None
    ) -> Sequence[Proposed]:
        """Proposes an outlined part on the other images of a group."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Suggestions that follow from one region.

    Attributes:
        parts: the region itself, then what was found, in image order.
        absent: images that do not show it, rising.
    """

    parts: tuple[PartMask, ...]
    absent: tuple[int, ...] = ()

    @property
    def sentence(self) -> str:
        """What to tell the annotator, or "" when there is nothing to say."""
        if not self.absent:
            return ""
        numbers = ", ".join(str(image + 1) for image in self.absent)
        return f"{self.parts[0].label or 'this'}: absent on {numbers}"


def spread(
    part: PartMask, group: ImageGroup, said: GroupPrediction | None, predictor: Predictor
) -> Spread:
    """Proposes a region on all images of its group.

    Args:
        part: the region, named or not; an empty one spreads nowhere.
        group: 1 to 8 images.
        said: what the predictor predicted for the group, if that is known.
        predictor: the version that answers.
    """
    if len(group) < 2 or not part.mask.any() or not isinstance(predictor, Transferring):
        return Spread((part,))
    found = predictor.transfer(group, part, said)
    parts = tuple(region for one in found for region in one.parts)
    return Spread((part, *parts), tuple(one.image_index for one in found if not one.parts))
