"""Training calico-tiny from nothing but the procedural generator."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import typer

from backend.cli import processes
from backend.cli.waiting import training_bar
from calico_model.training.pretraining.recipe import PretrainingRecipe


def train_scenes(
    recipe: PretrainingRecipe, out: Path, pool: Path | None, start_from: Path | None, count: int
) -> None:
    """Renders scenes, then trains on them with `count` processes."""
    pool = pool or out / "pool"
    if not processes.is_launched():
        _render(recipe, pool)
        if count > 1:
            sys.exit(processes.launch(count))
    _train(recipe, out, pool, start_from)


def _render(recipe: PretrainingRecipe, pool: Path) -> None:
    from calico_model.data.pool import fill_pool

    total = recipe.pool_scenes
    with training_bar("rendering scenes") as advance_to:
        fill_pool(
            pool,
            scenes=total,
            seed=recipe.seed,
            size_px=128,
            workers=os.cpu_count() or 1,
            on_progress=lambda done: advance_to("rendering scenes", min(done, total), total),
        )


def _train(recipe: PretrainingRecipe, out: Path, pool: Path, start_from: Path | None) -> None:
    from calico_model.training.engine import TrainingProgress
    from calico_model.training.pretraining.run import pretrain

    is_stopping = processes.stop_requests()
    began = time.monotonic()
    with training_bar("training") as advance_to:

        def show(progress: TrainingProgress) -> None:
            shown = ("text", "dense", "mask_iou")
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            advance_to(f"{progress.stage}: {terms}", progress.step, progress.total)

        folder = pretrain(
            recipe, pool, out, start_from=start_from, on_progress=show, stop=is_stopping
        )
    seconds = round(time.monotonic() - began, 1)
    outcome = {"model": str(folder), "finished": not is_stopping(), "seconds": seconds}
    if processes.is_first():
        typer.echo(json.dumps(outcome))
    processes.leave()
