"""Structure of a group's answer: parts across images, parts within their object, and repetition.

Three blocks that per-image metrics cannot measure. Across a group: the same part is found in all
images, under one label, as common or unique. Within an image: parts lie inside their object, apart
from each other, and cover it. Consistency: the same group gets the same answer when it is asked in
other words or with its images in another order; neither of the two answers is called right.
Labels are compared in their normal form. Tallies are (part, whole), to be pooled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD, Tally
from calico_model.evaluation.regions import (
    Crop,
    CroppedRegion,
    frame,
    merge_by_label,
    shared_pixels,
    unite,
)
from calico_model.evaluation.units import strict_unit
from calico_model.types import GroupPrediction, ImageGroup, RegionKind
from calico_model.vocabulary import normalise

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
    hits = 0
    things = _by_thing(truth)
    for regions in things:
        fitting = [_labels_on(region, predicted) for region in regions]
        hits += bool(frozenset.intersection(*fitting))
    return hits, len(things)


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


COMPOSITION_METRICS = (
    "hierarchy_violation",
    "outside_object",
    "overlap",
    "coverage",
    "coverage_of_truth",
)


def composition_tallies(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion], compared: Crop | None
) -> dict[str, list[Tally]]:
    """Structure of the parts of one image.

    `hierarchy_violation` is the share of a part outside the object region the model itself drew
    under the name of the part's object (parts without such a region have no say);
    `outside_object` the share outside the true compared object; `overlap` the pixels several parts
    claim over those any part claims; `coverage` the share of the true object some part covers, and
    `coverage_of_truth` the same of the true parts, as its yardstick.

    Args:
        predicted: all regions predicted in the image.
        truth: the true regions of the image.
        compared: the true compared object, None if the data does not hold it.
    """
    parts = [region for region in predicted if region.kind in PART_KINDS and region.mask.area]
    objects = [region for region in predicted if region.kind is RegionKind.COMMON_OBJECT]
    drawn = {region.name: region.mask for region in merge_by_label(objects)}
    tallies: dict[str, list[Tally]] = {name: [] for name in COMPOSITION_METRICS}
    for part in parts:
        whole = drawn.get(normalise(part.object_label)) if part.object_label else None
        if whole is not None:
            tallies["hierarchy_violation"].append((_outside(part.mask, whole), 1.0))
        if compared is not None:
            tallies["outside_object"].append((_outside(part.mask, compared), 1.0))
    masks = [part.mask for part in parts]
    if len(masks) > 1:
        tallies["overlap"].append((_claimed_twice(masks), 1.0))
    if compared is not None and compared.area:
        true_parts = [region.mask for region in truth if region.kind in PART_KINDS]
        tallies["coverage"].append((_covered(masks, compared), 1.0))
        tallies["coverage_of_truth"].append((_covered(true_parts, compared), 1.0))
    return tallies


def _outside(part: Crop, whole: Crop) -> float:
    return 1.0 - shared_pixels(part, whole) / part.area


def _claimed_twice(masks: Sequence[Crop]) -> float:
    box = frame(masks)
    claims = np.sum([mask.window(box) for mask in masks], axis=0, dtype=np.int64)
    return float(np.count_nonzero(claims > 1) / np.count_nonzero(claims))


def _covered(masks: Sequence[Crop], whole: Crop) -> float:
    return shared_pixels(unite(masks), whole) / whole.area if masks else 0.0


CONSISTENCY_METRICS = ("mask_agreement", "label_agreement", "kind_agreement", "same_answer")


def compare_answers(
    first: Sequence[CroppedRegion], second: Sequence[CroppedRegion], images: int
) -> dict[str, Tally]:
    """How far two answers about one group agree.

    `mask_agreement`: per image and subtask with any region, matched IoU over the larger number of
    regions. `label_agreement`: of the matched regions, those of equal name. `kind_agreement`: of
    the (image, name) items both answers hold, those of the same kind. `same_answer`: whether both
    hold exactly the same (image, kind, name) items.
    """
    drawn, pairs, named = [], 0, 0
    for kind in RegionKind:
        for image in range(images):
            ours, theirs = (_of(regions, kind, image) for regions in (first, second))
            if not ours and not theirs:
                continue
            unit = strict_unit(0, ours, merge_by_label(theirs))
            most = max(unit.iou.shape)
            drawn.append(sum(float(unit.iou[pair]) for pair in unit.matched) / most)
            pairs += len(unit.matched)
            named += sum(bool(unit.same_label[pair]) for pair in unit.matched)
    kinds, others = _kinds(first), _kinds(second)
    both = kinds.keys() & others.keys()
    return {
        "mask_agreement": (sum(drawn), len(drawn)),
        "label_agreement": (named, pairs),
        "kind_agreement": (sum(kinds[item] == others[item] for item in both), len(both)),
        "same_answer": (float(kinds == others), 1.0),
    }


def reorder(group: ImageGroup, order: Sequence[int]) -> ImageGroup:
    """Returns the group with its images in another order; `order` holds old positions."""
    return ImageGroup(tuple(group.images[k] for k in order), tuple(group.ids[k] for k in order))


def restore(prediction: GroupPrediction, order: Sequence[int]) -> GroupPrediction:
    """Says of a reordered group's prediction which original image each region lies in."""
    places = dict(enumerate(order))
    parts = tuple(
        replace(part, image_index=places.get(part.image_index, part.image_index))
        for part in prediction.parts
    )
    return replace(prediction, parts=parts)


def _of(regions: Sequence[CroppedRegion], kind: RegionKind, image: int) -> list[CroppedRegion]:
    return [region for region in regions if region.kind is kind and region.image_index == image]


def _kinds(regions: Sequence[CroppedRegion]) -> dict[tuple[int, str], frozenset[RegionKind]]:
    kinds: dict[tuple[int, str], set[RegionKind]] = defaultdict(set)
    for region in regions:
        kinds[region.image_index, region.name].add(region.kind)
    return {item: frozenset(of_item) for item, of_item in kinds.items()}
