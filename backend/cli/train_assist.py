"""`calico train-assist`: teaches a trained model to help while somebody annotates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.cli import processes
from backend.cli.rendering import rendered_pool
from backend.cli.waiting import training_bar
from calico_model.training.assist_recipe import AssistRecipe

_DEFAULT = AssistRecipe()


def train_assist(
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
        int, typer.Option(min=1, help="Encoded pairs to learn from, in chunks of 32 (20 MB each).")
    ] = _DEFAULT.chunks,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = _DEFAULT.steps,
    seed: Annotated[int, typer.Option(help="Of pairs, questions and weights.")] = _DEFAULT.seed,
) -> None:
    """Teach a model what it needs beside an annotator.

    Two add-ons learn on drawn scenes while everything else stays as it is: exemplar prompts, which
    find an outlined part in the other images of its group, and mask memory, which lets outlined
    parts condition the next one, so that four legs come out as four regions. OUT/model is then a
    copy of the model folder that has both. A model without them works as before.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training import assist_training

    recipe = AssistRecipe(seed=seed, chunks=chunks, steps=steps)
    is_stopping = processes.stop_requests()
    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        scenes = rendered_pool(
            out, pool, scenes=pool_scenes, seed=seed, size_px=128, advance_to=advance_to
        )

        def show(progress: assist_training.AssistProgress) -> None:
            shown = ("exemplar_iou", "memory_iou", "presence_right")
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            advance_to(f"{progress.stage} {terms}", progress.step, progress.total)

        folder = assist_training.train_assist(
            recipe, weights or DEFAULT_WEIGHTS, scenes, out, on_progress=show, stop=is_stopping
        )
    seconds = round(time.monotonic() - began, 1)
    typer.echo(
        json.dumps({"model": str(folder), "finished": not is_stopping(), "seconds": seconds})
    )
