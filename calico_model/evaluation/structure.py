"""What only a group can get right or wrong: the same part in all images, common or unique.

Works on whole groups of truth and prediction, beside the per-image metrics. Labels are compared in
their normal form. Every function returns (part, whole) of one group, to be pooled like any tally.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD, Tally
from calico_model.evaluation.regions import CroppedRegion, merge_by_label
from calico_model.types import RegionKind

PART_KINDS = (RegionKind.COMMON_PART, RegionKind.UNIQUE_PART)
PAIR_METRICS = ("pair_recall50", "label_consistency")


@dataclass(frozen=True)
class SetScores:
    """Agreement of two label sets, each in [0, 1]; empty against empty is 1."""

    precision: float
    recall: float
    f1: float
    jaccard: float


def compare_sets(predicted: Set[Hashable], truth: Set[Hashable]) -> SetScores:
    """Precision, recall, F1 and Jaccard index of a predicted set of labels."""
    if not predicted | truth:
        return SetScores(1.0, 1.0, 1.0, 1.0)
    shared = len(predicted & truth)
    return SetScores(
        shared / len(predicted) if predicted else 0.0,
        shared / len(truth) if truth else 0.0,
        2 * shared / (len(predicted) + len(truth)),
        shared / len(predicted | truth),
    )


def part_tallies(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> dict[str, Tally]:
    """Finding and sorting parts, over (image, label) items and whatever the masks.

    `part_precision` and `part_recall` pool the items, `part_f1` and `part_jaccard` are means over
    groups; `status_accuracy` is the share of the items both name whose common/unique status is
    right. An item claimed as both is wrong.
    """
    ours, theirs = _statuses(predicted), _statuses(truth)
    shared = ours.keys() & theirs.keys()
    right = sum(ours[item] == theirs[item] for item in shared)
    sets = compare_sets(ours.keys(), theirs.keys())
    return {
        "part_precision": (len(shared), len(ours)),
        "part_recall": (len(shared), len(theirs)),
        "part_f1": (sets.f1, 1.0),
        "part_jaccard": (sets.jaccard, 1.0),
        "status_accuracy": (right, len(shared)),
    }


def pair_tally(predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]) -> Tally:
    """True things found in all their images under one label (pair recall@50).

    A thing counts if one label reaches IoU >= 0.5 with it in every image where it is true; the
    label need not be the true one, which Recall already asks for.

    Args:
        predicted: regions of one common subtask of one group.
        truth: the truth of that subtask.
    """
    found = 0
    things = _by_thing(truth)
    for regions in things:
        fitting = [_labels_on(region, predicted) for region in regions]
        found += bool(frozenset.intersection(*fitting))
    return found, len(things)


def consistency_tally(predicted: Sequence[CroppedRegion], images: int) -> Tally:
    """Predicted common things that carry one identical label in all images of the group."""
    things = _by_thing(predicted)
    same = [
        len({region.label for region in regions}) == 1
        and len({region.image_index for region in regions}) == images
        for regions in things
    ]
    return sum(same), len(things)


def _statuses(regions: Sequence[CroppedRegion]) -> dict[tuple[int, str], set[RegionKind]]:
    statuses: dict[tuple[int, str], set[RegionKind]] = defaultdict(set)
    for region in regions:
        if region.kind in PART_KINDS:
            statuses[region.image_index, region.name].add(region.kind)
    return statuses


def _by_thing(regions: Sequence[CroppedRegion]) -> list[list[CroppedRegion]]:
    """Groups regions by part_id; a region without one is tied to its namesakes."""
    things: dict[tuple[str, str], list[CroppedRegion]] = defaultdict(list)
    for region in regions:
        if region.part_id is None:
            things["label", region.name].append(region)
        else:
            things["part_id", region.part_id].append(region)
    return list(things.values())


def _labels_on(truth: CroppedRegion, predicted: Sequence[CroppedRegion]) -> frozenset[str]:
    """Labels of the predictions that cover a true region well."""
    here = merge_by_label([r for r in predicted if r.image_index == truth.image_index])
    if not here:
        return frozenset()
    overlap = iou_matrix([region.mask for region in here], [truth.mask])[:, 0]
    return frozenset(
        region.name for region, iou in zip(here, overlap, strict=True) if iou >= IOU_THRESHOLD
    )
