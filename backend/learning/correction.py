"""What an annotator changed: prediction and annotation of one task -> one outcome per region.

Regions are compared by id, which the editor keeps. Masks whose stored form is equal are equal and
never decoded. Values in, values out: no disk, network, clock or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, auto

import numpy as np

from backend.errors import InvalidRleError
from backend.types import Region, Task, UnreadRegion
from calico_model.evaluation.boundary import BoundaryMatch, compare_boundaries
from calico_model.types import BoolMask
from calico_model.vocabulary import Vocabulary, name_of

# Raise it when equal annotations are judged differently: corrections are then derived anew.
DIFF_VERSION = 3
SAME_PLACE_IOU = 0.5

_Place = tuple[int, str]  # image index and region id


class RegionChange(Flag):
    """What happened to a region; no flag at all means accepted as it was."""

    RESHAPED = auto()
    RELABELLED = auto()
    KIND_CHANGED = auto()
    ADDED = auto()
    REMOVED = auto()


ACCEPTED = RegionChange(0)


@dataclass(frozen=True, eq=False)
class RegionOutcome:
    """What became of one region.

    Attributes:
        change: everything that happened to it; ADDED and REMOVED stand alone.
        before: the predicted region, None if ADDED.
        after: the annotator's region, None if REMOVED.
        iou: of the masks before and after in [0, 1]; 1 unless RESHAPED, None if ADDED or REMOVED.
        boundary: how well the outlines agree, only if RESHAPED and of one size.
        replaced_by: id of the ADDED region drawn in the place of a REMOVED one, or None.
    """

    change: RegionChange
    before: Region | None
    after: Region | None
    iou: float | None = None
    boundary: BoundaryMatch | None = None
    replaced_by: str | None = None

    @property
    def region(self) -> Region:
        """The annotator's region, or the predicted one if that was removed."""
        region = self.after or self.before
        assert region is not None
        return region


@dataclass(frozen=True)
class AnnotatorAgreement:
    """How alike several annotators marked one task.

    Attributes:
        annotators: how many, the chosen one included.
        mean_iou: matched mean IoU between the chosen annotation and the others, in [0, 1].
    """

    annotators: int
    mean_iou: float


@dataclass(frozen=True)
class RegionTally:
    """How many regions met which fate; a region that was reshaped and relabelled counts in both."""

    accepted: int = 0
    reshaped: int = 0
    relabelled: int = 0
    kind_changed: int = 0
    added: int = 0
    removed: int = 0
    reshaped_iou_sum: float = 0.0
    predicted: int = 0

    def __add__(self, other: RegionTally) -> RegionTally:
        names = self.__dataclass_fields__
        return RegionTally(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def values(self) -> tuple[float, ...]:
        """All counts in the order of the fields."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    @property
    def acceptance(self) -> float | None:
        """Share of predicted regions that were left as they were, or None without any."""
        return self.accepted / self.predicted if self.predicted else None

    @property
    def mean_reshaped_iou(self) -> float | None:
        """Mean IoU between predicted and corrected masks of reshaped regions."""
        return self.reshaped_iou_sum / self.reshaped if self.reshaped else None


@dataclass(frozen=True, eq=False)
class Correction:
    """The newest word on one task, compared with the prediction it started from.

    Attributes:
        task: the images.
        annotation_id: the annotation that counts.
        annotator_id: who made it, or None.
        updated_at: UTC.
        version: adapter version of the prediction it started from; None if it started from nothing.
        outcomes: one per region, predicted ones first, each in its stored order.
        same_part: pairs of region ids the annotator linked.
        is_ground_truth: somebody marked it as the answer that counts.
        agreement: with other annotators, or None if there is no other.
        unreadable: ids of regions whose mask cannot be decoded; they have no outcome.
        unknown: (image index, name) of what was drawn but cannot be read as a mask; a name of None
            may be any. Nobody knows whether such a name is on that image.
        vocabulary: the labels that regions may have; None where any text may be written.
    """

    task: Task
    annotation_id: int
    annotator_id: int | None
    updated_at: datetime
    version: str | None
    outcomes: tuple[RegionOutcome, ...]
    same_part: tuple[tuple[str, str], ...] = ()
    is_ground_truth: bool = False
    agreement: AnnotatorAgreement | None = None
    unreadable: tuple[str, ...] = ()
    unknown: frozenset[tuple[int, str | None]] = frozenset()
    vocabulary: Vocabulary | None = None

    @property
    def tally(self) -> RegionTally:
        """Counts over all regions."""
        return tally(self.outcomes)


@dataclass(frozen=True, eq=False)
class Difference:
    """Outcome of each region, ids of those without a mask, and which names that leaves unknown."""

    outcomes: tuple[RegionOutcome, ...]
    unreadable: tuple[str, ...] = field(default=())
    unknown: frozenset[tuple[int, str | None]] = frozenset()


def diff(
    before: Sequence[Region],
    after: Sequence[Region],
    unread: Sequence[UnreadRegion] = (),
    vocabulary: Vocabulary | None = None,
) -> Difference:
    """Compares what was predicted with what the annotator left.

    A region whose mask was erased to nothing counts as removed. A mask of another size than
    predicted is reshaped with IoU 0: the predicted one could never be seen.

    Args:
        before: predicted regions; () if the annotator started from nothing.
        after: the annotator's regions.
        unread: what else the annotator drew, which is no mask.
        vocabulary: the labels that regions may have; None where any text may be written, and
            another spelling is the same name.
    """
    lost = _Lost()
    for one in unread:
        lost.add(one.id, one.image_index, (one.label,))
    is_unread = {(one.image_index, one.id) for one in unread}
    outcomes: list[RegionOutcome] = []
    left = {_place(region): region for region in after}
    for predicted in before:
        corrected = left.pop(_place(predicted), None)
        if corrected is None and _place(predicted) in is_unread:
            continue
        try:
            outcomes.append(_outcome(predicted, corrected, vocabulary))
        except InvalidRleError:
            lost.add_region(predicted)
            if corrected is not None:
                lost.add_region(corrected)
    for added in left.values():
        try:
            if added.mask.any():
                outcomes.append(RegionOutcome(RegionChange.ADDED, None, added))
        except InvalidRleError:
            lost.add_region(added)
    replacements = _replacements(outcomes, lost)
    return Difference(
        tuple(_with_replacement(outcome, replacements) for outcome in outcomes),
        tuple(dict.fromkeys(lost.ids)),
        frozenset(lost.names),
    )


@dataclass
class _Lost:
    """What cannot be compared, and the names that are unknown for it."""

    ids: list[str] = field(default_factory=list)
    names: set[tuple[int, str | None]] = field(default_factory=set)

    def add(self, region_id: str, image_index: int, labels: Sequence[str | None]) -> None:
        """A region that cannot be read."""
        self.ids.append(region_id)
        self.names |= {(image_index, label) for label in labels}

    def add_region(self, region: Region) -> None:
        """A region whose mask cannot be decoded."""
        self.add(region.id, region.image_index, region.labels or (None,))


def tally(outcomes: Sequence[RegionOutcome]) -> RegionTally:
    """Counts outcomes."""
    changes = [outcome.change for outcome in outcomes]

    def count(change: RegionChange) -> int:
        return sum(change in found for found in changes)

    reshaped = (o.iou or 0.0 for o in outcomes if RegionChange.RESHAPED in o.change)
    return RegionTally(
        accepted=sum(change is ACCEPTED for change in changes),
        reshaped=count(RegionChange.RESHAPED),
        relabelled=count(RegionChange.RELABELLED),
        kind_changed=count(RegionChange.KIND_CHANGED),
        added=count(RegionChange.ADDED),
        removed=count(RegionChange.REMOVED),
        reshaped_iou_sum=sum(reshaped),
        predicted=sum(outcome.before is not None for outcome in outcomes),
    )


def mask_iou(first: BoolMask, second: BoolMask) -> float:
    """IoU in [0, 1]; two empty masks 1, masks of different sizes 0."""
    if first.shape != second.shape:
        return 0.0
    shared = int(np.count_nonzero(first & second))
    union = int(np.count_nonzero(first)) + int(np.count_nonzero(second)) - shared
    return shared / union if union else 1.0


def _place(region: Region) -> _Place:
    return region.image_index, region.id


def _outcome(before: Region, after: Region | None, vocabulary: Vocabulary | None) -> RegionOutcome:
    if after is None:
        return RegionOutcome(RegionChange.REMOVED, before, None)
    change = ACCEPTED
    if not _same_names(before.labels, after.labels, vocabulary):
        change |= RegionChange.RELABELLED
    if before.kind is not after.kind:
        change |= RegionChange.KIND_CHANGED
    if before.encoding and before.encoding == after.encoding and before.size_hw == after.size_hw:
        return RegionOutcome(change, before, after, iou=1.0)
    if not after.mask.any():
        return RegionOutcome(RegionChange.REMOVED, before, None)
    if np.array_equal(before.mask, after.mask):
        return RegionOutcome(change, before, after, iou=1.0)
    has_one_size = before.size_hw == after.size_hw
    return RegionOutcome(
        change | RegionChange.RESHAPED,
        before,
        after,
        iou=mask_iou(before.mask, after.mask),
        boundary=compare_boundaries(before.mask, after.mask) if has_one_size else None,
    )


def _same_names(before: Sequence[str], after: Sequence[str], vocabulary: Vocabulary | None) -> bool:
    """Whether two regions are called the same: another spelling of a free text teaches nothing."""
    if before == after:
        return True
    ours, theirs = ({name_of(one, vocabulary) for one in labels} for labels in (before, after))
    return ours == theirs


def _replacements(outcomes: Sequence[RegionOutcome], lost: _Lost) -> Mapping[_Place, str]:
    """Which removed region was drawn anew by which added one: it is not absent, only redone."""
    found: dict[_Place, str] = {}
    added = [o.after for o in outcomes if o.after is not None and o.change is RegionChange.ADDED]
    for outcome in outcomes:
        gone = outcome.before
        if gone is None or outcome.change is not RegionChange.REMOVED:
            continue
        rivals = [region for region in added if region.image_index == gone.image_index]
        if not rivals:
            continue
        try:
            overlaps = [mask_iou(gone.mask, region.mask) for region in rivals]
        except InvalidRleError:
            lost.add_region(gone)
            continue
        best = int(np.argmax(overlaps))
        if overlaps[best] >= SAME_PLACE_IOU:
            found[_place(gone)] = rivals[best].id
    return found


def _with_replacement(outcome: RegionOutcome, found: Mapping[_Place, str]) -> RegionOutcome:
    place = _place(outcome.region)
    if outcome.change is not RegionChange.REMOVED or place not in found:
        return outcome
    return RegionOutcome(RegionChange.REMOVED, outcome.before, None, replaced_by=found[place])
