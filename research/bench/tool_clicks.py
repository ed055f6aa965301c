"""`calico bench tool-clicks`: clicks with the product's own click tool, with and without regions.

`calico simulate` counts ideal strokes: a part costs one stroke, however hard it is to outline, so a
predicted region can hardly save any. Here the simulated annotator uses what the product gives her.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.evaluation.annotator import Repair, click_curve, clicks_to
from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.evaluation.metrics import IOU_THRESHOLD
from calico_model.masks import mask_iou
from calico_model.types import BoolMask, LabeledGroup, PartMask
from calico_model.vocabulary import normalise
from research.bench.photos import SetsOption, find_sets, open_pairs
from research.bench.review import learning_loop

TARGET = 0.85
"""IoU at which the annotator is content."""
MOST_CLICKS = 10
"""Clicks after which an annotator gives the tool up and takes the brush, which counts as much."""
_LEAST_OVERLAP = 0.3  # IoU from which a shown region is corrected instead of deleted
_LABEL, _DELETE = 1, 1


@dataclass(frozen=True)
class TrueRegionEffort:
    """Clicks for one true region.

    Attributes:
        scratch: clicks of the tool from nothing, at most `MOST_CLICKS`.
        score: of the shown region in its place, None without one.
        edited: clicks of the tool from there, one more where the name is wrong.
        is_right: the shown region has the right name and an IoU of 0.5 or more.
    """

    scratch: int
    score: float | None = None
    edited: int = 0
    is_right: bool = False

    @property
    def from_scratch(self) -> int:
        """Clicks to draw and to name the region."""
        return _LABEL + self.scratch

    def clicks(self, threshold: float) -> int:
        """Clicks if regions from a score on are shown: correct, or delete and draw anew."""
        if self.score is None or self.score < threshold:
            return self.from_scratch
        return min(self.edited, _DELETE + self.from_scratch)


@dataclass(frozen=True)
class ImageEffort:
    """Clicks for one image.

    Attributes:
        regions: the true regions.
        wrong: scores of the shown regions that are in the place of no true region.
    """

    regions: tuple[TrueRegionEffort, ...]
    wrong: tuple[float, ...]


def bench_tool_clicks(
    sets: SetsOption,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the set of this name; repeatable.")
    ] = None,
    corrections: Annotated[int, typer.Option(min=1, help="Corrected pairs to learn from.")] = 20,
    next_groups: Annotated[
        int, typer.Option("--next", min=1, help="Pairs to annotate afterwards.")
    ] = 10,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Training, in seconds of processor time.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Annotate photographs with the click tool, with and without pre-annotation.

    Learns from corrected pairs in this process. Then a simulated annotator outlines every region
    of the next pairs with the product's own tool: she clicks in the middle of the largest error
    until the IoU is 0.85, and gives up after 10 clicks. From nothing she also chooses the label.
    A shown region is corrected from an IoU of 0.3 on, or deleted with one click. Of a set with
    few pairs at most two thirds are learned from.

    Example: calico bench tool-clicks --sets photographs

    The last line of the output is JSON, by set: corrected and annotated (pairs that were learned
    from and measured), regions, scratch_median (clicks from nothing),
    right_saves (mean clicks that a right region saves), break_even (chance of being right from
    which showing a region pays), shown and wrong (regions), and clicks_saved in percent by the
    score from which regions are shown.
    """
    figures: dict[str, dict[str, Any]] = {}
    with training_bar("opening sets") as show:
        for folder in find_sets(sets, only=only):
            groups = open_pairs(folder, seed=seed)
            learned = min(corrections, 2 * len(groups) // 3)
            coming = groups[learned : learned + next_groups]
            efforts = _annotate(
                groups[:learned], coming, seconds, weights, device, folder.name, show
            )
            pairs = {"corrected": learned, "annotated": len(coming)}
            figures[folder.name] = pairs | effort_figures(efforts)
            typer.echo(f"{folder.name}: {json.dumps(figures[folder.name])}", err=True)
    print_fitted(_table(figures))
    typer.echo(json.dumps({"sets": figures}))


def effort_figures(efforts: Sequence[ImageEffort]) -> dict[str, Any]:
    """Returns what pre-annotation saves, by the score from which regions are shown.

    Args:
        efforts: of at least one image with a region.
    """
    from calico_model.inference.dense_answers import LEAST_SHOWN

    regions = [region for effort in efforts for region in effort.regions]
    wrong = [score for effort in efforts for score in effort.wrong]
    scratch = sum(region.from_scratch for region in regions)
    saved = [region.from_scratch - region.clicks(0.0) for region in regions if region.is_right]
    right_saves = float(np.mean(saved)) if saved else None

    def saved_from(threshold: float) -> float:
        spent = sum(region.clicks(threshold) for region in regions)
        spent += _DELETE * sum(score >= threshold for score in wrong)
        return round(100 * (1 - spent / scratch), 1) if scratch else 0.0

    thresholds = sorted({LEAST_SHOWN, 0.3, 0.45, 0.6, 0.75})
    return {
        "regions": len(regions),
        "scratch_median": float(np.median([region.scratch for region in regions])),
        "right_saves": None if right_saves is None else round(right_saves, 1),
        "break_even": None
        if right_saves is None or right_saves <= -_DELETE
        else round(_DELETE / (_DELETE + right_saves), 2),
        "shown": sum(region.score is not None for region in regions) + len(wrong),
        "wrong": len(wrong),
        "clicks_saved": {f"{threshold:g}": saved_from(threshold) for threshold in thresholds},
    }


def measure_image(
    labeled: LabeledGroup,
    index: int,
    predicted: Sequence[PartMask],
    repair: Callable[[], Repair],
) -> ImageEffort:
    """Annotates one image with a click tool, from nothing and from the shown regions.

    Args:
        labeled: the group with its truth.
        index: of the image.
        predicted: regions that are shown in that image.
        repair: returns the tool for one region, which answers click after click.
    """
    truth = [part for part in labeled.parts if part.image_index == index]
    places = _places(predicted, truth)
    empty = np.zeros(labeled.group.sizes_hw[index], np.bool_)
    regions = []
    for number, region in enumerate(truth):

        def clicks_from(mask: BoolMask, target: BoolMask = region.mask) -> int:
            curve = click_curve(mask, target, repair=repair(), until=TARGET, most=MOST_CLICKS)
            return min(MOST_CLICKS, clicks_to(TARGET, curve))

        scratch = clicks_from(empty)
        if number not in places:
            regions.append(TrueRegionEffort(scratch))
            continue
        shown = predicted[places[number]]
        is_named = normalise(shown.label) == normalise(region.label)
        edited = clicks_from(shown.mask) + (0 if is_named else _LABEL)
        is_right = is_named and mask_iou(shown.mask, region.mask) >= IOU_THRESHOLD
        regions.append(TrueRegionEffort(scratch, float(shown.score), edited, is_right))
    taken = set(places.values())
    wrong = tuple(float(part.score) for k, part in enumerate(predicted) if k not in taken)
    return ImageEffort(tuple(regions), wrong)


def _places(predicted: Sequence[PartMask], truth: Sequence[PartMask]) -> dict[int, int]:
    """By true region the shown one in its place; of the right name where there is such a one."""
    if not predicted or not truth:
        return {}
    overlap = iou_matrix([part.mask for part in predicted], [part.mask for part in truth])
    objects = [[p.kind.is_part == t.kind.is_part for t in truth] for p in predicted]
    named = [[normalise(p.label) == normalise(t.label) for t in truth] for p in predicted]
    fits = (overlap >= _LEAST_OVERLAP) & np.array(objects)
    value = fits * (overlap + np.array(named))
    return {t: p for p, t in hungarian(value) if fits[p, t]}


def _annotate(
    corrected: Sequence[LabeledGroup],
    coming: Sequence[LabeledGroup],
    seconds: float,
    weights: Path | None,
    device: str,
    name: str,
    show: Any,
) -> list[ImageEffort]:
    """Learns from corrected groups and annotates the coming ones."""
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.assistant import Assistant
    from research.interactive_eval.clicks import ModelRepair

    predictor, loop = learning_loop(weights, device, seconds, name, show)
    for labeled in corrected:
        loop.correct(labeled, loop.predict(labeled.group))
    loop.learn()
    assistant = Assistant(predictor, loop.version)
    efforts = []
    for done, labeled in enumerate(coming, start=1):
        prediction = loop.predict(labeled.group)
        efforts += [
            measure_image(
                labeled,
                index,
                tuple(prediction.of_image(index)),
                partial(ModelRepair, assistant, labeled.group, index),
            )
            for index in range(len(labeled.group))
        ]
        show(f"{name}: annotating", done, len(coming))
    return efforts


def _table(figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Clicks with the click tool", title_justify="left")
    table.add_column("set", overflow="fold")
    columns = ("corrected\npairs", "regions", "clicks from\nnothing", "a right\none saves")
    for column in (*columns, "shown", "wrong", "clicks\nsaved"):
        table.add_column(column, justify="right")
    for name, row in figures.items():
        saves = "-" if row["right_saves"] is None else f"{row['right_saves']:g}"
        pairs, regions = f"{row['corrected']}", f"{row['regions']}"
        values = [pairs, regions, f"{row['scratch_median']:g}", saves]
        first = next(iter(row["clicks_saved"].values()))
        table.add_row(name, *values, f"{row['shown']}", f"{row['wrong']}", f"{first:g} %")
    return table
