"""The training of a part that is added to a frozen CALICO: a task, its run, the new model folder.

A step depends on its number alone, so a run that was interrupted anywhere ends in the same weights.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from calico_model.loading.checkpoints import fingerprint, load_model, save_model
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.recipes import AddOnRecipe
from calico_model.training.engine import OnProgress, TrainingLoop, TrainingProgress
from calico_model.training.state import Position, StateFolder, gather_state, restore_state

_LOG_EVERY = 10


class AddOnTask(nn.Module, ABC):
    """What an add-on learns: a module of all parameters that learn; the others are frozen."""

    @abstractmethod
    def training_step(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draws the data of a 0-based step and runs it.

        Returns:
            The loss with its gradient, and scalar losses and metrics to show.
        """


def train_add_on(
    name: str,
    recipe: AddOnRecipe,
    weights: Path,
    out: Path,
    build: Callable[[Calico, Tokenizer], AddOnTask],
    *,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> Path | None:
    """Adds a trained part to a model folder.

    Args:
        name: of the training in its curve.
        recipe: what to do; the same recipe and folders resume an interrupted run.
        weights: model folder; other add-ons it has stay as they are.
        out: gets `state/`, `curve.csv`, `curve.png` and, when done, `model/`: a copy of `weights`
            with the part.
        build: puts the part into the loaded model, prepares the data and returns the task.
        on_progress: called every few steps.
        stop: asked every step; True saves the state and returns.

    Returns:
        The new model folder; None when it was stopped before the end.

    Raises:
        CheckpointError: broken weights or state.
        InvalidConfigError: the run in `out` was started with another recipe or other weights.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(recipe.seed)
    task = build(model, tokenizer)
    run = _AddOnRun(task, recipe, out, name=name, base=fingerprint(weights))

    def report(progress: TrainingProgress) -> None:
        on_progress(replace(progress, stage="training"))

    if not run.train(report, stop):
        return None
    shutil.rmtree(out / "model", ignore_errors=True)
    shutil.copytree(weights, out / "model")
    save_model(model, tokenizer, out / "model", dtype=torch.bfloat16)
    return out / "model"


class _AddOnRun(TrainingLoop[int]):
    """One stage on one process; the data of a step is its number, for the task draws by itself."""

    logs_rate = False

    def __init__(
        self, task: AddOnTask, recipe: AddOnRecipe, out: Path, *, name: str, base: str
    ) -> None:
        """Continues from the newest state in `out/state`, if there is one.

        Args:
            task: what learns.
            recipe: how.
            out: run folder.
            name: of the stage in the curve.
            base: fingerprint of the frozen weights.

        Raises:
            CheckpointError: broken state.
            InvalidConfigError: the state is of another recipe or other weights.
        """
        self._task, self._recipe, self._name = task, recipe, name
        task.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            list(task.parameters()), lr=1e-3, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        super().__init__(
            task,
            optimizer,
            out,
            stage_ends=[recipe.steps],
            clip_norm=recipe.clip_norm,
            log_every=_LOG_EVERY,
            checkpoint_every=recipe.checkpoint_every,
        )
        self._states = StateFolder(out / "state", recipe.lasting() | {"weights": base})
        state = self._states.load()
        if state is not None:
            position, tensors = state
            restore_state(self.parameters(), optimizer, tensors, _tensor_name)
            self.step = position.step

    def stage_name(self, stage: int) -> str:
        return self._name

    def rate_at(self, step: int) -> float:
        return self._recipe.rate_at(step)

    def draw(self, step: int) -> int:
        return step

    def backward(self, batch: int) -> dict[str, Tensor]:
        loss, terms = self._task.training_step(batch)
        torch.autograd.backward(loss)
        return terms

    def save(self) -> None:
        tensors = gather_state(self.parameters(), self.optimizer, _tensor_name)
        self._states.save(Position(self.step), tensors)
        self.plot()


def _tensor_name(kind: str, parameter: str) -> str:
    return parameter if kind == "weight" else f"{kind}.{parameter}"
