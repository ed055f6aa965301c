"""The vocabulary block: how well things are named from a closed set of labels.

Pixels of a label are pooled over the images of a group and over objects or parts alike, so a label
that moves from common to unique costs nothing here. With a vocabulary, predicted labels are first
put into its words, and what fits none is out of vocabulary and dropped, as the product does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from calico_model.evaluation.metrics import Tally
from calico_model.evaluation.regions import Crop, CroppedRegion, shared_pixels, unite
from calico_model.evaluation.units import Unit
from calico_model.vocabulary import Vocabulary, match

TOP = (1, 3)
QUALITY = ("PQ", "SQ", "RQ")
OUT_OF_VOCABULARY = "out_of_vocabulary"
NAMES = ("pixel_mIoU", *QUALITY, *(f"top{top}" for top in TOP), OUT_OF_VOCABULARY)


def translate(
    regions: Sequence[CroppedRegion], vocabulary: Vocabulary | None
) -> tuple[list[CroppedRegion], list[CroppedRegion]]:
    """Splits regions into those a vocabulary has a word for, under that word, and the others.

    Without a vocabulary every region keeps its own name.
    """
    if vocabulary is None:
        return list(regions), []
    known: list[CroppedRegion] = []
    unknown: list[CroppedRegion] = []
    for region in regions:
        label = match(region.label, vocabulary)
        if label is None:
            unknown.append(region)
        else:
            known.append(replace(region, label=label))
    return known, unknown


def pixel_miou(predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]) -> Tally:
    """Mean over the labels of one group of their pooled pixel IoU.

    A label counts if it is true or predicted anywhere in the group.
    """
    ours, theirs = _by_label(predicted), _by_label(truth)
    overlaps = [
        _pooled_iou(ours.get(label, {}), theirs.get(label, {})) for label in {**ours, **theirs}
    ]
    known = [iou for iou in overlaps if iou is not None]
    return (sum(known) / len(known), 1.0) if known else (0.0, 0.0)


def top_tallies(unit: Unit) -> dict[str, Tally]:
    """True regions whose name is among those of the predictions that overlap them most.

    Judges the naming of true masks and leaves the drawing aside: any overlap will do.

    Args:
        unit: one image, every name at most once.
    """
    hits = dict.fromkeys(TOP, 0)
    for truth in range(len(unit.truth_labels)):
        overlap = unit.iou[:, truth]
        best = [p for p in np.argsort(-overlap, kind="stable") if overlap[p] > 0]
        for top in TOP:
            hits[top] += any(unit.same_label[p, truth] for p in best[:top])
    return {f"top{top}": (hits[top], len(unit.truth_labels)) for top in TOP}


def _by_label(regions: Sequence[CroppedRegion]) -> Mapping[str, dict[int, Crop]]:
    """Label -> image -> its merged mask."""
    masks: dict[str, dict[int, list[Crop]]] = defaultdict(lambda: defaultdict(list))
    for region in regions:
        masks[region.name][region.image_index].append(region.mask)
    return {
        label: {image: unite(crops) for image, crops in images.items()}
        for label, images in masks.items()
    }


def _pooled_iou(ours: Mapping[int, Crop], theirs: Mapping[int, Crop]) -> float | None:
    shared = sum(shared_pixels(ours[image], theirs[image]) for image in ours.keys() & theirs.keys())
    united = sum(crop.area for crop in (*ours.values(), *theirs.values())) - shared
    return shared / united if united else None
