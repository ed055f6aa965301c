"""Parts that repeat under one label: how well each is outlined, with and without mask memory.

The annotator requests a label until each of its two to four pieces is outlined. Every proposal is
corrected, and so approved, before the next request. A model without memory gives the same answer
every time. The truth are the connected pieces of a part above a minimum size: on the network's
128 px, a leg of half a percent of the image is five pixels wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calico_model.data.synthetic import SceneSplit
from calico_model.evaluation.matching import iou_matrix
from calico_model.types import BoolMask, GroupPrediction, LabeledGroup, PartMask, RegionKind
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

MIN_SHARE = 0.01
"""Minimum share of the image of every piece of a part that counts in the figure."""
_SPECK = 0.1  # pieces smaller than this share of the largest are torn off by an occluder
_COUNTS = range(2, 5)
_GROUP_SIZE = 2


@dataclass(frozen=True)
class Repeated:
    """One part in several pieces.

    Attributes:
        smallest: share of the image that the smallest piece covers.
        remembering: IoU of each piece with its proposal, 0 without one.
        forgetting: the same without mask memory.
    """

    smallest: float
    remembering: tuple[float, ...]
    forgetting: tuple[float, ...]


def pieces(mask: BoolMask) -> list[BoolMask]:
    """Returns the 8-connected pieces of a mask, largest first, without specks."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    if not len(areas):
        return []
    return [labels == k + 1 for k in np.argsort(-areas) if areas[k] >= _SPECK * areas.max()]


def repeated_of(subject: Subject, labeled: LabeledGroup) -> Iterator[Repeated]:
    """Yields every part of a group that has two to four pieces in an image."""
    group_prediction: GroupPrediction | None = None
    for part in labeled.parts:
        true_pieces = pieces(part.mask)
        if part.kind is RegionKind.COMMON_OBJECT or len(true_pieces) not in _COUNTS:
            continue
        group_prediction = group_prediction or subject.predictor.predict(labeled.group)
        (whole, *_) = subject.assistant.other_pieces(
            labeled.group, part.image_index, part.label, (), group_prediction, remembers=False
        )
        yield Repeated(
            float(true_pieces[-1].mean()),
            tuple(_remembering(subject, labeled, part, true_pieces, group_prediction)),
            tuple(iou_matrix([whole[0]], true_pieces)[0].tolist()),
        )


def _remembering(
    subject: Subject,
    labeled: LabeledGroup,
    part: PartMask,
    true_pieces: Sequence[BoolMask],
    group_prediction: GroupPrediction,
) -> Iterator[float]:
    """Yields the IoU of each piece when proposals are corrected and approved one by one."""
    remaining, approved = list(true_pieces), list[BoolMask]()
    while remaining:
        proposed = subject.assistant.other_pieces(
            labeled.group, part.image_index, part.label, approved, group_prediction, most=1
        )
        overlaps = iou_matrix([mask for mask, _ in proposed[:1]], remaining) if proposed else None
        if overlaps is None:
            yield from [0.0] * len(remaining)
            return
        best = int(overlaps[0].argmax())
        yield float(overlaps[0, best])
        approved.append(remaining.pop(best))


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    parts: list[Repeated] = []
    for done, labeled in enumerate(
        subject.draw(SceneSplit.SEEN, subject.groups, _GROUP_SIZE), start=1
    ):
        parts.extend(repeated_of(subject, labeled))
        on_step(done)
    large = [part for part in parts if part.smallest >= MIN_SHARE]
    with_memory, without = _means(large)
    rows = [
        TableRow(f"2 to 4 alike parts ({len(large)})", f"{with_memory:.3f} IoU", ">= 0.80"),
        TableRow("  without memory", f"{without:.3f} IoU", "<= 0.55"),
    ]
    for least, most in ((0.0, 0.005), (0.005, 0.01), (0.01, 0.02), (0.02, 1.0)):
        of_size = [part for part in parts if least <= part.smallest < most]
        size = f"{100 * least:g} to {100 * most:g} % of the image ({len(of_size)})"
        both = _means(of_size)
        rows.append(
            TableRow(f"  smallest piece {size}", f"{both[0]:.3f} against {both[1]:.3f} IoU")
        )
    return FigureResult(
        {"repeated_iou": with_memory, "repeated_iou_without_memory": without}, tuple(rows)
    )


def _means(parts: Sequence[Repeated]) -> tuple[float, float]:
    """Mean IoU over all pieces of all parts, with memory and without."""
    if not parts:
        return 0.0, 0.0
    return (
        float(np.mean([iou for part in parts for iou in part.remembering])),
        float(np.mean([iou for part in parts for iou in part.forgetting])),
    )


REPEATED = Figure(
    "Telling alike parts apart",
    ("repeated_iou", "repeated_iou_without_memory"),
    lambda subject: subject.groups,
    _measure,
)
