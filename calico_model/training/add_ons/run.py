"""One training of a part that is added to a frozen CALICO: weights, optimiser, counters, state.

What a step asks and how it is judged is the caller's; a step depends on its number alone, so a run
that was interrupted anywhere ends in the same weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from calico_model.data.pool import ScenePool
from calico_model.loading.checkpoints import fingerprint, load_model, save_model
from calico_model.modeling.model import Calico
from calico_model.training.add_ons.assist_lessons import LessonFolder, Lessons
from calico_model.training.add_ons.recipe import AddOnRecipe
from calico_model.training.curves import CurveLog
from calico_model.training.state import Position, StateFolder

_LOG_EVERY = 10

Terms = Mapping[str, Tensor]
TrainingTarget = Callable[[int], tuple[Tensor, Terms]]
"""0-based step -> loss with gradient, and what to show of it."""


@dataclass(frozen=True)
class AddOnProgress:
    """Where training is.

    Attributes:
        stage: "encoding" or "training".
        step: chunks or steps done.
        total: of all.
        terms: latest averaged losses and metrics.
    """

    stage: str
    step: int
    total: int
    terms: dict[str, float] = field(default_factory=dict)


class Taught(Protocol):
    """A module whose parameters learn, all else is frozen."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of `nn.Module`."""


class AddOnTask(Taught, Protocol):
    """What is taught on chunks of lessons."""

    def lesson(
        self, lessons: Lessons, rng: np.random.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step on one chunk: loss with gradient, and what to show of it."""

    def finish(self) -> None:
        """Called once, when all steps are done."""


def teach_add_on(
    name: str,
    recipe: AddOnRecipe,
    build: Callable[[Calico, Callable[[int], Lessons]], AddOnTask],
    weights: Path,
    pool: Path,
    out: Path,
    *,
    on_progress: Callable[[AddOnProgress], None],
    stop: Callable[[], bool],
) -> Path:
    """Adds a trained part to a model folder.

    Args:
        name: of the training in its curve.
        recipe: what to do; the same recipe and folders resume an interrupted run.
        build: model and chunks of lessons to what is taught; puts the part into the model.
        weights: model folder; other add-ons it has stay as they are.
        pool: rendered scenes (see `pool.fill_pool`).
        out: gets `lessons/`, `state/`, `curve.csv`, `curve.png` and, when done, `model/`: a copy
            of `weights` with the part.
        on_progress: called after each chunk and every few steps.
        stop: asked every step; True saves the state and returns.

    Returns:
        The new model folder.

    Raises:
        CheckpointError: broken weights or state.
        InvalidConfigError: the run in `out` was started with another recipe or other weights.
        InvalidRecordError: no scenes.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(recipe.seed)
    folder = LessonFolder(out / "lessons", model, tokenizer, ScenePool(pool), seed=recipe.seed)
    folder.fill(
        recipe.chunks, lambda done: on_progress(AddOnProgress("encoding", done, recipe.chunks))
    )
    course = build(model, folder.read)
    run = AddOnRun(course, recipe, out, name=name, base=fingerprint(weights))

    def lesson(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng((recipe.seed, 1, step))
        return course.lesson(folder.read(int(rng.integers(recipe.chunks))), rng, step)

    def show(step: int, terms: dict[str, float]) -> None:
        on_progress(AddOnProgress("training", step, recipe.steps, terms))

    if run.train(lesson, show, stop):
        course.finish()
        shutil.rmtree(out / "model", ignore_errors=True)
        shutil.copytree(weights, out / "model")
        save_model(model, tokenizer, out / "model", dtype=torch.bfloat16)
    return out / "model"


class AddOnRun:
    """Steps until the recipe's end, from wherever the run in a folder was."""

    def __init__(
        self, parts: Taught, recipe: AddOnRecipe, out: Path, *, name: str, base: str
    ) -> None:
        """Continues from the newest state in `out/state`, if there is one.

        Args:
            parts: what learns; all else is frozen.
            recipe: how.
            out: gets `state/`, `curve.csv` and `curve.png`.
            name: of the stage in the curve.
            base: fingerprint of the frozen weights.

        Raises:
            CheckpointError: broken state.
            InvalidConfigError: the state is of another recipe or other weights.
        """
        self._recipe, self._out, self._name = recipe, out, name
        self._named = dict(parts.named_parameters())
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            list(self._named.values()), lr=1e-3, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        self._state = StateFolder(out / "state", recipe.lasting() | {"weights": base})
        self._step = self._resume()
        self._curve = CurveLog(out / "curve.csv", resume_step=self._step)

    def train(
        self,
        lesson: TrainingTarget,
        on_progress: Callable[[int, dict[str, float]], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Runs the rest.

        Args:
            lesson: one step.
            on_progress: called every few steps with how many are done and averaged terms.
            stop: asked every step.

        Returns:
            False when it was asked to stop before the end; the state is saved either way.
        """
        history: list[dict[str, float]] = []
        total = self._recipe.steps
        while self._step < total and not stop():
            history.append(self._update(lesson))
            self._step += 1
            if self._step % _LOG_EVERY == 0 or self._step == total:
                names = dict.fromkeys(name for terms in history for name in terms)
                shown = {n: float(np.mean([t[n] for t in history if n in t])) for n in names}
                history.clear()
                self._curve.add(self._step, self._name, shown)
                on_progress(self._step, shown)
            if self._step % self._recipe.checkpoint_every == 0:
                self._save()
        self._save()
        return self._step == total

    def _update(self, lesson: TrainingTarget) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.rate_at(self._step)
        loss, terms = lesson(self._step)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._named.values(), self._recipe.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {name: float(term.detach()) for name, term in terms.items()} | {
            "gradient": float(norm)
        }

    def _resume(self) -> int:
        found = self._state.load()
        if found is None:
            return 0
        position, tensors = found
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(tensors[name])
        moments = dict(enumerate(_moments(tensors, name) for name in self._named))
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        return position.step

    def _save(self) -> None:
        tensors = {name: p.detach().contiguous() for name, p in self._named.items()}
        kept = self._optimizer.state_dict()["state"]
        for index, name in enumerate(self._named):
            for key, value in kept.get(index, {}).items():
                tensors[f"{key}.{name}"] = value.contiguous()
        self._state.save(Position(self._step), tensors)
        self._curve.plot(self._out / "curve.png")


def _moments(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    keys = ("step", "exp_avg", "exp_avg_sq")
    return {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
