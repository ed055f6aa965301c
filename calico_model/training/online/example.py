"""A corrected group as an online update learns from it: frozen features, true regions, weights.

An example holds everything one online update needs of a group; no image is read or encoded again.
Knows regions and features. Does not know tokens, losses or where corrections come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from calico_model.errors import InvalidMaskError
from calico_model.modeling.features import ImageFeatures
from calico_model.types import (
    ComparedObject,
    LabeledGroup,
    PartMask,
    RegionKind,
    Supervision,
)
from calico_model.vocabulary import normalise

_OWNED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class RegionTarget:
    """One region and the losses it takes part in.

    Attributes:
        region: the true region; for an ABSENCE the removed region, whose mask does not matter.
        supervision: which losses it takes part in; never none.
    """

    region: PartMask
    supervision: Supervision


@dataclass(frozen=True, eq=False)
class DenseImage:
    """One view of a corrected image.

    Attributes:
        maps: the photo trunk's, each (C_k, L / 2^k, L / 2^k).
        parts: (L, L) uint8, 0 or 1 + index into `part_names`.
        objects: (L, L) uint8, 0 or 1 + index into `object_names`.
        part_names, object_names: normal forms.
        knows_parts, knows_objects: whether a cell without a part, or an object, truly has none.
    """

    maps: tuple[Tensor, ...]
    parts: Tensor
    objects: Tensor
    part_names: tuple[str, ...]
    object_names: tuple[str, ...]
    knows_parts: bool
    knows_objects: bool

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(
            one.numel() * one.element_size() for one in (*self.maps, self.parts, self.objects)
        )


@dataclass(frozen=True, eq=False)
class Example:
    """One group to learn from, or to be measured on.

    Attributes:
        key: names the group; equal for two corrections of the same images.
        features: of its k images.
        sizes_hw: (height, width) in pixels of each image.
        targets: the true regions and the removed ones; one per kind, image and name.
        objects: per image the object whose parts are compared, None where it is not known.
        known: the questions whose truth is complete; the others are not asked.
        weight: relative to other examples, above 0.
        views: augmented views of the group; any of them may be learned from in its place.
        dense: per image the views that the dense head learns from, the image itself first; empty
            where the dense head shall learn from the images as they are.
    """

    key: str
    features: ImageFeatures
    sizes_hw: tuple[tuple[int, int], ...]
    targets: tuple[RegionTarget, ...]
    objects: tuple[ComparedObject | None, ...]
    known: frozenset[RegionKind] = frozenset(RegionKind)
    weight: float = 1.0
    views: tuple[Example, ...] = ()
    dense: tuple[tuple[DenseImage, ...], ...] = ()

    def __post_init__(self) -> None:
        images = len(self.sizes_hw)
        if len(self.features) != images or len(self.objects) != images:
            raise InvalidMaskError(
                f"example {self.key}: expected {images} features and objects, "
                f"got {len(self.features)} and {len(self.objects)}"
            )
        for number, target in enumerate(self.targets):
            region = target.region
            if not 0 <= region.image_index < images:
                raise InvalidMaskError(
                    f"example {self.key}: lessons[{number}]: image_index: expected 0 to "
                    f"{images - 1}, got {region.image_index}"
                )
            if region.mask.shape != self.sizes_hw[region.image_index]:
                raise InvalidMaskError(
                    f"example {self.key}: lessons[{number}]: mask: expected the size "
                    f"{self.sizes_hw[region.image_index]} of its image, got {region.mask.shape}"
                )

    def __len__(self) -> int:
        return len(self.sizes_hw)

    @property
    def truth(self) -> tuple[PartMask, ...]:
        """The true regions."""
        return tuple(t.region for t in self.targets if Supervision.ABSENCE not in t.supervision)

    @property
    def labels(self) -> frozenset[str]:
        """Normal form of every true name, compared objects included."""
        named = {normalise(part.label) for part in self.truth}
        compared = {normalise(part.label) for part in self.objects if part is not None}
        return frozenset(named | compared)


def make_example(
    key: str,
    features: ImageFeatures,
    sizes_hw: Sequence[tuple[int, int]],
    truth: Sequence[PartMask],
    *,
    targets: Sequence[RegionTarget] = (),
    known: frozenset[RegionKind] = frozenset(RegionKind),
    weight: float = 1.0,
) -> Example:
    """Makes an example of a corrected group.

    Args:
        key: names the group.
        features: of its k images, in their order.
        sizes_hw: (height, width) of each image.
        truth: the true regions, one per kind, image and name.
        targets: losses of single regions; matched to the truth by kind, image and name. A true
            region without a target is REHEARSAL; a target without a true region counts only if it
            is an ABSENCE. Without any target the group was labeled from nothing: every region
            teaches TEXT and MASK.
        known: the questions whose truth is complete.
        weight: relative to other examples.

    Raises:
        InvalidMaskError: a region outside the images, or of another size than its image.
    """
    default = Supervision.REHEARSAL if targets else Supervision.TEXT | Supervision.MASK
    taught: dict[tuple[RegionKind, int, str], Supervision] = {}
    for target in targets:
        place = _place(target.region)
        taught[place] = taught.get(place, Supervision(0)) | target.supervision
    present = {_place(part) for part in truth}
    complete = [
        RegionTarget(part, (taught.get(_place(part), default) & ~Supervision.ABSENCE) or default)
        for part in truth
    ]
    complete += [
        RegionTarget(target.region, Supervision.ABSENCE)
        for target in targets
        if Supervision.ABSENCE in target.supervision and _place(target.region) not in present
    ]
    objects = tuple(_compared_object(truth, image) for image in range(len(sizes_hw)))
    return Example(key, features, tuple(sizes_hw), tuple(complete), objects, known, weight)


def example_of(labeled: LabeledGroup, features: ImageFeatures, key: str) -> Example:
    """Makes an example of a labeled group, every region teaching name and mask.

    Args:
        labeled: the group with its truth, compared objects included.
        features: of its images.
        key: names the group.
    """
    both = Supervision.TEXT | Supervision.MASK
    objects: dict[int, ComparedObject] = {part.image_index: part for part in labeled.objects}
    return Example(
        key,
        features,
        labeled.group.sizes_hw,
        tuple(RegionTarget(part, both) for part in labeled.parts),
        tuple(objects.get(image) for image in range(len(labeled.group))),
        labeled.known,
    )


def _place(part: PartMask) -> tuple[RegionKind, int, str]:
    return part.kind, part.image_index, normalise(part.label)


def _compared_object(truth: Sequence[PartMask], image: int) -> ComparedObject | None:
    """The object that holds most of the image's parts, if one does."""
    mine = [part for part in truth if part.image_index == image]
    parts = [part for part in mine if part.kind is not RegionKind.COMMON_OBJECT]
    wholes = [part for part in mine if part.kind is RegionKind.COMMON_OBJECT]
    area = sum(int(part.mask.sum()) for part in parts)
    for whole in wholes:
        held = sum(int((part.mask & whole.mask).sum()) for part in parts)
        if held > _OWNED_SHARE * area or (not parts and len(wholes) == 1):
            return ComparedObject(image, whole.label, whole.mask)
    return None
