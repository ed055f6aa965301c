"""What comes in before it is scored: usable regions, what answers are like, which data it is."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from calico_model.evaluation.regions import CroppedRegion, as_regions
from calico_model.prompts import parse_answer
from calico_model.types import GroupPrediction, LabeledGroup, RegionKind


def usable_regions(
    labeled: LabeledGroup, prediction: GroupPrediction
) -> tuple[list[CroppedRegion], list[str]]:
    """Splits predicted regions into those that can be scored and those that lie nowhere.

    Args:
        labeled: the group; regions of subtasks whose truth it does not know are dropped silently.
        prediction: what was found in it.

    Returns:
        The regions with cut masks, in order, and what to say of each misplaced one.
    """
    sizes = labeled.group.sizes_hw
    usable, misplaced = [], []
    for region in prediction.parts:
        if region.kind not in labeled.known:
            continue
        inside = 0 <= region.image_index < len(sizes)
        if inside and region.mask.shape == sizes[region.image_index]:
            usable.append(region)
        else:
            misplaced.append(f"region {region.label!r} of image {region.image_index}")
    return as_regions(usable), misplaced


def judge_answer(
    kind: RegionKind, is_answered: bool, has_truth: bool, prediction: GroupPrediction
) -> Counter[str]:
    """Counts one answer: whether it is rightly or wrongly empty, and whether its text is sound."""
    text = prediction.answers.get(kind)
    return Counter(
        questions=1,
        skipped_regions=0,
        empty_wrongly=int(has_truth and not is_answered),
        empty_rightly=int(not has_truth and not is_answered),
        answered_nothing_to_find=int(is_answered and not has_truth),
        malformed=int(text is not None and parse_answer(kind, text).malformed > 0),
    )


def fingerprint(digest: hashlib._Hash, labeled: LabeledGroup) -> None:
    """Adds the pixels and the whole truth of a group to a digest."""
    for image in labeled.group.images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    digest.update(repr(sorted(labeled.known)).encode())
    for part in labeled.parts:
        named = (part.image_index, str(part.kind), part.label, part.object_label, part.part_id)
        digest.update(repr(named).encode() + np.packbits(part.mask).tobytes())
    for compared in labeled.objects:
        shown = (compared.image_index, compared.label)
        digest.update(repr(shown).encode() + np.packbits(compared.mask).tobytes())
