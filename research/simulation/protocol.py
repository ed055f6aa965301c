"""An oracle annotator corrects groups, and the model that learns from the corrections is measured.

`LearningLoop` is what learns: a model in this process or a backend over HTTP. At every point of the
curve the model predicts the same next groups, which nobody corrects, and a fixed set of old groups.
This module knows groups and metrics, not clocks, files or how a model learns.
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
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, LabeledGroup, RegionKind
from calico_model.vocabulary import normalise
from research.simulation.curve import Point, Simulation, sum_up

POINTS = (0, 1, 2, 5, 10, 20, 50)
_TARGET_IOU = 0.9
_RESAMPLES = 200


class LearningLoop(Protocol):
    """A model that predicts, is corrected, and learns."""

    @property
    def version(self) -> str:
        """Version that predicts now."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Predicts the regions of a group."""

    def correct(self, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        """Corrects a prediction of a group into the truth."""

    def learn(self) -> float:
        """Learns from the corrections; returns seconds until the new version is in use."""


@dataclass(frozen=True)
class AnnotationEffort:
    """Effort of annotating regions, from a prediction or from scratch.

    Attributes:
        clicks: strokes until every mask has an IoU of 0.9, plus one per label to set and one per
            region to delete.
        pixels: number of pixels that change.
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
    on_point: Callable[[Point], None] = lambda _point: None,
    on_group: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Simulation:
    """Corrects the groups of a domain in order and measures the model at given points.

    Args:
        loop: the model that learns.
        domain: groups with truth; the first max(points) are corrected in order, the next
            `next_groups` are only predicted, the same ones at every point.
        base: groups on which forgetting is measured.
        points: numbers of corrections after which to measure; rising.
        next_groups: number of groups to measure on.
        on_point: called with every point of the curve.
        on_group: called with the work under way, the number of finished groups and of all.

    Raises:
        InvalidConfigError: points do not rise, or the domain has too few groups for them.
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
        sum_up([point.miou for point in curve], [point.old_miou for point in curve]),
        sum_up([point.recall for point in curve], [point.old_recall for point in curve]),
    )


def effort(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion], images: int
) -> AnnotationEffort:
    """Counts the effort of turning predicted regions into the true ones.

    Args:
        predicted: regions to start from; none for annotating from scratch.
        truth: true regions.
        images: number of images in the group.
    """
    total = AnnotationEffort()
    for image in range(images):
        total += _image_effort(
            [region for region in predicted if region.image_index == image],
            [region for region in truth if region.image_index == image],
        )
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


class _MeasuredLoop:
    """Predictor for `evaluate` that also counts effort and right parts of every prediction."""

    def __init__(self, loop: LearningLoop, truths: Sequence[LabeledGroup]) -> None:
        self.version = loop.version
        self.spent, self.from_scratch = AnnotationEffort(), AnnotationEffort()
        self.parts = self.parts_found = self.wrong = self.images = 0
        self._loop = loop
        self._truths = iter(truths)

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Predicts a group; groups have to come in the order of `truths`."""
        prediction = self._loop.predict(group)
        labeled = next(self._truths)
        predicted = [p for p in prediction.parts if p.kind in labeled.known]
        truth = as_regions(labeled.parts)
        self.spent += effort(as_regions(predicted), truth, len(group))
        self.from_scratch += effort((), truth, len(group))
        self.images += len(group)
        for image in range(len(group)):
            self._count(
                [region for region in as_regions(predicted) if region.image_index == image],
                [region for region in truth if region.image_index == image],
            )
        return prediction

    def _count(self, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]) -> None:
        """Counts the true and wrong regions of one image."""
        fits = fitting(predicted, truth)
        is_part = np.array([t.kind is not RegionKind.COMMON_OBJECT for t in truth], dtype=bool)
        self.parts += int(is_part.sum())
        self.parts_found += int((fits.any(0) & is_part).sum())
        self.wrong += int((~fits.any(1)).sum())


def fitting(predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]) -> BoolMask:
    """Tells which predicted regions of one image are right, whatever their kind of part.

    Returns:
        (P, T) bool: both are parts, or both objects, of one name, with an IoU of 0.5 or more.
    """
    overlap = iou_matrix([p.mask for p in predicted], [t.mask for t in truth])
    return np.array(
        [
            [_is_same(p, t) and overlap[i, k] >= IOU_THRESHOLD for k, t in enumerate(truth)]
            for i, p in enumerate(predicted)
        ],
        dtype=bool,
    ).reshape(len(predicted), len(truth))


def _is_same(predicted: CroppedRegion, truth: CroppedRegion) -> bool:
    """Whether both have the same label and are both parts or both objects."""
    are_objects = {region.kind is RegionKind.COMMON_OBJECT for region in (predicted, truth)}
    return predicted.name == truth.name and len(are_objects) == 1


def _measure(
    loop: LearningLoop,
    corrections: int,
    coming: Sequence[LabeledGroup],
    base: Sequence[LabeledGroup],
    seconds: float,
    on_group: Callable[[str, int, int], None],
) -> Point:
    measured = _MeasuredLoop(loop, coming)
    when = f"after {corrections} corrections"
    fresh = evaluate(
        measured,
        coming,
        resamples=_RESAMPLES,
        on_group=lambda done: on_group(f"next groups {when}", done, len(coming)),
    )
    old = evaluate(
        loop,
        base,
        resamples=_RESAMPLES,
        on_group=lambda done: on_group(f"base groups {when}", done, len(base)),
    )
    new_mean, old_mean = fresh.mean["strict"], old.mean["strict"]
    return Point(
        corrections,
        new_mean["mIoU"].value,
        new_mean["Recall"].value,
        old_mean["mIoU"].value,
        old_mean["Recall"].value,
        seconds,
        _saved(measured.spent.clicks, measured.from_scratch.clicks),
        _saved(measured.spent.pixels, measured.from_scratch.pixels),
        loop.version,
        100 * measured.parts_found / measured.parts if measured.parts else 0.0,
        measured.wrong / max(1, measured.images),
    )


def _saved(spent: int, from_scratch: int) -> float:
    """Percent of an effort that is saved; 0 where there is nothing to do."""
    return 100 * (1 - spent / from_scratch) if from_scratch else 0.0


def _image_effort(
    predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
) -> AnnotationEffort:
    """Effort for one image.

    A predicted region in the place of a true one is edited, or deleted and drawn anew if that takes
    fewer clicks. Other predicted regions are deleted, other true ones drawn from scratch.
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
