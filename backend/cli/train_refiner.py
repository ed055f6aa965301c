"""`calico train-refiner`: teaches a trained model to sharpen masks on the pixels around them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.cli import processes
from backend.cli.rendering import rendered_pool
from backend.cli.waiting import training_bar
from calico_model.training.refiner_recipe import RefinerRecipe

_DEFAULT = RefinerRecipe()


def train_refiner(
    out: Annotated[
        Path, typer.Option(help="Run folder; the same command with the same folder resumes.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Model folder; the shipped one when not given.")
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Folder of rendered scenes; OUT/pool when not given.")
    ] = None,
    pool_scenes: Annotated[
        int, typer.Option(min=1, help="Scenes to render when the pool holds fewer.")
    ] = 3000,
    chunks: Annotated[
        int, typer.Option(min=1, help="Encoded pairs to learn from, in chunks of 32 (35 MB each).")
    ] = _DEFAULT.chunks,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = _DEFAULT.steps,
    seed: Annotated[int, typer.Option(help="Of pairs, annotators and weights.")] = _DEFAULT.seed,
) -> None:
    """Teach a model to sharpen masks.

    Simulated annotators click, box and correct on drawn scenes; a small network looks at each
    mask's own rectangle of the picture, at the picture's resolution, and learns to mend it.
    Everything else stays as it is. OUT/model is then a copy of the model folder that has it: its
    predictions have finer outlines, and a click means what lies under it. A model without it works
    as before.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training import refiner_training
    from calico_model.training.assist_training import AssistProgress

    recipe = RefinerRecipe(seed=seed, chunks=chunks, steps=steps)
    is_stopping = processes.stop_requests()
    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        scenes = rendered_pool(
            out, pool, scenes=pool_scenes, seed=seed, size_px=256, advance_to=advance_to
        )

        def show(progress: AssistProgress) -> None:
            terms = " ".join(f"{k} {v:.3f}" for k, v in progress.terms.items() if k[:3] == "iou")
            advance_to(f"{progress.stage} {terms}", progress.step, progress.total)

        folder = refiner_training.train_refiner(
            recipe, weights or DEFAULT_WEIGHTS, scenes, out, on_progress=show, stop=is_stopping
        )
    seconds = round(time.monotonic() - began, 1)
    typer.echo(
        json.dumps({"model": str(folder), "finished": not is_stopping(), "seconds": seconds})
    )
