"""Whether the same group gets the same answer when it is asked differently.

Two ways of asking: other words for the same question, and the images in another order. One answer
is compared with another; neither is called right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from calico_model.evaluation.metrics import Tally
from calico_model.evaluation.regions import CroppedRegion, merge_by_label
from calico_model.evaluation.units import strict_unit
from calico_model.types import GroupPrediction, ImageGroup, RegionKind

NAMES = ("mask_agreement", "label_agreement", "kind_agreement", "same_answer")


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
    return {item: frozenset(found) for item, found in kinds.items()}
