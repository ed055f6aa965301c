"""What an annotator's regions say about the sources' masks: counts to learn trust from.

An accepted region is a hit for every source that gave it, a reshaped one as far as the outlines
agree. A removed region is a failure, and a renamed one is a failure of the old name. All this is in
what the annotator left, so nobody needs to know which source was shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.evaluation.matching import areas, hungarian, intersections, iou_matrix
from calico_model.evaluation.regions import Crop, cut
from calico_model.sources.consensus import SAME_REGION_IOU, SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from calico_model.types import BoolMask

_SAME_PLACE_SHARE = 0.5  # of the smaller of two masks of one name: they mean one place


@dataclass(frozen=True, eq=False)
class AcceptedRegion:
    """A region of an image as the annotator left it.

    Attributes:
        label: its name.
        mask: (H, W) bool in the pixels of the image.
    """

    label: str
    mask: BoolMask


def judge_names(
    proposals: Sequence[SourceProposal],
    accepted: Sequence[AcceptedRegion],
    *,
    sources: Collection[str],
    labels: Collection[str],
    ability: Ability = Ability.TEXT,
) -> Mapping[TrustKey, TrustCounts]:
    """Judges masks that answer names, in one image.

    Args:
        proposals: masks with a name.
        accepted: all regions of the image.
        sources: who answered, with or without a mask.
        labels: the names that they were asked for. Of other names nothing is learned.
        ability: under which the counts are kept.

    Returns:
        Counts by source and label; none where a source gave nothing and nothing was there.

    Raises:
        InvalidMaskError: a mask has another size than an accepted region.
    """
    counts = {}
    for label in sorted(set(labels)):
        truth = [cut(region.mask) for region in accepted if region.label == label]
        for source in sorted(set(sources)):
            given = [one for one in proposals if one.source == source and one.label == label]
            if given or truth:
                masks = [cut(one.mask) for one in given]
                counts[TrustKey(source, ability, label)] = _compare(masks, truth)
    return counts


def _compare(given: Sequence[Crop], truth: Sequence[Crop]) -> TrustCounts:
    """Counts of one source, label and image.

    Four wheels drawn as one region and given as four masks, or the other way round, are not four
    mistakes: where the union of one side fits the single region of the other better than any mask
    alone, the union is judged as one mask. Several masks of one place are one, too: the answer
    shows it once.
    """
    overlaps = iou_matrix(given, truth)
    partners = {row: float(overlaps[row, column]) for row, column in hungarian(overlaps)}
    if min(len(given), len(truth)) == 1 and max(len(given), len(truth)) > 1:
        union_iou = float(iou_matrix([_union(given)], [_union(truth)])[0, 0])
        if union_iou > max(SAME_REGION_IOU, *partners.values(), 0.0):
            return TrustCounts(1, 1, union_iou, 1)
    ious = [partners.get(row, 0.0) for row in _places(given, partners)]
    kept = sum(iou >= SAME_REGION_IOU for iou in ious)
    return TrustCounts(len(ious), kept, sum(ious), len(truth))


def _places(given: Sequence[Crop], partners: Mapping[int, float]) -> list[int]:
    """One mask per place, the best fitting: rows of masks that do not cover each other."""
    shared, sizes = intersections(given, given), areas(given)
    places: list[int] = []
    for row in sorted(range(len(given)), key=lambda row: -partners.get(row, 0.0)):
        if all(
            shared[row, other] <= _SAME_PLACE_SHARE * min(sizes[row], sizes[other])
            for other in places
        ):
            places.append(row)
    return places


def _union(crops: Sequence[Crop]) -> Crop:
    """The union of masks of one image."""
    height, width = crops[0].size_hw
    union = np.zeros((height, width), np.bool_)
    for crop in crops:
        union |= crop.window((0, height, 0, width))
    return cut(union)


def judge_prompt(
    proposals: Sequence[SourceProposal],
    accepted: Sequence[AcceptedRegion],
    *,
    ability: Ability,
    label: str | None = None,
) -> Mapping[TrustKey, TrustCounts]:
    """Judges the masks that sources gave for one click or box.

    The accepted region is the one that any of the masks overlaps most: what the annotator clicked
    on to draw. Its name is the label that is learned about.

    Args:
        proposals: one mask per source: its best.
        accepted: all regions of the image.
        ability: CLICK or BOX.
        label: under which the annotator clicked, if that is known. If no region overlaps any mask
            by IoU >= 0.5, all masks were rejected under this label; without it nothing is learned.

    Raises:
        InvalidMaskError: a mask has another size than an accepted region.
    """
    overlaps = iou_matrix(
        [cut(one.mask) for one in proposals], [cut(region.mask) for region in accepted]
    )
    best = float(overlaps.max()) if overlaps.size else 0.0
    if best < SAME_REGION_IOU:
        if label is None:
            return {}
        return {TrustKey(one.source, ability, label): TrustCounts(1) for one in proposals}
    column = int(np.argmax(overlaps.max(axis=0)))
    counts = {}
    for row, one in enumerate(proposals):
        iou = float(overlaps[row, column])
        key = TrustKey(one.source, ability, accepted[column].label)
        counts[key] = TrustCounts(1, int(iou >= SAME_REGION_IOU), iou, 1)
    return counts
