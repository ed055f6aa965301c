"""NoC@85 with the model in the loop: clicks until a mask is right, from scratch or from a proposal.

The simulated annotator of evaluation/annotator.py clicks in the middle of the largest error. All
clicks so far and the mask before them go to `Assistant.refine`. From scratch nothing is drawn, but
as in the product the model has predicted the group, and a first click may select a predicted part;
the table shows how many clicks that saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from calico_model.assistant import Assistant
from calico_model.data.synthetic import SceneSplit
from calico_model.evaluation import annotator
from calico_model.evaluation.annotator import SimulatedClick
from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.masks import extent_of, mask_iou
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, LabeledGroup, RegionKind
from research.interactive_eval.figure import Figure, FigureResult, OnStep, Subject, TableRow

TARGET = 0.85
_GROUP_SIZE = 2


@dataclass
class ModelRepair:
    """Repairs one mask click by click with the model; remembers all clicks of the mask."""

    assistant: Assistant
    group: ImageGroup
    image_index: int
    group_prediction: GroupPrediction | None = None
    clicks: list[Click] = field(default_factory=list)
    corrects_region: bool = False

    def __call__(self, mask: BoolMask, click: SimulatedClick) -> BoolMask:
        """Returns the mask after one more click."""
        previous = mask if mask.any() else None
        if not self.clicks:
            self.corrects_region = previous is not None
        self.clicks.append(Click(click.column + 0.5, click.row + 0.5, click.is_positive))
        prompt = MaskPrompt(
            tuple(self.clicks), previous=previous, corrects_region=self.corrects_region
        )
        return self.assistant.refine(
            self.group, self.image_index, prompt, self.group_prediction
        ).mask


@dataclass(frozen=True)
class Curves:
    """IoU before the first click and after each, of one region.

    Attributes:
        is_part: True for a part, False for a whole object.
        scratch: starting with an empty mask.
        unseen: the same, without a prediction of the group.
        preannotated: starting with the proposed mask, or with an empty one where there is none.
        boxed: IoU of the mask for the true box alone.
    """

    is_part: bool
    scratch: tuple[float, ...]
    unseen: tuple[float, ...]
    preannotated: tuple[float, ...]
    boxed: float = 0.0


def curves_of(subject: Subject, labeled: LabeledGroup) -> Iterator[Curves]:
    """Yields the curves of every true region of a group."""
    prediction = subject.predictor.predict(labeled.group)
    for index, size_hw in enumerate(labeled.group.sizes_hw):
        regions = [part for part in labeled.parts if part.image_index == index]
        masks = [part.mask for part in regions]
        proposed = _proposed(prediction, index, masks)
        for part, start in zip(regions, proposed, strict=True):
            repair = partial(ModelRepair, subject.assistant, labeled.group, index)
            empty = np.zeros(size_hw, np.bool_)
            curve = partial(annotator.click_curve, truth=part.mask, until=TARGET)
            scratch = curve(empty, repair=repair(group_prediction=prediction))
            yield Curves(
                part.kind is not RegionKind.COMMON_OBJECT,
                scratch,
                curve(empty, repair=repair()),
                scratch if start is None else curve(start, repair=repair()),
                _boxed(subject, labeled.group, index, part.mask),
            )


def _boxed(subject: Subject, group: ImageGroup, index: int, truth: BoolMask) -> float:
    """IoU of the mask that the model answers to the true box."""
    answer = subject.assistant.refine(group, index, MaskPrompt(box=extent_of(truth))).mask
    return mask_iou(answer, truth)


def _proposed(
    prediction: GroupPrediction, image_index: int, truth: list[BoolMask]
) -> list[BoolMask | None]:
    """Per true region the predicted mask that an annotator would correct; labels do not matter."""
    masks = [part.mask for part in prediction.of_image(image_index)]
    pairs = {t: p for p, t in hungarian(iou_matrix(masks, truth))} if masks and truth else {}
    return [masks[pairs[t]] if t in pairs else None for t in range(len(truth))]


def _measure(subject: Subject, on_step: OnStep) -> FigureResult:
    regions: list[Curves] = []
    groups = subject.draw(SceneSplit.SEEN, subject.groups, _GROUP_SIZE)
    for done, labeled in enumerate(groups, start=1):
        regions.extend(curves_of(subject, labeled))
        on_step(done)
    scratch = [annotator.clicks_to(TARGET, curves.scratch) for curves in regions]
    unseen = [annotator.clicks_to(TARGET, curves.unseen) for curves in regions]
    corrected = [annotator.clicks_to(TARGET, curves.preannotated) for curves in regions]
    rows = [
        TableRow("clicks to IoU 0.85, from scratch", _shown(scratch), "median <= 2.0"),
        TableRow("  without what it found by itself", _shown(unseen)),
        TableRow("clicks to IoU 0.85, pre-annotated", _shown(corrected), "median <= 1.0"),
    ]
    for name, is_part in (("parts", True), ("objects", False)):
        counts = [n for n, c in zip(scratch, regions, strict=True) if c.is_part is is_part]
        first = [c.scratch[1] for c in regions if c.is_part is is_part and len(c.scratch) > 1]
        rows.append(TableRow(f"  {name}, from scratch", _shown(counts)))
        rows.append(TableRow(f"  {name}, IoU after one click", f"{np.mean(first) * 100:.1f} %"))
    parts = [curves for curves in regions if curves.is_part]
    clicked = [c.unseen[min(1, len(c.unseen) - 1)] for c in parts]
    boxed = [c.boxed for c in parts]
    rows += [
        TableRow("one click on a part", f"median IoU {_median(clicked):.2f}", "0.55"),
        TableRow("one box around a part", f"median IoU {_median(boxed):.2f}", "0.80"),
    ]
    return FigureResult(
        {
            "noc85_scratch": _median(scratch),
            "noc85_preannotated": _median(corrected),
            "click_iou_median": _median(clicked),
            "box_iou_median": _median(boxed),
        },
        tuple(rows),
    )


def _median(values: Iterable[float]) -> float:
    listed = list(values)
    return float(np.median(listed)) if listed else 0.0


def _shown(counts: list[int]) -> str:
    never = sum(count >= annotator.MAX_CLICKS for count in counts)
    return (
        f"median {_median(counts):.1f}, mean {np.mean(counts):.2f}, {never} of {len(counts)} never"
    )


CLICKS = Figure(
    "Clicking",
    ("noc85_scratch", "noc85_preannotated", "click_iou_median", "box_iou_median"),
    lambda subject: subject.groups,
    _measure,
)
