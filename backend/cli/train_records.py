"""Fine-tuning on records: the paper's training, of any size."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from backend.cli import processes
from backend.cli.waiting import training_bar
from calico_model.errors import InvalidConfigError
from calico_model.training.supervised.recipe import FinetuneRecipe, Sharding

_GIB = 2**30


@dataclass(frozen=True)
class RecordsRun:
    """What `calico train --data` was asked for, beside the recipe.

    Attributes:
        data, validation: records to learn and to judge by.
        weights: to start from; None takes the ones that ship.
        out: run folder.
        cache, cache_gb: folder and ceiling of kept features; no folder keeps none.
        sharding: what processes divide.
        processes: how many.
        tensorboard: write event files.
        mlflow: experiment to report to, or None.
        merge: write a model folder with the adapter folded in as well.
    """

    data: Path
    validation: Path | None
    weights: Path | None
    out: Path
    cache: Path | None
    cache_gb: float
    sharding: Sharding
    processes: int
    tensorboard: bool
    mlflow: str | None
    merge: bool


def train_records(recipe: FinetuneRecipe, run: RecordsRun) -> None:
    """Fine-tunes, or goes on where an interrupted run ended."""
    recipe.check_processes(run.processes)
    if run.cache_gb <= 0:
        raise InvalidConfigError(f"--cache-gb: expected a number above 0, got {run.cache_gb}")
    if run.processes > 1 and not processes.is_launched():
        sys.exit(processes.launch(run.processes))
    from calico_model.predictor import DEFAULT_WEIGHTS
    from calico_model.training.engine import TrainingProgress
    from calico_model.training.supervised.finetune import finetune, merge_adapter
    from calico_model.training.supervised.setup import FinetuneInputs
    from calico_model.training.supervised.tracking import (
        MlflowTracker,
        TensorBoardTracker,
        Tracker,
    )

    weights = run.weights or DEFAULT_WEIGHTS

    def trackers(resume_step: int) -> list[Tracker]:
        opened: list[Tracker] = []
        if run.mlflow is not None:
            opened.append(MlflowTracker(run.mlflow, run.out.name, recipe.lasting()))
        if run.tensorboard:
            folder = run.out / "tensorboard"
            opened.append(TensorBoardTracker(folder, resume_step=resume_step))
        return opened

    is_stopping = processes.stop_requests()
    began = time.monotonic()
    with training_bar("reading records") as advance_to:

        def show(progress: TrainingProgress) -> None:
            shown = ("loss", "text", "mask_iou", "validation_loss")
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            advance_to(f"{progress.stage} {terms}".strip(), progress.step, progress.total)

        result = finetune(
            recipe,
            FinetuneInputs(weights, run.data, run.validation, run.cache, int(run.cache_gb * _GIB)),
            run.out,
            sharding=run.sharding,
            trackers=trackers,
            on_progress=show,
            stop=is_stopping,
        )
    if processes.is_first():
        model = run.out / "model" if run.merge and result.is_finished else None
        if model is not None:
            merge_adapter(weights, result.adapter, model)
        outcome = {
            "adapter": str(result.adapter) if result.adapter.is_dir() else None,
            "model": None if model is None else str(model),
            "finished": result.is_finished,
            "step": result.step,
            "best_loss": result.best_loss,
            "seconds": round(time.monotonic() - began, 1),
        }
        if not result.is_finished:
            Console(stderr=True).print("Stopped; the same command goes on from here.")
        typer.echo(json.dumps(outcome))
    processes.leave()
