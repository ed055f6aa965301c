"""What an annotator changed: prediction and annotation of one task -> one outcome per region.

Regions are matched by id, which the editor keeps. A region that was deleted and drawn again with
the same name in the same place counts as edited. Masks with equal stored bytes are equal and are
not decoded. Pure: values in, values out; no disk, network, clock or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Flag, auto

import numpy as np

from backend.errors import InvalidRleError
from backend.types import Region, Task, UnreadRegion
from calico_model.evaluation.boundary import BoundaryMatch, compare_boundaries
from calico_model.masks import mask_iou
from calico_model.vocabulary import Vocabulary, name_of

# Increase it when equal annotations get other outcomes: all corrections are then derived anew.
DIFF_VERSION = 4
SAME_PLACE_IOU = 0.5

_Place = tuple[int, str]  # image index and region id


class RegionChange(Flag):
    """What the annotator did to a region; no flag means accepted unchanged."""

    RESHAPED = auto()
    RELABELLED = auto()
    KIND_CHANGED = auto()
    ADDED = auto()
    REMOVED = auto()


ACCEPTED = RegionChange(0)


@dataclass(frozen=True, eq=False)
class RegionOutcome:
    """Outcome of one region.

    Attributes:
        change: all changes of the region; ADDED and REMOVED are never combined with others.
        before: the predicted region, None if ADDED.
        after: the annotator's region, None if REMOVED.
        iou: IoU of the masks before and after, in [0, 1]; 1 unless RESHAPED, None if ADDED or
            REMOVED.
        boundary: agreement of the outlines; only if RESHAPED and both masks have the same size.
        replaced_by: id of the region that was drawn in place of this REMOVED one, or None. It has
            another name, or it counts as the edit of another predicted region.
    """

    change: RegionChange
    before: Region | None
    after: Region | None
    iou: float | None = None
    boundary: BoundaryMatch | None = None
    replaced_by: str | None = None

    @property
    def region(self) -> Region:
        """The annotator's region; the predicted region if it was removed."""
        region = self.after or self.before
        assert region is not None
        return region


@dataclass(frozen=True)
class AnnotatorAgreement:
    """Agreement between several annotators of one task.

    Attributes:
        annotators: number of annotators, that of the chosen annotation included.
        mean_iou: matched mean IoU between the chosen annotation and the others, in [0, 1].
    """

    annotators: int
    mean_iou: float


@dataclass(frozen=True)
class RegionTally:
    """Number of regions per outcome; a region that was reshaped and relabelled counts in both.

    The field names are columns of the table `correction`.
    """

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
        """All counts, in field order."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    @property
    def acceptance(self) -> float | None:
        """Share of predicted regions accepted unchanged; None without predicted regions."""
        return self.accepted / self.predicted if self.predicted else None

    @property
    def mean_reshaped_iou(self) -> float | None:
        """Mean IoU between predicted and corrected masks of reshaped regions; None without any."""
        return self.reshaped_iou_sum / self.reshaped if self.reshaped else None


@dataclass(frozen=True, eq=False)
class Correction:
    """The valid annotation of one task, compared with the prediction it started from.

    Attributes:
        task: the images.
        annotation_id: Label Studio's id of the annotation.
        annotator_id: the annotator, or None.
        updated_at: UTC.
        version: adapter version of the prediction; None if the annotation started from nothing.
        outcomes: one per region, predicted regions first, each group in stored order.
        same_part: pairs of region ids that the annotator linked.
        is_ground_truth: the annotation is marked as ground truth.
        agreement: with other annotators, None if there is no other.
        unreadable: ids of regions whose mask cannot be decoded; they have no outcome.
        unknown: (image index, name) of drawn regions that cannot be read as a mask; None stands for
            any name. Whether the image shows such a name is unknown.
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
    """Comparison of two sets of regions; `unreadable` and `unknown` as in `Correction`."""

    outcomes: tuple[RegionOutcome, ...]
    unreadable: tuple[str, ...] = ()
    unknown: frozenset[tuple[int, str | None]] = frozenset()


def diff(
    before: Sequence[Region],
    after: Sequence[Region],
    unread: Sequence[UnreadRegion] = (),
    vocabulary: Vocabulary | None = None,
) -> Difference:
    """Compares what was predicted with what the annotator left.

    A region whose mask was erased completely counts as removed. A mask of another size than the
    predicted one is reshaped with IoU 0, because the editor could not show the predicted mask. A
    removed and an added region of one image with the same name and an IoU of at least
    SAME_PLACE_IOU are one edited region; each region is in one such pair at most.

    Args:
        before: predicted regions; () if the annotator started from nothing.
        after: the annotator's regions.
        unread: other drawn regions that cannot be read as masks.
        vocabulary: the labels that regions may have; None where any text may be written: then
            another spelling is the same name.
    """
    lost = _Lost()
    for region in unread:
        lost.add(region.id, region.image_index, (region.label,))
    unread_places = {(region.image_index, region.id) for region in unread}
    outcomes: list[RegionOutcome] = []
    unmatched = {_place(region): region for region in after}
    for predicted in before:
        corrected = unmatched.pop(_place(predicted), None)
        if corrected is None and _place(predicted) in unread_places:
            continue
        try:
            outcomes.append(_outcome(predicted, corrected, vocabulary))
        except InvalidRleError:
            lost.add_region(predicted)
            if corrected is not None:
                lost.add_region(corrected)
    for added in unmatched.values():
        try:
            if added.mask.any():
                outcomes.append(RegionOutcome(RegionChange.ADDED, None, added))
        except InvalidRleError:
            lost.add_region(added)
    return Difference(
        _with_redrawn(outcomes, vocabulary, lost),
        tuple(dict.fromkeys(lost.ids)),
        frozenset(lost.names),
    )


@dataclass
class _Lost:
    """Regions that cannot be compared: their ids, and the names that become unknown."""

    ids: list[str] = field(default_factory=list)
    names: set[tuple[int, str | None]] = field(default_factory=set)

    def add(self, region_id: str, image_index: int, labels: Sequence[str | None]) -> None:
        """Adds a region that cannot be read."""
        self.ids.append(region_id)
        self.names |= {(image_index, label) for label in labels}

    def add_region(self, region: Region) -> None:
        """Adds a region whose mask cannot be decoded."""
        self.add(region.id, region.image_index, region.labels or (None,))


def tally(outcomes: Sequence[RegionOutcome]) -> RegionTally:
    """Counts outcomes."""
    changes = [outcome.change for outcome in outcomes]

    def count(change: RegionChange) -> int:
        return sum(change in outcome_change for outcome_change in changes)

    reshaped_ious = (o.iou or 0.0 for o in outcomes if RegionChange.RESHAPED in o.change)
    return RegionTally(
        accepted=sum(change is ACCEPTED for change in changes),
        reshaped=count(RegionChange.RESHAPED),
        relabelled=count(RegionChange.RELABELLED),
        kind_changed=count(RegionChange.KIND_CHANGED),
        added=count(RegionChange.ADDED),
        removed=count(RegionChange.REMOVED),
        reshaped_iou_sum=sum(reshaped_ious),
        predicted=sum(outcome.before is not None for outcome in outcomes),
    )


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
    has_same_size = before.size_hw == after.size_hw
    return RegionOutcome(
        change | RegionChange.RESHAPED,
        before,
        after,
        iou=mask_iou(before.mask, after.mask),
        boundary=compare_boundaries(before.mask, after.mask) if has_same_size else None,
    )


def _same_names(before: Sequence[str], after: Sequence[str], vocabulary: Vocabulary | None) -> bool:
    """Whether two regions have the same names; another spelling of free text is the same name."""
    if before == after:
        return True
    old_names, new_names = (
        {name_of(label, vocabulary) for label in labels} for labels in (before, after)
    )
    return old_names == new_names


def _with_redrawn(
    outcomes: Sequence[RegionOutcome], vocabulary: Vocabulary | None, lost: _Lost
) -> tuple[RegionOutcome, ...]:
    """Returns the outcomes, with removed regions that were drawn again as edited or replaced."""
    replacements: dict[int, str] = {}
    edited: dict[int, RegionOutcome] = {}
    paired: set[int] = set()
    for _, removed_at, added_at in _overlaps(outcomes, lost):
        before, after = outcomes[removed_at].before, outcomes[added_at].after
        assert before is not None
        assert after is not None
        replacements.setdefault(removed_at, after.id)
        is_free = removed_at not in edited and added_at not in paired
        if is_free and _same_names(before.labels, after.labels, vocabulary):
            edited[removed_at] = _redrawn(before, after, vocabulary)
            paired.add(added_at)
    return tuple(
        edited.get(at) or replace(outcome, replaced_by=replacements.get(at))
        for at, outcome in enumerate(outcomes)
        if at not in paired
    )


def _overlaps(outcomes: Sequence[RegionOutcome], lost: _Lost) -> list[tuple[float, int, int]]:
    """(1 - IoU, index of the removed region, of the added one) in the same place, best first."""
    added = [at for at, outcome in enumerate(outcomes) if outcome.change is RegionChange.ADDED]
    overlaps = []
    for removed_at, outcome in enumerate(outcomes):
        if outcome.change is not RegionChange.REMOVED:
            continue
        removed = outcome.region
        candidates = [at for at in added if outcomes[at].region.image_index == removed.image_index]
        try:
            ious = [mask_iou(removed.mask, outcomes[at].region.mask) for at in candidates]
        except InvalidRleError:
            lost.add_region(removed)
            continue
        pairs = zip(ious, candidates, strict=True)
        overlaps += [(1 - iou, removed_at, at) for iou, at in pairs if iou >= SAME_PLACE_IOU]
    return sorted(overlaps)


def _redrawn(before: Region, after: Region, vocabulary: Vocabulary | None) -> RegionOutcome:
    """The outcome of a region that was drawn again."""
    outcome = _outcome(before, after, vocabulary)
    # A new drawing has no kind before somebody chooses one: that contradicts no predicted kind.
    if after.kind is None:
        return replace(outcome, change=outcome.change & ~RegionChange.KIND_CHANGED)
    return outcome
