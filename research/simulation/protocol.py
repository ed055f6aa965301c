"""An oracle annotator works through groups, and the model that learns from it is measured.

What learns is behind `LearningLoop`: a model in this process or a service over HTTP. After every
point of the curve the same next groups, which nobody corrects, are predicted, and a fixed set of
old ones. Knows groups and metrics; not clocks, files or how anything is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from calico_model.errors import InvalidConfigError
from calico_model.evaluation.annotator import clicks_to, ideal_curve
from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.evaluation.protocol import evaluate
from calico_model.evaluation.regions import CroppedRegion, as_regions
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, RegionKind
from calico_model.vocabulary import normalise
from research.simulation.curve import Point, Simulation, sum_up

POINTS = (0, 1, 2, 5, 10, 20, 50)
_TARGET_IOU = 0.9
_RESAMPLES = 200


class LearningLoop(Protocol):
    """A model in use: it predicts, is corrected, and learns."""

    @property
    def version(self) -> str:
        """Names what answers now."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Finds the regions of a group."""

    def correct(self, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        """Takes in the truth of a group in place of a prediction of it."""

    def learn(self) -> float:
        """Learns from what came in; returns seconds from the trigger to the version in use."""


@dataclass(frozen=True)
class AnnotationEffort:
    """What annotating regions takes, from a prediction or from nothing.

    Attributes:
        clicks: strokes until every mask has an IoU of 0.9, one per name to set, one per region to
            delete.
        pixels: that change.
    """

    clicks: int = 0
    pixels: int = 0

    def __add__(self, other: AnnotationEffort) -> AnnotationEffort:
        return AnnotationEffort(self.clicks + other.clicks, self.pixels + other.pixels)


def simulate(
    loop: LearningLoop,
    domain: Sequence[LabeledGroup],
    base: Sequence[LabeledGroup],
    *,
    points: Sequence[int] = POINTS,
    next_groups: int = 40,
    on_point: Callable[[Point], None] = lambda point: None,
    on_group: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Simulation:
    """Works through a domain.

    Args:
        loop: what learns.
        domain: groups with truth; the first max(points) are corrected in order, the next
            `next_groups` are only predicted, the same ones at every point.
        base: groups that must not get worse.
        points: after how many corrections to measure; rising.
        next_groups: how many to measure on.
        on_point: called with every point of the curve.
        on_group: called with what is being done, the groups done and all.

    Raises:
        InvalidConfigError: points do not rise, or the domain is too small for them.
    """
    _check(points, len(domain), next_groups, len(base))
    last = points[-1]
    coming = domain[last : last + next_groups]
    curve: list[Point] = []
    done = 0
    for corrections in points:
        for labeled in domain[done:corrections]:
            loop.correct(labeled, loop.predict(labeled.group))
        seconds = loop.learn() if corrections > done else 0.0
        done = corrections
        point = _measure(loop, corrections, coming, base, seconds, on_group)
        curve.append(point)
        on_point(point)
    return Simulation(
        tuple(curve),
        sum_up([one.miou for one in curve], [one.old_miou for one in curve]),
        sum_up([one.recall for one in curve], [one.old_recall for one in curve]),
    )


def effort(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion], images: int
) -> AnnotationEffort:
    """Counts what turns regions into the true ones; from nothing if none are predicted."""
    total = AnnotationEffort()
    for image in range(images):
        ours = [region for region in predicted if region.image_index == image]
        theirs = [region for region in truth if region.image_index == image]
        total += _image_effort(ours, theirs)
    return total


def _check(points: Sequence[int], groups: int, next_groups: int, base: int) -> None:
    if not points or points[0] < 0 or any(b <= a for a, b in zip(points, points[1:], strict=False)):
        raise InvalidConfigError(f"points: expected rising numbers from 0, got {list(points)}")
    if next_groups < 1 or base < 1:
        raise InvalidConfigError("expected at least one next group and one base group")
    if groups < points[-1] + next_groups:
        raise InvalidConfigError(
            f"domain: expected at least {points[-1] + next_groups} groups, {points[-1]} to correct "
            f"and {next_groups} to measure on, got {groups}"
        )


class _Watched:
    """A loop whose predictions are counted in effort on their way to the metrics."""

    def __init__(self, loop: LearningLoop, truths: Sequence[LabeledGroup]) -> None:
        self.version = loop.version
        self.spent, self.from_nothing = AnnotationEffort(), AnnotationEffort()
        self.parts = self.parts_found = self.wrong = self.images = 0
        self._loop = loop
        self._truths = iter(truths)

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Passes the group on."""
        prediction = self._loop.predict(group)
        labeled = next(self._truths)
        predicted = [p for p in prediction.parts if p.kind in labeled.known]
        truth = as_regions(labeled.parts)
        self.spent += effort(as_regions(predicted), truth, len(group))
        self.from_nothing += effort((), truth, len(group))
        self.images += len(group)
        for image in range(len(group)):
            self._count(
                [one for one in as_regions(predicted) if one.image_index == image],
                [one for one in truth if one.image_index == image],
            )
        return prediction

    def _count(self, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]) -> None:
        """Counts one image."""
        overlap = iou_matrix([one.mask for one in predicted], [one.mask for one in truth])
        fits = np.array(
            [
                [_is_same(p, t) and overlap[i, k] >= IOU_THRESHOLD for k, t in enumerate(truth)]
                for i, p in enumerate(predicted)
            ],
            dtype=bool,
        ).reshape(len(predicted), len(truth))
        is_part = np.array([t.kind is not RegionKind.COMMON_OBJECT for t in truth], dtype=bool)
        self.parts += int(is_part.sum())
        self.parts_found += int((fits.any(0) & is_part).sum())
        self.wrong += int((~fits.any(1)).sum())


def _is_same(predicted: CroppedRegion, truth: CroppedRegion) -> bool:
    """Whether both have the same name and are both parts or both objects."""
    are_objects = {one.kind is RegionKind.COMMON_OBJECT for one in (predicted, truth)}
    return predicted.name == truth.name and len(are_objects) == 1


def _measure(
    loop: LearningLoop,
    corrections: int,
    coming: Sequence[LabeledGroup],
    base: Sequence[LabeledGroup],
    seconds: float,
    on_group: Callable[[str, int, int], None],
) -> Point:
    watched = _Watched(loop, coming)
    what = f"after {corrections} corrections"
    fresh = evaluate(
        watched,
        coming,
        resamples=_RESAMPLES,
        on_group=lambda done: on_group(f"next groups {what}", done, len(coming)),
    )
    old = evaluate(
        loop,
        base,
        resamples=_RESAMPLES,
        on_group=lambda done: on_group(f"base groups {what}", done, len(base)),
    )
    ours, theirs = fresh.mean["strict"], old.mean["strict"]
    return Point(
        corrections,
        ours["mIoU"].value,
        ours["Recall"].value,
        theirs["mIoU"].value,
        theirs["Recall"].value,
        seconds,
        _saved(watched.spent.clicks, watched.from_nothing.clicks),
        _saved(watched.spent.pixels, watched.from_nothing.pixels),
        loop.version,
        100 * watched.parts_found / watched.parts if watched.parts else 0.0,
        watched.wrong / max(1, watched.images),
    )


def _saved(spent: int, from_nothing: int) -> float:
    return 100 * (1 - spent / from_nothing) if from_nothing else 0.0


def _image_effort(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> AnnotationEffort:
    """One image: regions of one place are edited, or deleted and drawn anew if that takes less;
    others are deleted, or drawn from nothing.
    """
    overlap = iou_matrix([r.mask for r in predicted], [r.mask for r in truth])
    same_kind = [[p.kind is t.kind for t in truth] for p in predicted]
    pairs = {
        t: p
        for p, t in hungarian(overlap * same_kind if len(predicted) and len(truth) else overlap)
        if overlap[p, t] >= IOU_THRESHOLD and same_kind[p][t]
    }
    clicks = len(predicted) - len(pairs)
    pixels = 0
    for t, region in enumerate(truth):
        start = predicted[pairs[t]] if t in pairs else None
        anew = clicks_to(_TARGET_IOU, ideal_curve(None, region.mask)) + 1
        if start is None:
            clicks += anew
        else:
            edited = clicks_to(_TARGET_IOU, ideal_curve(start.mask, region.mask))
            is_named = normalise(start.label) == normalise(region.label)
            clicks += min(edited + (0 if is_named else 1), 1 + anew)
        iou = overlap[pairs[t], t] if t in pairs else 0.0
        if start is None:
            pixels += region.mask.area
        elif iou < _TARGET_IOU:
            shared = iou * (start.mask.area + region.mask.area) / (1 + iou)
            pixels += round(start.mask.area + region.mask.area - 2 * shared)
    return AnnotationEffort(clicks, pixels)
