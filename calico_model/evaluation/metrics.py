"""The metrics of one image of one subtask.

A `Unit` is one (group, image) of one subtask. Every metric but average precision is a sum of parts
over a sum of wholes, so each is a function from a unit to (part, whole); pooling and bootstrap are
then the same for all of them (bootstrap.py). STRICT penalises missing and extra regions; COMPAT
repeats the released GLaMM evaluation, which forgives both. Never average them.

Definitions: MIoU, AP50 and Recall after mbzuai-oryx/groundingLMM eval/gcg/evaluate.py; SS and S-IoU
after the LVIS/PACO region evaluators. That labels are compared through matched masks is an
assumption: CALICO's own evaluation code is not public.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calico_model.evaluation import matching
from calico_model.evaluation.matching import FloatArray
from calico_model.evaluation.units import Unit, normal_form, text_similarity

Tally = tuple[float, float]
"""(part, whole) of one unit; a whole of 0 means that the unit does not count."""

IOU_THRESHOLD = 0.5
TEXT_THRESHOLD = 0.5
MAX_DETECTIONS = 100


def word_overlap(left: str, right: str) -> float:
    """S-IoU of two labels: shared over all words, lower-cased, split on spaces."""
    ours, theirs = set(left.lower().split()), set(right.lower().split())
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0


def strict_hits(iou: FloatArray, similarity: FloatArray) -> int:
    """Largest number of one-to-one pairs that agree in overlap and in name; arguments (P, T)."""
    good = (iou >= IOU_THRESHOLD) & (similarity >= TEXT_THRESHOLD)
    return len(matching.hungarian(good.astype(np.float64)))


def compat_hits(iou: FloatArray, similarity: FloatArray) -> int:
    """Counts greedy pairs by overlap, up to the first that fails in overlap or in name."""
    hits = 0
    for pair in matching.greedy(iou):
        if iou[pair] < IOU_THRESHOLD or similarity[pair] < TEXT_THRESHOLD:
            break
        hits += 1
    return hits


def ranked_hits(
    unit: Unit, *, by_score: bool, same_label: bool = False
) -> list[tuple[float, bool]]:
    """Ranks predictions for average precision: (score, is a hit), best first.

    Each prediction takes the free truth that it overlaps most, if that is at least 0.5 (COCOeval).

    Args:
        unit: the image.
        by_score: by falling score, else in output order with score 1.
        same_label: only truths of the same normalised label can be taken.
    """
    iou = unit.iou * unit.same_label if same_label else unit.iou.copy()
    scores = unit.scores if by_score else np.ones(len(unit.scores))
    ranked = []
    for row in np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]:
        column = int(iou[row].argmax()) if iou.shape[1] else -1
        hit = column >= 0 and bool(iou[row, column] >= IOU_THRESHOLD)
        if hit:
            iou[:, column] = 0
        ranked.append((float(scores[row]), hit))
    return ranked


def _miou(u: Unit) -> Tally:
    most = max(u.iou.shape)
    return (sum(u.iou[pair] for pair in u.matched) / most, 1.0) if most else (0.0, 0.0)


def _miou_compat(u: Unit) -> Tally:
    pairs = u.matched_greedily
    mean = sum(u.iou[pair] for pair in pairs) / len(pairs) if pairs else 0.0
    return mean, float(bool(u.truth_labels))


def _miou_by_label(u: Unit) -> Tally:
    """Mean IoU over every label that is true or claimed: missing and extra labels count 0."""
    names = len(u.truth_labels) + len(u.predicted_labels) - len(u.paired)
    return (sum(u.iou[pair] for pair in u.paired) / names, 1.0) if names else (0.0, 0.0)


def _recall(u: Unit) -> Tally:
    return strict_hits(u.iou, u.similarity), len(u.truth_labels)


def _recall_compat(u: Unit) -> Tally:
    return compat_hits(u.iou, u.similarity), len(u.truth_labels)


def _text(u: Unit, pairs: matching.Pairs, alike: Callable[[str, str], float]) -> float:
    return sum(alike(u.predicted_labels[p], u.truth_labels[t]) for p, t in pairs)


def _word_overlap_normalised(left: str, right: str) -> float:
    return word_overlap(normal_form(left), normal_form(right))


def _text_metric(alike: Callable[[str, str], float], *, compat: bool) -> Callable[[Unit], Tally]:
    """A label metric over mask-matched pairs; strict counts each unmatched truth as 0."""

    def tally(u: Unit) -> Tally:
        if compat:
            return _text(u, u.matched_greedily, alike), len(u.matched_greedily)
        return _text(u, u.matched, alike), len(u.truth_labels)

    return tally


def _giou_micro(u: Unit) -> Tally:
    return sum(u.iou[pair] for pair in u.paired), len(u.truth_labels)


def _giou_micro_compat(u: Unit) -> Tally:
    return sum(u.iou[pair] for pair in u.paired), len(u.paired)


def _giou_macro(u: Unit) -> Tally:
    part, whole = _giou_micro(u)
    return (part / whole, 1.0) if whole else (0.0, 0.0)


def _giou_macro_compat(u: Unit) -> Tally:
    part, whole = _giou_micro_compat(u)
    return (part / whole, 1.0) if whole else (0.0, 0.0)


def _ciou(u: Unit) -> Tally:
    """Shared over united pixels of the true regions; a truth nobody named adds its area."""
    shared = sum(u.intersection[pair] for pair in u.paired)
    named = sum(u.predicted_area[p] for p, _ in u.paired)
    return shared, float(u.truth_area.sum()) + named - shared


def _ciou_compat(u: Unit) -> Tally:
    shared = sum(u.intersection[pair] for pair in u.paired)
    both = sum(u.predicted_area[p] + u.truth_area[t] for p, t in u.paired)
    return shared, both - shared


def _quality_hits(u: Unit) -> list[float]:
    return [float(u.iou[pair]) for pair in u.paired if u.iou[pair] > IOU_THRESHOLD]


def _panoptic(u: Unit) -> Tally:
    return sum(_quality_hits(u)), (len(u.truth_labels) + len(u.predicted_labels)) / 2


def _segmentation_quality(u: Unit) -> Tally:
    return sum(_quality_hits(u)), len(_quality_hits(u))


def _recognition_quality(u: Unit) -> Tally:
    return len(_quality_hits(u)), (len(u.truth_labels) + len(u.predicted_labels)) / 2


STRICT: dict[str, Callable[[Unit], Tally]] = {
    "mIoU": _miou,
    "Recall": _recall,
    "SS": _text_metric(text_similarity, compat=False),
    "S-IoU": _text_metric(word_overlap, compat=False),
    "S-IoU_norm": _text_metric(_word_overlap_normalised, compat=False),
    "mIoU_cls": _miou_by_label,
    "gIoU_micro": _giou_micro,
    "gIoU_macro": _giou_macro,
    "cIoU": _ciou,
    "PQ": _panoptic,
    "SQ": _segmentation_quality,
    "RQ": _recognition_quality,
}
COMPAT: dict[str, Callable[[Unit], Tally]] = {
    "mIoU": _miou_compat,
    "Recall": _recall_compat,
    "SS": _text_metric(text_similarity, compat=True),
    "S-IoU": _text_metric(word_overlap, compat=True),
    "S-IoU_norm": _text_metric(_word_overlap_normalised, compat=True),
    "gIoU_micro": _giou_micro_compat,
    "gIoU_macro": _giou_macro_compat,
    "cIoU": _ciou_compat,
}
