"""The two trainings of `calico train`: from scratch on drawn scenes, and fine-tuning on records.

Either runs in this process or in several data-parallel ones, on one machine or several.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.cli.progress import print_outcome, stop_requests, training_bar
from backend.cli.train_nodes import (
    Launch,
    is_first,
    is_first_here,
    is_launched,
    is_left,
    leave,
)
from backend.cli.train_peers import gathered
from backend.cli.train_states import TrainingStates
from backend.errors import StoppedError
from calico_model.errors import InvalidConfigError
from calico_model.training.pretraining.recipe import PretrainingRecipe
from calico_model.training.supervised.recipe import FinetuneRecipe, Sharding

_GIB = 2**30


@dataclass(frozen=True)
class RecordsRun:
    """The options of `calico train --data` besides the recipe.

    Attributes:
        data, validation: records to learn and to judge by.
        weights: to start from; None takes the ones that ship.
        out: run folder.
        cache, cache_gb: folder and ceiling of kept features; no folder keeps none.
        sharding: what processes divide.
        launch: how many there are, and where.
        states: where the states of the run are kept besides `out`.
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
    launch: Launch
    states: TrainingStates
    tensorboard: bool
    mlflow: str | None
    merge: bool


def train_records(recipe: FinetuneRecipe, run: RecordsRun) -> None:
    """Fine-tunes on records, or resumes an interrupted run."""
    recipe.check_processes(run.launch.total)
    if run.cache_gb <= 0:
        raise InvalidConfigError(f"--cache-gb: expected a number above 0, got {run.cache_gb}")
    run.launch.start()
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

    is_stopping = _stop_requests()
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
            on_start=run.states.begin,
            on_saved=run.states.saved,
        )

    def conclude() -> dict[str, object]:
        model = run.out / "model" if run.merge and result.is_finished else None
        if model is not None:
            merge_adapter(weights, result.adapter, model)
        return {
            "adapter": result.adapter if result.adapter.is_dir() else None,
            "model": model,
            "step": result.step,
            "best_loss": result.best_loss,
        }

    _end(run.states, conclude, is_finished=result.is_finished, began=began)


@dataclass(frozen=True)
class ScenesRun:
    """The options of `calico train` from scratch besides the recipe.

    Attributes:
        out: run folder.
        pool: folder of rendered scenes; None takes OUT/pool.
        start_from: weights to refine.
        launch: processes, and where they run.
        states: where the states of the run are kept besides `out`.
    """

    out: Path
    pool: Path | None
    start_from: Path | None
    launch: Launch
    states: TrainingStates


def train_scenes(recipe: PretrainingRecipe, run: ScenesRun) -> None:
    """Trains calico-tiny from scratch on rendered scenes."""
    pool = run.pool or run.out / "pool"
    run.launch.check()
    if run.launch.total == 1 and not is_launched():
        with training_bar("rendering scenes") as advance_to:
            _render_scenes(recipe, pool, advance_to)
    run.launch.start()
    _train_on_scenes(recipe, run, pool)


def _render_scenes(
    recipe: PretrainingRecipe,
    pool: Path,
    advance_to: Callable[[str, int, int], None],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Draws the scenes that are missing; returns whether all are there, or it was stopped."""
    from calico_model.data.pool import fill_pool

    total = recipe.pool_scenes

    def show(done: int) -> None:
        advance_to("rendering scenes", min(done, total), total)
        if stop():
            raise StoppedError("drawing scenes was stopped")

    try:
        fill_pool(
            pool,
            scenes=total,
            seed=recipe.seed,
            size_px=128,
            workers=os.cpu_count() or 1,
            on_progress=show,
        )
    except StoppedError:
        return False
    return True


def _train_on_scenes(recipe: PretrainingRecipe, run: ScenesRun, pool: Path) -> None:
    from calico_model.training.engine import TrainingProgress
    from calico_model.training.pretraining.run import pretrain

    is_stopping = _stop_requests()
    began = time.monotonic()
    with training_bar("training") as advance_to:

        def begin() -> None:
            run.states.begin()
            if not is_launched():
                return
            # After the processes have met: a wrong address is found before minutes of drawing.
            is_drawn = not is_first_here() or _render_scenes(
                recipe, pool, advance_to, stop=is_stopping
            )
            if not all(gathered(is_drawn)):
                leave(is_finished=False)

        def show(progress: TrainingProgress) -> None:
            shown = ("text", "dense", "mask_iou")
            terms = " ".join(f"{k} {progress.terms[k]:.3f}" for k in shown if k in progress.terms)
            advance_to(f"{progress.stage}: {terms}", progress.step, progress.total)

        folder = pretrain(
            recipe,
            pool,
            run.out,
            start_from=run.start_from,
            on_progress=show,
            stop=is_stopping,
            on_start=begin,
            on_saved=run.states.saved,
        )
    _end(run.states, lambda: {"model": folder}, is_finished=folder is not None, began=began)


def _stop_requests() -> Callable[[], bool]:
    """Returns a function that is True once somebody asks to stop, or nobody waits for the end."""
    is_asked = stop_requests()
    return lambda: is_asked() or is_left()


def _end(
    states: TrainingStates,
    conclude: Callable[[], Mapping[str, object]],
    *,
    is_finished: bool,
    began: float,
) -> None:
    """Stores the last state, prints the last line, and leaves the processes.

    Args:
        states: of the run.
        conclude: makes what a finished training leaves behind, and says what it is; called before
            the last state is stored, in the first process alone.
        is_finished: whether the training was not stopped.
        began: when it did, by `time.monotonic()`.
    """
    is_stored = None
    if is_first():
        about = conclude()
        is_stored = states.finish()
        print_outcome(about, is_finished=is_finished, began=began, is_stored=is_stored)
    leave(is_finished, is_stored=is_stored is not False)
