"""`calico bench parallel`: compares training on one process and on several, step by step."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.errors import BackendError
from calico_model.training.supervised.recipe import Sharding

_COMPARED = ("loss", "text", "pixel", "dice", "mask_iou", "gradient")


def bench_parallel(
    data: Annotated[Path, typer.Option(help="Records, as `calico synth` writes.", metavar="DIR")],
    weights: Annotated[
        Path | None, typer.Option(help="Model folder; calico-tiny by default.", metavar="DIR")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=2, help="Number of processes to compare with one.")
    ] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 20,
    micro_batches: Annotated[
        int, typer.Option(min=1, help="Forward passes per step and process.")
    ] = 2,
    sharding: Annotated[Sharding, typer.Option(help="What the processes divide.")] = Sharding.DDP,
    out: Annotated[Path | None, typer.Option(help="Keep both runs here.", metavar="DIR")] = None,
) -> None:
    """Train the same steps in one process and in several, and compare the curves.

    Both runs see the same samples in the same micro-batches. Only the order in which gradients are
    summed differs. Each run takes its share of the cores of this machine, so the seconds do not
    measure speed.

    Example: calico bench parallel --data DIR

    The last line of the output is JSON: max_abs_difference and max_rel_difference of the loss over
    all steps, max_weight_difference at the end, and final_loss of both.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        common = ["--data", str(data), "--epochs", "1", "--steps-per-epoch", str(steps)]
        common += ["--micro-batch", "2", "--batch", str(2 * micro_batches * processes)]
        common += ["--log-every", "1", "--holdout", "0", "--no-tensorboard"]
        common += ["--checkpoint-every", str(steps), "--warmup-steps", str(max(1, steps // 10))]
        common += ["--weights", str(weights)] if weights else []
        spread = ["--processes", str(processes), "--sharding", str(sharding)]
        runs = [folder / "one", folder / "several"]
        with progress_bar("Training", 2) as advance_to:
            for n, (run, options) in enumerate(zip(runs, ([], spread), strict=True)):
                _train(run, [*common, *options])
                advance_to(n + 1)
        one, several = (_curve(run) for run in runs)
        weights_apart = _weight_difference(*runs)
    print_fitted(_table(one, several))
    losses = [(row["loss"], other["loss"]) for row, other in zip(one, several, strict=True)]
    outcome = {
        "processes": processes,
        "steps": steps,
        "sharding": str(sharding),
        "max_abs_difference": max(abs(a - b) for a, b in losses),
        "max_rel_difference": max(abs(a - b) / a for a, b in losses),
        "max_weight_difference": weights_apart,
        "final_loss": [losses[-1][0], losses[-1][1]],
    }
    typer.echo(json.dumps(outcome))


def _train(out: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "backend.cli", "train", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"calico train failed: {done.stderr.strip().splitlines()[-1]}")


def _curve(out: Path) -> list[dict[str, float]]:
    with (out / "curve.csv").open(newline="") as file:
        return [{n: float(row[n]) for n in _COMPARED} for row in csv.DictReader(file)]


def _weight_difference(one: Path, several: Path) -> float:
    from safetensors.numpy import load_file

    states = [
        load_file(next((out / "state").glob("step-*/*.safetensors"))) for out in (one, several)
    ]
    names = [name for name in states[0] if name.startswith("weight/")]
    return max(float(abs(states[0][name] - states[1][name]).max()) for name in names)


def _table(one: list[dict[str, float]], several: list[dict[str, float]]) -> Table:
    table = Table("value", "one process, last step", "several", "largest difference")
    for name in _COMPARED:
        largest = max(abs(a[name] - b[name]) for a, b in zip(one, several, strict=True))
        table.add_row(name, f"{one[-1][name]:.5g}", f"{several[-1][name]:.5g}", f"{largest:.2g}")
    return table
