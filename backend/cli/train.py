"""`calico train`: makes calico-tiny from scratch, or fine-tunes any CALICO on records."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.options import is_given, refuse_options
from backend.cli.train_nodes import Launch
from backend.cli.train_runs import RecordsRun, ScenesRun, train_records, train_scenes
from backend.cli.train_states import TrainingStates
from calico_model.errors import InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.training.pretraining.recipe import PretrainingRecipe
from calico_model.training.supervised.recipe import FULL_SIZE, FinetuneRecipe, Sharding

_DEFAULT = PretrainingRecipe()
_SCRATCH = "From scratch (calico-tiny)"
_RECORDS = "Fine-tuning on records (--data)"
_NODES = "Several machines"
_SPEED = "Fine-tuning: memory and speed"


class RecipePreset(StrEnum):
    """Names of the recipes for records."""

    TINY = "tiny"
    FULL = "7b"


_PRESETS = {RecipePreset.TINY: FinetuneRecipe(), RecipePreset.FULL: FULL_SIZE}


def _option(panel: str, help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **settings)


def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Run folder; the same command with the same folder resumes.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of data, weights and wordings.")] = _DEFAULT.seed,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Data-parallel processes per machine: one per GPU, or CPU core."),
    ] = 1,
    nodes: Annotated[
        int, _option(_NODES, "Machines; run the same command on each of them.", min=1)
    ] = 1,
    rendezvous: Annotated[
        str | None,
        _option(
            _NODES,
            "Where they find each other: one of the machines, and a free port of it.",
            metavar="HOST:PORT",
        ),
    ] = None,
    state_url: Annotated[
        str | None,
        _option(
            _NODES,
            "Folder or bucket that gets the states too; a machine without one takes it from there.",
            metavar="URL",
        ),
    ] = None,
    pool: Annotated[
        Path | None, _option(_SCRATCH, "Folder of rendered scenes; OUT/pool when not given.")
    ] = None,
    pool_scenes: Annotated[
        int, _option(_SCRATCH, "Scenes to render before training starts.")
    ] = _DEFAULT.pool_scenes,
    encoder_steps: Annotated[
        int, _option(_SCRATCH, "Steps that teach the encoders alone.")
    ] = _DEFAULT.stages[0].steps,
    joint_steps: Annotated[
        int, _option(_SCRATCH, "Steps that teach questions, names and masks together.")
    ] = _DEFAULT.stages[1].steps,
    refine_steps: Annotated[
        int, _option(_SCRATCH, "Further joint steps, on larger groups and more masks.")
    ] = _DEFAULT.stages[2].steps,
    settle_steps: Annotated[
        int, _option(_SCRATCH, "Steps while the rate decays; unique parts are asked most.")
    ] = _DEFAULT.stages[3].steps,
    widen_steps: Annotated[
        int, _option(_SCRATCH, "Steps after that, most of them on groups of 4 to 6.")
    ] = _DEFAULT.stages[4].steps,
    balance_steps: Annotated[
        int, _option(_SCRATCH, "Steps after that; questions with something to answer come first.")
    ] = _DEFAULT.stages[5].steps,
    start_from: Annotated[
        Path | None,
        _option(_SCRATCH, "Weights to refine; the encoder and joint steps are skipped."),
    ] = None,
    data: Annotated[
        Path | None,
        _option(
            _RECORDS, "Records to learn: a folder of `calico synth`, or MixedParts.", metavar="DIR"
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        _option(_RECORDS, "Records to judge by after each epoch; else --holdout.", metavar="DIR"),
    ] = None,
    weights: Annotated[
        Path | None,
        _option(_RECORDS, "Model folder to start from; calico-tiny by default.", metavar="DIR"),
    ] = None,
    preset: Annotated[
        RecipePreset,
        _option(_RECORDS, "Where the numbers below come from when they are not given."),
    ] = RecipePreset.TINY,
    epochs: Annotated[int | None, _option(_RECORDS, "Epochs; the best is kept.")] = None,
    steps_per_epoch: Annotated[
        int | None, _option(_RECORDS, "Steps of an epoch; 0 shows every sample once.")
    ] = None,
    batch: Annotated[int | None, _option(_RECORDS, "Samples per step, over all processes.")] = None,
    learning_rate: Annotated[
        float | None, _option(_RECORDS, "Peak, after warm-up and before linear decay to 0.")
    ] = None,
    warmup_steps: Annotated[int | None, _option(_RECORDS, "Steps of linear warm-up.")] = None,
    holdout: Annotated[
        float | None, _option(_RECORDS, "Share of the groups kept back for validation.")
    ] = None,
    with_empty: Annotated[
        bool | None,
        _option(_RECORDS, "Also teach to answer that nothing is common, or unique."),
    ] = None,
    focal_gamma: Annotated[
        float | None,
        _option(_RECORDS, "2 is the focal loss of the paper, 0 the pixel loss of its code."),
    ] = None,
    merge: Annotated[
        bool, _option(_RECORDS, "Also write OUT/model, the weights with the adapter folded in.")
    ] = False,
    tensorboard: Annotated[
        bool, _option(_RECORDS, "Write OUT/tensorboard for `tensorboard --logdir OUT`.")
    ] = True,
    mlflow: Annotated[
        str | None, _option(_RECORDS, "MLflow experiment to report to.", metavar="NAME")
    ] = None,
    micro_batch: Annotated[
        int | None, _option(_SPEED, "Samples per forward pass; the rest of a batch accumulates.")
    ] = None,
    precision: Annotated[
        Precision | None, _option(_SPEED, "Precision of the frozen weights; nf4 and int8: QLoRA.")
    ] = None,
    checkpointing: Annotated[
        bool | None, _option(_SPEED, "Recompute the LLM's layers instead of keeping them.")
    ] = None,
    sharding: Annotated[
        Sharding, _option(_SPEED, "What the processes divide besides the samples.")
    ] = Sharding.DDP,
    cache: Annotated[
        Path | None,
        _option(_SPEED, "Keep the frozen encoders' features here: encode once.", metavar="DIR"),
    ] = None,
    cache_gb: Annotated[
        float, _option(_SPEED, "Largest size of that folder; 7B needs 3.1 MiB an image.")
    ] = 200.0,
    checkpoint_every: Annotated[
        int | None,
        _option(_SPEED, "Steps between saved states; a killed run resumes from the last."),
    ] = None,
    log_every: Annotated[int | None, _option(_SPEED, "Steps per row of the curve.")] = None,
) -> None:
    """Train calico-tiny from scratch, or fine-tune a model on records.

    Train from scratch, on pictures that the command draws itself (about 140 a second and core):
    calico train --out run

    Fine-tune calico-tiny on a folder of records, then measure the result:
    calico train --data DIR --out run --merge
    calico evaluate --weights run/model --data OTHER

    Fine-tune the 7B model like the paper, on four GPUs, and encode the images once:
    calico train --preset 7b --weights calico-7b --data mixedparts
    --validation mixed_parts_val.json --cache features --processes 4 --out run

    On several machines, run it on each with --nodes 4 --rendezvous HOST:PORT; the weights are those
    of one machine with as many processes. Both trainings can do that, also started by torchrun.
    With --state-url s3://BUCKET/PREFIX (gs://, file:///), machines with empty disks go on from the
    last state.

    For one 24 GB card, add --precision nf4. To divide the weights among GPUs, add --sharding fsdp,
    or zero2.

    A run may be killed at any moment: the same command continues from the last state and ends in
    the same weights. Ctrl-C saves the state first. A run folder keeps its recipe and data; the
    number of processes and the cache may change.

    OUT gets curve.csv, curve.png, state/, and model/ (from scratch) or adapter/ (fine-tuning:
    LoRA, CAM, CEM, queries and mask decoder, the best by validation loss).

    The last line of the output is JSON: model and adapter, finished (or stopped before the end),
    seconds and, with --state-url, stored; of a fine-tuning also step and best_loss.
    """
    if out.exists() and not out.is_dir():
        raise InvalidConfigError(f"--out: expected a folder, got the file {out}")
    given = {n for n in context.params if is_given(context, n)}
    if "nodes" not in given:
        refuse_options(given & {"rendezvous"}, "is for several machines: give --nodes too")
    launch = Launch(processes, nodes, rendezvous)
    states = TrainingStates(state_url, out)
    if data is None:
        refuse_options(given & set(_RECORDS_OPTIONS), "fine-tunes on records: give --data too")
        steps = (encoder_steps, joint_steps, refine_steps, settle_steps, widen_steps, balance_steps)
        scratch = _scratch_recipe(seed, pool_scenes, steps)
        train_scenes(scratch, ScenesRun(out, pool, start_from, launch, states))
        return
    refuse_options(given & set(_SCRATCH_OPTIONS), "is for training from scratch, not for --data")
    if preset is RecipePreset.FULL and weights is None:
        raise InvalidConfigError("--weights: expected the folder of the 7B model")
    chosen = {n: context.params[n] for n in _RECIPE_OPTIONS if context.params[n] is not None}
    recipe: FinetuneRecipe = replace(_PRESETS[preset], seed=seed, **chosen)
    train_records(
        recipe,
        RecordsRun(
            data=data,
            validation=validation,
            weights=weights,
            out=out,
            cache=cache,
            cache_gb=cache_gb,
            sharding=sharding,
            launch=launch,
            states=states,
            tensorboard=tensorboard,
            mlflow=mlflow,
            merge=merge,
        ),
    )


_SCRATCH_OPTIONS = (
    "pool",
    "pool_scenes",
    "encoder_steps",
    "joint_steps",
    "refine_steps",
    "settle_steps",
    "widen_steps",
    "balance_steps",
    "start_from",
)
_RECIPE_OPTIONS = (
    "epochs",
    "steps_per_epoch",
    "batch",
    "learning_rate",
    "warmup_steps",
    "holdout",
    "with_empty",
    "focal_gamma",
    "micro_batch",
    "precision",
    "checkpointing",
    "checkpoint_every",
    "log_every",
)
_RECORDS_OPTIONS = (
    *_RECIPE_OPTIONS,
    "validation",
    "weights",
    "preset",
    "merge",
    "tensorboard",
    "mlflow",
    "sharding",
    "cache",
    "cache_gb",
)


def _scratch_recipe(seed: int, pool_scenes: int, steps: tuple[int, ...]) -> PretrainingRecipe:
    both = zip(_DEFAULT.stages, steps, strict=True)
    stages = tuple(replace(stage, steps=count) for stage, count in both)
    return replace(_DEFAULT, seed=seed, pool_scenes=pool_scenes, stages=stages)
