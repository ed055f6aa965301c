"""The part questions of the Partonomy benchmark, asked of a group of images.

A question is about one image and one task: which parts can be seen (identification), which of them
the other images have too (intersection), which they have not (difference; asked only where
something is shared). The comparison is with the other images of the group, not with an ontology.

Four protocols say which masks are judged. `teacher`: the true answer is forced and masks are paired
by position to the shorter list, as the released script does (AnselBlume/partonomy,
validate_partonomy.py and evaluators/masks.py): missing masks and questions without any mask cost
nothing. `strict`: the true answer is forced, a missing mask counts 0. `end2end`: the model's own
answer, a true part it did not name counts 0. `end2end_x`: also each named part that is not true
counts 0. Never average them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from calico_model import prompts
from calico_model.evaluation.matching import paired
from calico_model.evaluation.metrics import Tally
from calico_model.evaluation.regions import CroppedRegion, merge_by_label, shared_pixels
from calico_model.evaluation.structure import PART_KINDS, compare_sets
from calico_model.types import LabeledGroup, RegionKind
from calico_model.vocabulary import normalise

TASKS: dict[str, tuple[RegionKind, ...]] = {
    "identification": PART_KINDS,
    "intersection": (RegionKind.COMMON_PART,),
    "difference": (RegionKind.UNIQUE_PART,),
}
"""Task -> the kinds of region that answer it."""

FORCED_MODES = ("teacher", "strict")
OWN_MODES = ("end2end", "end2end_x")
MASK_MODES = FORCED_MODES + OWN_MODES
MASK_METRICS = ("micro_gIoU", "macro_gIoU", "cIoU")
TEXT_METRICS = (
    "part_precision",
    "part_recall",
    "item_precision",
    "item_recall",
    "item_f1",
    "item_jaccard",
    "exact",
)


@dataclass(frozen=True)
class Term:
    """One mask judged: pixels shared and united, and their IoU."""

    shared: float
    united: float
    iou: float


def questions(
    regions: Sequence[CroppedRegion], images: int
) -> Iterator[tuple[str, int, list[CroppedRegion]]]:
    """Yields (task, image, true answer) of every question the truth of a group gives rise to."""
    for image in range(images):
        is_compared = bool(answer_of(regions, "intersection", image))
        for task in TASKS:
            truth = answer_of(regions, task, image)
            if truth and (task != "difference" or is_compared):
                yield task, image, truth


def answer_of(regions: Sequence[CroppedRegion], task: str, image: int) -> list[CroppedRegion]:
    """The regions of a prediction or of the truth that answer a question, in answer order."""
    kinds = TASKS[task]
    return [r for kind in kinds for r in regions if r.kind is kind and r.image_index == image]


def judge(
    mode: str, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> list[Term]:
    """The terms one question adds to the mean IoU under one protocol.

    Args:
        mode: one of `MASK_MODES`.
        predicted: the forced answer for teacher and strict, else the model's own.
        truth: the true parts, at least one.
    """
    if mode == "teacher":
        return [_term(p, t) for p, t in zip(predicted, truth, strict=False)]
    named = merge_by_label(predicted)
    pairs = paired([region.name for region in named], [region.name for region in truth])
    terms = [_term(named[p], truth[t]) for p, t in pairs]
    found, used = {t for _, t in pairs}, {p for p, _ in pairs}
    missed = [truth[t].mask.area for t in range(len(truth)) if t not in found]
    if mode == "end2end_x":
        missed += [named[p].mask.area for p in range(len(named)) if p not in used]
    return terms + [Term(0.0, area, 0.0) for area in missed]


def mask_tallies(terms: Sequence[Term]) -> dict[str, Tally]:
    """micro: every mask counts the same; macro: every question; cIoU: every pixel."""
    total = sum(term.iou for term in terms)
    return {
        "micro_gIoU": (total, len(terms)),
        "macro_gIoU": (total / len(terms), 1.0) if terms else (0.0, 0.0),
        "cIoU": (sum(term.shared for term in terms), sum(term.united for term in terms)),
    }


def text_tallies(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> dict[str, Tally]:
    """Part names as sets: precision and recall pooled (paper) and per question."""
    ours, theirs = {region.name for region in predicted}, {region.name for region in truth}
    sets = compare_sets(ours, theirs)
    return {
        "part_precision": (len(ours & theirs), len(ours)),
        "part_recall": (len(ours & theirs), len(theirs)),
        "item_precision": (sets.precision, 1.0),
        "item_recall": (sets.recall, 1.0),
        "item_f1": (sets.f1, 1.0),
        "item_jaccard": (sets.jaccard, 1.0),
        "exact": (float(ours == theirs), 1.0),
    }


def object_tally(
    labeled: LabeledGroup, regions: Sequence[CroppedRegion], answers: Mapping[str, str]
) -> Tally:
    """Compared objects the part answers call by their name, of all compared objects."""
    named = named_objects(regions, answers)
    right = [
        normalise(named.get(compared.image_index, "")) == normalise(compared.label)
        for compared in labeled.objects
    ]
    return sum(right), len(right)


def named_objects(regions: Sequence[CroppedRegion], answers: Mapping[str, str]) -> dict[int, str]:
    """Image -> the object a part answer says it shows; from the text if there is one."""
    named: dict[int, str] = {}
    for region in regions:
        if region.kind in PART_KINDS and region.object_label:
            named.setdefault(region.image_index, region.object_label)
    for kind in PART_KINDS:
        for phrase in prompts.parse_answer(kind, answers.get(kind, "")).phrases:
            for image in phrase.images if phrase.is_object else ():
                named.setdefault(image, phrase.label)
    return named


def _term(predicted: CroppedRegion, truth: CroppedRegion) -> Term:
    shared = float(shared_pixels(predicted.mask, truth.mask))
    united = predicted.mask.area + truth.mask.area - shared
    return Term(shared, united, shared / united if united else 1.0)
