"""The engine of every training: one loop over optimiser steps, one way to make a step.

`TrainingLoop` is a training with a folder of its own: from the newest state there to the end, with
curve, states, progress, stop and several processes. What a step sees, what it minimises and its
learning rate are a subclass's: pre-training, fine-tuning on records, add-ons. The online update has
no folder and ends by the clock; it shares `make_step` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from calico_model.errors import CheckpointError
from calico_model.training.curves import CurveLog

Batch = TypeVar("Batch")
_T = TypeVar("_T")


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training is.

    Attributes:
        stage: its name.
        step: steps done over all stages.
        total: steps of all stages.
        terms: losses and metrics, averaged over the steps since the last report.
    """

    stage: str
    step: int
    total: int
    terms: dict[str, float] = field(default_factory=dict)


OnProgress = Callable[[TrainingProgress], None]


def ignore_progress(progress: TrainingProgress) -> None:
    """Does nothing: nobody watches."""


def do_nothing() -> None:
    """Does nothing: nobody keeps the states elsewhere."""


class TrainingLoop(ABC, Generic[Batch]):
    """One training on this process: optimiser steps from the newest state of a folder to the end.

    Steps are the unit of time. The data of a step depends on seed, step and process alone, so a run
    that was killed anywhere and resumed sees what an uninterrupted run would have seen.

    Attributes:
        module: what learns, as `accelerator` wraps it.
        optimizer: of its parameters; every group gets the rate of the step.
        accelerator: joins the processes; None for a training on one process.
        out: run folder; gets `curve.csv`, `curve.png` and what `save` writes.
        step: optimiser steps done; a subclass sets it when it resumes.
        saved_step: step of the newest state on disk, -1 without one.
        history: terms of the steps since the last row of the curve.
        on_saved: called on the main process once a state is whole.
        logs_rate: whether the curve has a column `learning_rate`.
    """

    saved_step = -1
    logs_rate = True

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        out: Path,
        *,
        stage_ends: Sequence[int],
        clip_norm: float,
        log_every: int,
        checkpoint_every: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Wraps module and optimiser for several processes.

        Args:
            module: what learns; its forward is what processes have in common.
            optimizer: of the module's parameters.
            out: run folder.
            stage_ends: steps done at the end of each stage, rising; the last one is the total.
            clip_norm: largest norm of the gradient.
            log_every: steps per row of the curve; a row also ends each stage.
            checkpoint_every: steps between states; one also ends each stage.
            accelerator: joins the processes; None for a training on one process.
        """
        self.out, self.accelerator = out, accelerator
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.on_saved: Callable[[], None] = do_nothing
        self._ends, self._clip_norm = tuple(stage_ends), clip_norm
        self._log_every, self._checkpoint_every = log_every, checkpoint_every
        self._curve: CurveLog | None = None  # the main process keeps it
        self.module, self.optimizer = module, optimizer
        if accelerator is not None:
            self.module, self.optimizer = accelerator.prepare(module, optimizer)

    @abstractmethod
    def draw(self, step: int) -> Batch:
        """Returns the data of a 0-based step; called on a thread while the step before runs."""

    @abstractmethod
    def backward(self, batch: Batch) -> Mapping[str, Tensor]:
        """Computes the gradient of one step; returns scalar losses and metrics to show."""

    @abstractmethod
    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a 0-based step."""

    @abstractmethod
    def stage_name(self, stage: int) -> str:
        """Returns the name of a 0-based stage in the curve and in progress."""

    @abstractmethod
    def save(self) -> None:
        """Writes a state to resume from; called on every process."""

    def end_stage(self) -> dict[str, float]:
        """Called at the end of each stage; returns further values for its row of the curve."""
        return {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return dict(self.module.named_parameters())

    @property
    def total(self) -> int:
        """Optimiser steps of the whole training."""
        return self._ends[-1]

    def stage_of(self, step: int) -> tuple[int, int]:
        """Returns the 0-based stage of a 0-based step, and the step that stage began at."""
        stage = bisect_right(self._ends, step)
        return stage, self._ends[stage - 1] if stage else 0

    def train(self, on_progress: OnProgress, stop: Callable[[], bool]) -> bool:
        """Makes the remaining steps; the data of the next step is drawn while one runs.

        Args:
            on_progress: called on the main process with every row of the curve.
            stop: asked before every step; True ends the training there.

        Returns:
            False when it was stopped before the end; the state is saved either way.

        Raises:
            CheckpointError: processes resumed from different states; no step is made.
        """
        self._check_same_step()
        self.out.mkdir(parents=True, exist_ok=True)
        if self._is_main:
            self._curve = CurveLog(self.out / "curve.csv", resume_step=self.step)
        with closing(draw_ahead(self.draw, range(self.step, self.total))) as batches:
            while self.step < self.total and not self._agree(stop()):
                self.history.append(self._learn(next(batches)))
                self.step += 1
                is_end = self.step in self._ends
                if is_end or self.step % self._log_every == 0:
                    self._report(is_end, on_progress)
                if is_end or self.step % self._checkpoint_every == 0:
                    self._checkpoint()
        if self.saved_step != self.step:
            self._checkpoint()
        return self.step >= self.total

    def plot(self) -> None:
        """Draws the curve as `curve.png`, on the main process."""
        if self._curve is not None:
            self._curve.plot(self.out / "curve.png")

    @property
    def _is_main(self) -> bool:
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    def summed(self, values: Tensor) -> Tensor:
        """Adds up a tensor over all processes."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return values
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total

    def _learn(self, batch: Batch) -> dict[str, float]:
        rate = self.rate_at(self.step)
        terms = self.backward(batch)
        norm = make_step(self.optimizer, self.parameters().values(), rate, self._clip_norm)
        values = {name: float(term.detach()) for name, term in terms.items()} | {"gradient": norm}
        return values | {"learning_rate": rate} if self.logs_rate else values

    def _report(self, is_end: bool, on_progress: OnProgress) -> None:
        names = dict.fromkeys(name for terms in self.history for name in terms)
        values = {n: float(np.mean([t[n] for t in self.history if n in t])) for n in names}
        if self.logs_rate:
            values["learning_rate"] = self.history[-1]["learning_rate"]
        self.history.clear()
        if is_end:
            values |= self.end_stage()
        if self._curve is not None:
            name = self.stage_name(self.stage_of(self.step - 1)[0])
            self._curve.add(self.step, name, values)
            on_progress(TrainingProgress(name, self.step, self.total, values))

    def _checkpoint(self) -> None:
        self.save()
        self.saved_step = self.step
        if self._is_main:
            self.on_saved()

    def _check_same_step(self) -> None:
        """Checks that every process read the same state: on several machines some may not see it.

        Raises:
            CheckpointError: they did not.
        """
        if self.accelerator is None:
            return
        step = torch.tensor([self.step], device=self.accelerator.device)
        steps = sorted(set(self.accelerator.gather(step).tolist()))
        if len(steps) > 1:
            raise CheckpointError(
                f"state: some processes go on from step {steps[0]}, others from step {steps[-1]}: "
                "every machine must find the newest state in its run folder"
            )

    def _agree(self, is_asked: bool) -> bool:
        """Whether any process was asked to stop: all of them leave before the same step."""
        if self.accelerator is None:
            return is_asked
        asked = torch.tensor([float(is_asked)], device=self.accelerator.device)
        return bool(self.summed(asked) > 0)


def make_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], rate: float, clip_norm: float
) -> float:
    """Makes one optimiser step of the gradients that are there, and clears them.

    Args:
        optimizer: a group with a key `peak` learns at that many times the rate.
        parameters: whose gradients are clipped together; may be divided over processes.
        rate: learning rate.
        clip_norm: largest norm of the gradient.

    Returns:
        The norm before clipping.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.get("peak", 1.0) * rate
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def draw_ahead(draw: Callable[[int], Batch], steps: Iterable[int]) -> Generator[Batch]:
    """Yields the data of one step after another; the next is drawn while the caller works."""
    with ThreadPoolExecutor(1) as thread:
        drawn: Future[Batch] | None = None
        for step in steps:
            upcoming = thread.submit(draw, step)
            if drawn is not None:
                yield drawn.result()
            drawn = upcoming
        if drawn is not None:
            yield drawn.result()


def build_accelerator(
    mixed_precision: str = "no", plugin: FullyShardedDataParallelPlugin | None = None
) -> Accelerator:
    """Joins the processes of this training, or stands for the only one.

    Args:
        mixed_precision: of accelerate's own autocast: "no" or "bf16".
        plugin: how weights are divided; None keeps them whole on every process.
    """
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def move(value: _T, device: torch.device) -> _T:
    """Moves a tensor, or every tensor in tuples and dataclasses, however deep."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(move(item, device) for item in value)  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {f.name: move(getattr(value, f.name), device) for f in fields(value)}
    return replace(value, **parts)
