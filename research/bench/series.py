"""`calico bench series`: how well accepted regions are carried through drawn series."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.assistant import Assistant
from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.scene import Scene
from calico_model.data.series import draw_series, part_masks
from calico_model.evaluation.boundary import compare_boundaries
from calico_model.interactive.propagate.series import carry
from calico_model.masks import mask_iou
from calico_model.modeling.features import concatenate
from calico_model.predictor import DEFAULT_WEIGHTS, Predictor, load_predictor
from calico_model.types import BoolMask, ImageGroup, PartMask, RegionKind

MEASURED = (1, 5, 10)
"""Frames after the accepted one at which masks are measured."""
WITH, WITHOUT, PLAIN = "with memory", "without memory", "plain exemplar"


@dataclass(frozen=True)
class Measured:
    """One part on one frame.

    Attributes:
        way: how it was carried.
        after: frames after the accepted one.
        is_there: whether the frame truly shows the part.
        is_lost: whether no mask was drawn.
        j, f: region and boundary agreement in [0, 1].
    """

    way: str
    after: int
    is_there: bool
    is_lost: bool
    j: float
    f: float


def bench_series(
    series: Annotated[int, typer.Option("--series", min=1, help="Number of series.")] = 20,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="What the model has not seen in training.")
    ] = SceneSplit.SEEN,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same series.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Carry every part of frame 1 through drawn series, and measure J and F.

    J is the IoU with the truth, F the agreement of outlines (DAVIS). Frames that do not show the
    part are counted apart: there the right answer is "lost".

    Example: calico bench series --series 20 --split unseen-domain

    The last line of the output is JSON.
    """
    predictor = load_predictor(weights or DEFAULT_WEIGHTS, device=device)
    measured: list[Measured] = []
    with progress_bar("Following parts", series) as show:
        for number in range(series):
            rng = group_rng(Stream.EVALUATION, seed, number)
            measured += measure(predictor, draw_series(rng, max(MEASURED) + 1, split=split))
            show(number + 1)
    figures = figures_of(measured)
    print_fitted(_table(figures))
    typer.echo(json.dumps({"series": series, "split": split} | figures))


def measure(predictor: Predictor, scenes: tuple[Scene, ...]) -> Iterator[Measured]:
    """Carries every part of the first scene, and yields what became of it."""
    images = [scene.image for scene in scenes]
    truths = [part_masks(scene) for scene in scenes]
    encoded = [predictor.encode(ImageGroup((image,), ("image",))) for image in images]
    features = concatenate(encoded)
    assistant = Assistant(predictor)
    with predictor.acquire(ImageGroup((images[0],), ("image",))) as session:
        model = session.model
    for name, first in truths[0].items():
        for way in (WITH, WITHOUT):
            found = carry(model, features, images, {0: first}, remembers=way == WITH)
            for one in found:
                yield _compare(way, one.image, one.mask, truths[one.image].get(name))
        for after in MEASURED:
            if after < len(scenes):
                mask = _transferred(assistant, scenes, after, name, first)
                yield _compare(PLAIN, after, mask, truths[after].get(name))


def _transferred(
    assistant: Assistant, scenes: tuple[Scene, ...], after: int, name: str, first: BoolMask
) -> BoolMask:
    """The part as it is proposed on another image of a group without an order."""
    group = ImageGroup((scenes[0].image, scenes[after].image), ("first", "later"))
    part = PartMask(0, RegionKind.COMMON_PART, name, first)
    mask = first & False
    for proposal in assistant.transfer(group, part):
        for region in proposal.parts:
            if region.image_index == 1:
                mask = mask | region.mask
    return mask


def _compare(way: str, after: int, mask: BoolMask, truth: BoolMask | None) -> Measured:
    is_lost = not mask.any()
    if truth is None:
        return Measured(way, after, False, is_lost, 0.0, 0.0)
    f = compare_boundaries(mask, truth).f_score
    return Measured(way, after, True, is_lost, mask_iou(mask, truth), f)


def figures_of(measured: list[Measured]) -> dict[str, object]:
    """Means in percent, per way and number of frames."""
    there: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for one in measured:
        if one.is_there and one.after in MEASURED:
            there[one.way, one.after].append(one)
    figures: dict[str, object] = {}
    for way in (WITH, WITHOUT, PLAIN):
        figures[way] = {
            str(after): {
                "J": _percent([one.j for one in there[way, after]]),
                "F": _percent([one.f for one in there[way, after]]),
                "J&F": _percent([(one.j + one.f) / 2 for one in there[way, after]]),
                "parts": len(there[way, after]),
            }
            for after in MEASURED
        }
    carried = [one for one in measured if one.way == WITH]
    gone = [one.is_lost for one in carried if not one.is_there]
    shown = [one.is_lost for one in carried if one.is_there]
    wrong = [one for one in carried if not one.is_lost and one.j < 0.3]
    figures["lost where it is gone"] = _percent(gone)
    figures["gone"] = len(gone)
    figures["lost where it is there"] = _percent(shown)
    figures["there"] = len(shown)
    figures["wrong masks"] = _percent([one in wrong for one in carried])
    return figures


def _percent(values: list[float] | list[bool]) -> float | None:
    return round(100 * mean(map(float, values)), 1) if values else None


def _table(figures: dict[str, object]) -> Table:
    table = Table(title="J&F in percent", title_justify="left")
    table.add_column("carried")
    for after in MEASURED:
        table.add_column(f"after {after}", justify="right", no_wrap=True)
    for way in (WITH, WITHOUT, PLAIN):
        of_way = figures[way]
        assert isinstance(of_way, dict)
        table.add_row(way, *(str(of_way[str(after)]["J&F"]) for after in MEASURED))
    return table
