"""One clicked or accepted region -> suggestions on all images of its group.

What is absent is group_prediction, not drawn. Pure but for the model it is handed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backend.served_model import ServedModel
from calico_model.types import GroupPrediction, ImageGroup, PartMask
from calico_model.vocabulary import Vocabulary, normalise

_TAG_SIGNS = frozenset("<>[]()")  # a label with these could be read as a tag of the answers


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
    part: PartMask,
    group: ImageGroup,
    group_prediction: GroupPrediction | None,
    predictor: ServedModel,
    vocabulary: Vocabulary | None = None,
) -> Spread:
    """Proposes a region on all images of its group.

    Args:
        part: the region, named or not; an empty one spreads nowhere.
        group: 1 to 8 images.
        group_prediction: what the predictor predicted for the group, if that is known.
        predictor: the version that answers.
        vocabulary: the labels that regions may have; None where any text may be written.
    """
    if len(group) < 2 or not part.mask.any():
        return Spread((part,))
    called = _called(part.label, group_prediction, vocabulary)
    found = predictor.transfer(group, replace(part, label=called), group_prediction)
    parts = tuple(_relabelled(region, part.label) for one in found for region in one.parts)
    return Spread((part, *parts), tuple(one.image_index for one in found if not one.parts))


def _called(
    label: str, group_prediction: GroupPrediction | None, vocabulary: Vocabulary | None
) -> str:
    """What the model calls a label: the name of it that it said itself, else its own name."""
    if vocabulary is None or label not in vocabulary.labels:
        return normalise(label) if set(label) & _TAG_SIGNS else label
    names = vocabulary.spellings(label)
    spoken = (
        {normalise(part.label) for part in group_prediction.parts}
        if group_prediction is not None
        else set()
    )
    return next((name for name in names if name in spoken), names[0])


def _relabelled(region: PartMask, label: str) -> PartMask:
    """The region under the project's label; so is the name of its place, if it began with that."""
    part_id = region.part_id
    if part_id is not None and part_id.startswith(f"{region.label}@"):
        part_id = f"{label}{part_id.removeprefix(region.label)}"
    return replace(region, label=label, part_id=part_id)
