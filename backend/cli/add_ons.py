"""Commands that teach a trained model a further part, an add-on, on drawn scenes.

`calico train-assist`, `calico train-refiner`, `calico train-spans` and `calico fit-names`.
Everything that the model has already stays as it is: the result is a copy of the model folder with
the add-on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from backend.cli.progress import print_outcome, stop_requests, training_bar
from calico_model.training.add_ons.recipes import AssistRecipe, RefinerRecipe, SpanRecipe

if TYPE_CHECKING:
    from calico_model.training.add_ons.recipes import AddOnRecipe
    from calico_model.training.engine import OnProgress, TrainingProgress

OutOption = Annotated[
    Path, typer.Option(help="Run folder; the same command with the same folder resumes.")
]
BaseOption = Annotated[
    Path | None, typer.Option("--weights", help="Model folder; the shipped one when not given.")
]
PoolOption = Annotated[
    Path | None, typer.Option(help="Folder of rendered scenes; OUT/pool when not given.")
]
PoolScenesOption = Annotated[
    int, typer.Option(min=1, help="Scenes to render when the pool holds fewer.")
]
ChunksOption = Annotated[
    int,
    typer.Option(min=1, help="Encoded pairs to learn from, in chunks of 32 (20 to 35 MB each)."),
]
StepsOption = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of drawn scenes and of weights.")]

_ASSIST, _REFINER, _SPANS = AssistRecipe(), RefinerRecipe(), SpanRecipe()
_NAME_SCENES = 2500

R = TypeVar("R", bound="AddOnRecipe", contravariant=True)


def train_assist(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 3000,
    chunks: ChunksOption = _ASSIST.chunks,
    steps: StepsOption = _ASSIST.steps,
    seed: SeedOption = _ASSIST.seed,
) -> None:
    """Teach a model the two things it needs beside an annotator.

    Both learn on drawn scenes, and everything else stays as it is:

    - exemplar prompts find an outlined part in the other images of its group.
    - mask memory lets finished parts shape the next one, so that four legs become four regions.

    OUT/model is a copy of the model folder with both. A model without them works as before.

    Example: calico train-assist --out run

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.add_ons.assist import train_assist as train

    _teach(
        train,
        AssistRecipe(seed=seed, chunks=chunks, steps=steps),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=128,
        shown=("exemplar_iou", "memory_iou", "presence_right"),
    )


def train_refiner(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 3000,
    chunks: ChunksOption = _REFINER.chunks,
    steps: StepsOption = _REFINER.steps,
    seed: SeedOption = _REFINER.seed,
) -> None:
    """Teach a model to sharpen masks.

    Simulated annotators click, box and correct on drawn scenes. A small network looks at the
    rectangle of each mask, at the resolution of the picture, and learns to correct the mask. If
    the weights have a refiner already, it continues to learn. Everything else stays as it is.

    OUT/model is a copy of the model folder with the refiner: its predictions have finer outlines,
    and a click means what lies under it. A model without a refiner works as before.

    Example: calico train-refiner --out run

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.add_ons.refiner import train_refiner as train

    _teach(
        train,
        RefinerRecipe(seed=seed, chunks=chunks, steps=steps),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=256,
        shown=("iou_1", "iou_2", "iou_3"),
    )


def train_spans(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 1200,
    chunks: ChunksOption = _SPANS.chunks,
    steps: StepsOption = _SPANS.steps,
    seed: SeedOption = _SPANS.seed,
    anchor: Annotated[
        float,
        typer.Option(
            min=0.0, help="Weight of the pull towards the queries of [SEG]; 0 is none.", metavar="X"
        ),
    ] = _SPANS.anchor_weight,
) -> None:
    """Teach a model to segment the words of an answer instead of [SEG] tokens (Plum).

    A tagger learns which words of an answer name something, and a projection learns to ask the
    mask decoder for them. Answers without tags are read for it; everything else stays as it is.

    OUT/model is a copy of the model folder with both. It answers with [SEG] as before, until
    "query_source" is "span" in its config.json. docs/spans.md has the figures of both.

    Example: calico train-spans --out run

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.add_ons.spans import train_spans as train

    _teach(
        train,
        SpanRecipe(seed=seed, chunks=chunks, steps=steps, anchor_weight=anchor),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=128,
        shown=("iou", "tags_right"),
    )


def fit_names(
    out: Annotated[Path, typer.Option(help="Run folder; the new model is OUT/model.")],
    weights: Annotated[
        Path | None, typer.Option(help="Model folder; the shipped one when not given.")
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Folder of rendered scenes; OUT/pool when not given.")
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=20, help="Scenes to learn from; rendered when the pool is yours.")
    ] = _NAME_SCENES,
    seed: Annotated[int, typer.Option(help="Seed of scenes, outlines and weights.")] = 31,
) -> None:
    """Teach a model to name outlined regions out of a closed label set.

    Drawn scenes are encoded once. Every visible object and part is described by what the encoders
    say inside and around it. A small head learns which of the model's own words belong to it.
    Everything else stays as it is.

    OUT/model is a copy of the model folder with that head. A model without it takes names from its
    answers and from the regions that annotators accepted.

    Example: calico fit-names --out run

    The last line of stdout is JSON: model, regions, names, accuracy (percent of regions that it
    did not learn from), temperature, fusion (the exponents that suit these weights), seconds.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.add_ons.recipes import RegionRecipe
    from calico_model.training.add_ons.region_fit import fit_region_head

    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        folder = _rendered_pool(
            out, pool, scenes=scenes, seed=seed, size_px=128, advance_to=advance_to
        )
        fit = fit_region_head(
            weights or DEFAULT_WEIGHTS,
            folder,
            out,
            RegionRecipe(scenes=scenes, seed=seed),
            on_progress=advance_to,
        )
    typer.echo(
        json.dumps(
            {
                "model": str(fit.model),
                "regions": fit.regions,
                "names": fit.names,
                "accuracy": round(fit.accuracy, 2),
                "temperature": round(fit.temperature, 3),
                "fusion": asdict(fit.fusion),
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )


def show_terms(
    advance_to: Callable[[str, int, int], None], shown: Sequence[str]
) -> Callable[[TrainingProgress], None]:
    """Returns a function that shows the step and some terms of the loss.

    Args:
        advance_to: shows the work, the number of finished steps and of all steps.
        shown: names of the terms.
    """

    def show(progress: TrainingProgress) -> None:
        terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
        advance_to(f"{progress.stage} {terms}", progress.step, progress.total)

    return show


class _Training(Protocol[R]):
    """A training of `calico_model.training.add_ons`."""

    def __call__(
        self,
        recipe: R,
        weights: Path,
        pool: Path,
        out: Path,
        *,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> Path | None:
        """Returns the new model folder; None when it was stopped before the end."""


def _teach(
    train: _Training[R],
    recipe: R,
    *,
    out: Path,
    weights: Path | None,
    pool: Path | None,
    scenes: int,
    size_px: int,
    shown: Sequence[str],
) -> None:
    """Renders scenes, trains an add-on on them, and prints the outcome as JSON.

    Args:
        train: the training of the add-on.
        recipe: its recipe.
        out, weights, pool, scenes: as the options say.
        size_px: side of the scenes that are rendered.
        shown: terms of the loss to show while it runs.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS

    is_stopping = stop_requests()
    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        drawn_pool = _rendered_pool(
            out, pool, scenes=scenes, seed=recipe.seed, size_px=size_px, advance_to=advance_to
        )
        folder = train(
            recipe,
            weights or DEFAULT_WEIGHTS,
            drawn_pool,
            out,
            on_progress=show_terms(advance_to, shown),
            stop=is_stopping,
        )
    print_outcome({"model": folder}, is_finished=folder is not None, began=began)


def _rendered_pool(
    out: Path,
    pool: Path | None,
    *,
    scenes: int,
    seed: int,
    size_px: int,
    advance_to: Callable[[str, int, int], None],
) -> Path:
    """Returns the folder of scenes to learn from; renders the scenes if no folder is given.

    Args:
        out: run folder; scenes are rendered into OUT/pool.
        pool: folder that the user gave, or None.
        scenes: how many to render.
        seed: of the random numbers.
        size_px: side of a scene.
        advance_to: shows the work, the number of finished scenes and of all scenes.
    """
    from calico_model.data.pool import fill_pool

    if pool is not None:
        return pool
    fill_pool(
        out / "pool",
        scenes=scenes,
        seed=seed,
        size_px=size_px,
        workers=os.cpu_count() or 1,
        on_progress=lambda done: advance_to("rendering scenes", done, scenes),
    )
    return out / "pool"
