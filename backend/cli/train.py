"""`calico train`: makes calico-tiny from nothing but the procedural generator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar

from calico_model.training.recipe import Recipe

_DEFAULT = Recipe()


def train(
    out: Annotated[
        Path, typer.Option(help="Run folder: state/, curve.csv, curve.png and model/ go here.")
    ],
    pool: Annotated[
        Path | None, typer.Option(help="Folder of rendered scenes; OUT/pool when not given.")
    ] = None,
    pool_scenes: Annotated[
        int, typer.Option(help="Scenes to render before training starts.")
    ] = _DEFAULT.pool_scenes,
    encoder_steps: Annotated[
        int, typer.Option(help="Steps that teach the encoders alone.")
    ] = _DEFAULT.stages[0].steps,
    joint_steps: Annotated[
        int, typer.Option(help="Steps that teach questions, names and masks together.")
    ] = _DEFAULT.stages[1].steps,
    refine_steps: Annotated[
        int, typer.Option(help="Further joint steps, on larger groups and more masks.")
    ] = _DEFAULT.stages[2].steps,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Weights to refine; the encoder and joint steps are skipped."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, weights and wordings.")] = _DEFAULT.seed,
    processes: Annotated[
        int, typer.Option(help="Data-parallel processes: one per GPU, or per CPU core.")
    ] = 1,
) -> None:
    """Trains calico-tiny; run the same command again to resume after an interruption.

    The first run renders the scenes (about 140 a second and core), then trains. Ctrl-C saves the
    state and ends. `calico evaluate --weights OUT/model` measures the result.
    """
    from torch import distributed

    pool = pool or out / "pool"
    recipe = replace(
        _DEFAULT,
        seed=seed,
        pool_scenes=pool_scenes,
        stages=(
            replace(_DEFAULT.stages[0], steps=encoder_steps),
            replace(_DEFAULT.stages[1], steps=joint_steps),
            replace(_DEFAULT.stages[2], steps=refine_steps),
        ),
    )
    if not distributed.is_torchelastic_launched():
        _render(recipe, pool)
        if processes > 1:
            sys.exit(_launch(processes, recipe, out, pool, start_from))
    _train(recipe, out, pool, start_from)


def _render(recipe: Recipe, pool: Path) -> None:
    from calico_model.data.pool import fill_pool

    with _bar() as bar:
        task = bar.add_task("rendering scenes", total=recipe.pool_scenes)
        fill_pool(
            pool,
            scenes=recipe.pool_scenes,
            seed=recipe.seed,
            size_px=128,
            workers=os.cpu_count() or 1,
            on_progress=lambda done: bar.update(task, completed=min(done, recipe.pool_scenes)),
        )


def _launch(processes: int, recipe: Recipe, out: Path, pool: Path, start_from: Path | None) -> int:
    arguments = [
        *("--out", str(out), "--pool", str(pool), "--seed", str(recipe.seed)),
        *("--pool-scenes", str(recipe.pool_scenes)),
        *("--encoder-steps", str(recipe.stages[0].steps)),
        *("--joint-steps", str(recipe.stages[1].steps)),
        *("--refine-steps", str(recipe.stages[2].steps)),
        *(("--start-from", str(start_from)) if start_from else ()),
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return subprocess.call([*launcher, "--module", "backend.cli.train", *arguments])


def _train(recipe: Recipe, out: Path, pool: Path, start_from: Path | None) -> None:
    from torch import distributed

    from calico_model.training.pretrain import Progress, train

    is_stopping = False

    def request_stop(*_: object) -> None:
        nonlocal is_stopping
        is_stopping = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    began = time.monotonic()
    with _bar() as bar:
        task = bar.add_task("training", total=sum(s.steps for s in recipe.stages), visible=False)

        def show(progress: Progress) -> None:
            shown = ("text", "dense", "mask_iou")
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            text = f"{progress.stage}: {terms}"
            bar.update(task, completed=progress.step, description=text, visible=True)

        folder = train(
            recipe,
            pool,
            out,
            start_from=start_from,
            on_progress=show,
            stop=lambda: is_stopping,
        )
    seconds = round(time.monotonic() - began, 1)
    outcome = {"model": str(folder), "finished": not is_stopping, "seconds": seconds}
    # Of several processes only the first reports.
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        typer.echo(json.dumps(outcome))


def _bar() -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


if __name__ == "__main__":
    typer.run(train)
