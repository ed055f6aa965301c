"""What the commands share that teach a trained model a further part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from backend.cli import processes
from backend.cli.rendering import rendered_pool
from backend.cli.waiting import training_bar

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
SeedOption = Annotated[int, typer.Option(min=0, help="Of all that is drawn, and of weights.")]

R = TypeVar("R", bound="AddOnRecipe", contravariant=True)


class Training(Protocol[R]):
    """A training of calico_model."""

    def __call__(
        self,
        recipe: R,
        weights: Path,
        pool: Path,
        out: Path,
        *,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> Path:
        """Returns the new model folder."""


def teach(
    train: Training[R],
    recipe: R,
    *,
    out: Path,
    weights: Path | None,
    pool: Path | None,
    scenes: int,
    size_px: int,
    shown: Sequence[str],
) -> None:
    """Renders scenes, trains, and writes model, finished and seconds as JSON.

    Args:
        train: the training.
        recipe: of it.
        out, weights, pool, scenes: as the options say.
        size_px: side of the scenes that are rendered.
        shown: terms to show while it runs.
    """
    from calico_model.predictor import DEFAULT_WEIGHTS

    is_stopping = processes.stop_requests()
    began = time.monotonic()
    with training_bar("rendering scenes") as advance_to:
        drawn = rendered_pool(
            out, pool, scenes=scenes, seed=recipe.seed, size_px=size_px, advance_to=advance_to
        )

        def show(progress: TrainingProgress) -> None:
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            advance_to(f"{progress.stage} {terms}", progress.step, progress.total)

        folder = train(
            recipe, weights or DEFAULT_WEIGHTS, drawn, out, on_progress=show, stop=is_stopping
        )
    seconds = round(time.monotonic() - began, 1)
    typer.echo(
        json.dumps({"model": str(folder), "finished": not is_stopping(), "seconds": seconds})
    )
