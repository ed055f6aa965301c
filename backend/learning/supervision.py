"""What a correction teaches: for each region text, mask, absence or rehearsal.

| the annotator ...     | text | mask | absence | rehearsal |
|-----------------------|------|------|---------|-----------|
| accepted the region   |      |      |         | yes       |
| changed name or kind  | yes  |      |         |           |
| edited the mask       |      | yes  |         |           |
| added a region        | yes  | yes  |         |           |
| removed a region      |      |      | yes     |           |

A region that was removed and drawn again under its name is an edited mask (see correction.py). A
removed region teaches no absence if another was drawn in its place, if its name is still on the
same image, or if its name was also given to a region that cannot be read as a mask. A region with
several names teaches each of them. Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.errors import InvalidRleError
from backend.learning.correction import ACCEPTED, Correction, RegionChange, RegionOutcome
from backend.types import Region
from calico_model.types import PartMask, RegionKind, Supervision
from calico_model.vocabulary import Vocabulary, name_of

_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})
_ANY = "\0"  # stands for every name on an image; no name normalises to it


@dataclass(frozen=True, eq=False)
class TrainingTarget:
    """One region to learn from.

    Attributes:
        supervision: the losses that the region takes part in; not empty.
        region: the annotator's region; for an ABSENCE the removed region.
        before: the predicted region, None if the annotator added the region.
    """

    supervision: Supervision
    region: Region
    before: Region | None


def training_targets(correction: Correction) -> tuple[TrainingTarget, ...]:
    """Returns one target per name of each region that teaches something, in outcome order."""
    named = {
        (outcome.after.image_index, name)
        for outcome in correction.outcomes
        if outcome.after is not None
        for name in _names(outcome.after, correction.vocabulary)
    }
    unknown = _unknown(correction)
    targets = []
    for outcome in correction.outcomes:
        for region in _per_name(outcome.region):
            place = region.image_index, region_name(region, correction.vocabulary)
            supervision = _supervision_of(outcome, is_there=place in named | unknown)
            if supervision is Supervision.ABSENCE and (region.image_index, _ANY) in unknown:
                continue
            if supervision:
                targets.append(TrainingTarget(supervision, region, outcome.before))
    return tuple(targets)


def true_parts(correction: Correction) -> tuple[PartMask, ...]:
    """Returns the annotated regions as the truth of a group; see `merge_regions`."""
    regions = [outcome.after for outcome in correction.outcomes if outcome.after is not None]
    return merge_regions(regions, correction.vocabulary, correction.unknown)


def merge_regions(
    regions: Sequence[Region],
    vocabulary: Vocabulary | None,
    unknown: Iterable[tuple[int, str | None]],
) -> tuple[PartMask, ...]:
    """Returns drawn regions as the truth of a group.

    Regions of one kind and name in an image are merged into one mask. A common name that is in one
    image only is a unique part there; a region without kind is common if its name is in several
    images. Left out are regions without a name, masks that cannot be decoded, and names that an
    unreadable region of the same image also has.

    Args:
        regions: of one annotation.
        vocabulary: the labels that regions may have; None where any text may be written.
        unknown: (image index, name) of drawn regions that cannot be read as a mask; None stands
            for any name.

    Returns:
        Per image at most one mask of each kind and name; `part_id` is equal for a common name. The
        labels are normal forms; `written_label` returns the project's spelling.
    """
    not_known = _normal_places(unknown, vocabulary)
    kept = [
        (name, named)
        for region in regions
        for named in _per_name(region)
        if (name := region_name(named, vocabulary)) and (named.image_index, name) not in not_known
    ]
    images: dict[tuple[RegionKind | None, str], set[int]] = {}
    for name, region in kept:
        images.setdefault((region.kind, name), set()).add(region.image_index)
    merged: dict[tuple[int, RegionKind, str], list[Region]] = {}
    for name, region in kept:
        kind = _settled(region.kind, len(images[region.kind, name]))
        merged.setdefault((region.image_index, kind, name), []).append(region)
    parts = (_part(place, some) for place, some in merged.items())
    return tuple(part for part in parts if part is not None)


def known_kinds(correction: Correction) -> frozenset[RegionKind]:
    """Returns the kinds of regions whose truth is complete; empty if there is nothing to learn.

    A project that names only parts does not tell which objects are there, and vice versa. A region
    without a name tells nothing: the region may have any name.
    """
    named = (outcome for outcome in correction.outcomes if any(outcome.region.labels))
    regions = (r for outcome in named for r in (outcome.before, outcome.after) if r is not None)
    kinds = {region.kind or RegionKind.COMMON_PART for region in regions}
    # An unreadable region may be any part, so a part that is missing is not known to be absent.
    has_parts = kinds & _PARTS and not correction.unknown
    parts = _PARTS if has_parts else frozenset[RegionKind]()
    return parts | (kinds & {RegionKind.COMMON_OBJECT})


def with_one_kind(regions: Sequence[Region], vocabulary: Vocabulary | None) -> list[Region]:
    """Returns the regions with one kind per name of a part, which the format of records asks for.

    A name is unique only if all its regions are marked as unique. Annotators may mark some of them
    only, or differently.
    """
    kinds: dict[str, set[RegionKind | None]] = {}
    for region in regions:
        kinds.setdefault(region_name(region, vocabulary), set()).add(region.kind)
    settled = []
    for region in regions:
        found = kinds[region_name(region, vocabulary)] - {RegionKind.COMMON_OBJECT}
        is_unique = found == {RegionKind.UNIQUE_PART}
        kind = RegionKind.UNIQUE_PART if is_unique else RegionKind.COMMON_PART
        is_object = region.kind is RegionKind.COMMON_OBJECT
        settled.append(region if is_object else replace(region, kind=kind))
    return settled


def written_label(name: str, vocabulary: Vocabulary | None) -> str:
    """Returns the project's spelling of a name; the name itself where any text may be written."""
    return name if vocabulary is None else vocabulary.find(name) or name


def _supervision_of(outcome: RegionOutcome, *, is_there: bool) -> Supervision:
    if outcome.change is ACCEPTED:
        return Supervision.REHEARSAL
    if outcome.change is RegionChange.ADDED:
        return Supervision.TEXT | Supervision.MASK
    if outcome.change is RegionChange.REMOVED:
        return Supervision(0) if outcome.replaced_by or is_there else Supervision.ABSENCE
    supervision = Supervision(0)
    if outcome.change & (RegionChange.RELABELLED | RegionChange.KIND_CHANGED):
        supervision |= Supervision.TEXT
    if RegionChange.RESHAPED in outcome.change:
        supervision |= Supervision.MASK
    return supervision


def region_name(region: Region, vocabulary: Vocabulary | None) -> str:
    """Returns the normal form of the region's first label, "" without a label."""
    return name_of(region.label or "", vocabulary)


def _names(region: Region, vocabulary: Vocabulary | None) -> list[str]:
    return [name_of(name, vocabulary) for name in region.labels or ("",)]


def _per_name(region: Region) -> list[Region]:
    """The region once per name; unchanged if it has at most one name."""
    if not region.more_labels:
        return [region]
    return [replace(region, label=label, more_labels=()) for label in region.labels]


def _unknown(correction: Correction) -> set[tuple[int, str]]:
    return _normal_places(correction.unknown, correction.vocabulary)


def _normal_places(
    places: Iterable[tuple[int, str | None]], vocabulary: Vocabulary | None
) -> set[tuple[int, str]]:
    """(image index, name) pairs of which is unknown whether they are there; _ANY is every name."""
    return {
        (image_index, _ANY if label is None else name_of(label, vocabulary))
        for image_index, label in places
    }


def _settled(kind: RegionKind | None, image_count: int) -> RegionKind:
    if kind is RegionKind.COMMON_OBJECT:
        return kind
    if kind is RegionKind.UNIQUE_PART or image_count == 1:
        return RegionKind.UNIQUE_PART
    return RegionKind.COMMON_PART


def _part(place: tuple[int, RegionKind, str], regions: Sequence[Region]) -> PartMask | None:
    image_index, kind, name = place
    masks = []
    for region in regions:
        try:
            masks.append(region.mask)
        except InvalidRleError:
            continue
    if not masks or len({mask.shape for mask in masks}) > 1:
        return None
    union = np.logical_or.reduce(masks)
    part_id = None if kind is RegionKind.UNIQUE_PART else f"{kind}/{name}"
    return PartMask(image_index, kind, name, union, part_id=part_id) if union.any() else None
