"""Fine-tuning on a folder of records, on one process or several: the paper's training.

Steps are the unit of time. What a step sees depends on the recipe, the records and the step alone,
so that a run killed anywhere and resumed ends in the same bits, and several processes compute what
one would. (Training from scratch is `pretrain`; updates from corrections are `finetune`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.modeling.adapter import AdapterScope, adapter_names, write_adapter
from calico_model.training.curves import CurveLog
from calico_model.training.pretraining.run import Progress
from calico_model.training.state import Position, StateFolder
from calico_model.training.supervised.batches import COUNTS, DataOrder, MicroBatch, SampleReader
from calico_model.training.supervised.objective import SUMS, TuningObjective, terms_of
from calico_model.training.supervised.recipe import Sharding, TuningRecipe
from calico_model.training.supervised.setup import Inputs, Materials, prepare
from calico_model.training.supervised.sharding import (
    build_accelerator,
    clip,
    like,
    put_whole,
    whole,
)
from calico_model.training.supervised.tracking import Tracker

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class TuningResult:
    """How a call of `tune` ended.

    Attributes:
        adapter: folder of the best adapter; not there yet if it was stopped in the first epoch.
        step: optimiser steps done.
        is_finished: whether these were all.
        best_loss: lowest validation loss, or None without validation.
    """

    adapter: Path
    step: int
    is_finished: bool
    best_loss: float | None


def tune(
    recipe: TuningRecipe,
    inputs: Inputs,
    out: Path,
    *,
    sharding: Sharding = Sharding.DDP,
    trackers: Callable[[int], list[Tracker]] = lambda step: [],
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TuningResult:
    """Fine-tunes, or goes on where an interrupted run ended.

    Args:
        recipe: what to do.
        inputs: weights, records and the feature cache.
        out: gets `state/` (resumable), `curve.csv`, `curve.png` and `adapter/`, the best so far.
        sharding: what processes divide.
        trackers: opened on the main process, with the step the run resumes from.
        on_progress: called on the main process while images are encoded and at every logged step.
        stop: asked every step; True saves the state and returns.

    Raises:
        InvalidConfigError: a recipe, cache or resumed run that does not fit.
        InvalidRecordError: broken records; names file and key.
        CheckpointError: broken weights or state, or a full disk.
    """
    if sharding is not Sharding.DDP and recipe.precision.is_quantised:
        raise InvalidConfigError(
            f"sharding: {sharding} cannot divide {recipe.precision} weights; take ddp"
        )
    accelerator = build_accelerator(sharding)
    recipe.check_processes(accelerator.num_processes)
    if recipe.precision is Precision.INT8 and accelerator.device.type == "cpu":
        raise InvalidConfigError(
            "precision: int8 weights of a CPU pass no gradients on; take fp32, bf16 or nf4"
        )
    with _repeatable(accelerator.device):
        tell = on_progress if accelerator.is_main_process else None
        materials = prepare(recipe, inputs, accelerator, tell)
        run = _Run(accelerator, recipe, materials, out)
        run.resume()
        opened = trackers(run.position.step) if accelerator.is_main_process else []
        try:
            run.train(opened, tell, stop)
        finally:
            for tracker in opened:
                tracker.close()
    done = run.position.step
    return TuningResult(out / "adapter", done, done == run.total, run.position.best_loss)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Same bits every time, where the kernels can: on CPUs."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Run:
    """One fine-tuning on this process."""

    def __init__(
        self, accelerator: Accelerator, recipe: TuningRecipe, materials: Materials, out: Path
    ) -> None:
        self.accelerator, self.recipe = accelerator, recipe
        self.materials, self.out = materials, out
        self.position = Position()
        self.steps_per_epoch = recipe.steps_for(len(materials.training))
        self.total = recipe.epochs * self.steps_per_epoch
        self.order = DataOrder(len(materials.training), recipe.seed)
        self.states = StateFolder(out / "state", recipe.lasting() | materials.identity())
        self.inner = TuningObjective(materials.model, recipe)
        optimizer = torch.optim.AdamW(
            [p for p in self.inner.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        self.objective, self.optimizer = accelerator.prepare(self.inner, optimizer)
        self.curve: CurveLog | None = None  # the main process keeps it

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.inner.model.named_parameters() if p.requires_grad}

    def resume(self) -> None:
        """Continues from the newest state, if there is one."""
        found = self.states.load()
        if found is not None:
            self.position, tensors = found
            self._put(tensors)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            self.curve = CurveLog(self.out / "curve.csv", resume_step=self.position.step)

    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._trained().items():
            weight = tensors.get(f"weight/{name}")
            if weight is None or weight.shape != parameter.shape:
                raise CheckpointError(f"state: {name}: expected shape {tuple(parameter.shape)}")
            put_whole(parameter, weight)
            kept = {m: tensors[f"{m}/{name}"] for m in _MOMENTS if f"{m}/{name}" in tensors}
            if kept:
                self.optimizer.state[parameter] = {
                    m: value if m == "step" else like(parameter, value) for m, value in kept.items()
                }

    def _gathered(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._trained().items():
            tensors[f"weight/{name}"] = whole(parameter)
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = whole(value)
        return tensors

    def train(
        self,
        trackers: list[Tracker],
        on_progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool],
    ) -> None:
        """Runs the rest of the steps; the next step's data is made while one runs."""
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(self._batches, self.position.step)
            while self.position.step < self.total and not self._agree(stop()):
                batches = upcoming.result()
                step = self.position.step + 1
                upcoming = ahead.submit(self._batches, step)
                terms = self._update(batches)
                history = (*self.position.history, terms)
                self.position = replace(self.position, step=step, history=history)
                is_epoch = step % self.steps_per_epoch == 0
                if is_epoch or step % self.recipe.log_every == 0:
                    shown = self._log_row()
                    if is_epoch:
                        shown |= self._end_epoch()
                    self._report(shown, trackers, on_progress)
                if is_epoch or step % self.recipe.checkpoint_every == 0:
                    self.save()
        if self.position.step % self.recipe.checkpoint_every:
            self.save()
        if self.curve is not None:
            self.curve.plot(self.out / "curve.png")

    def _batches(self, step: int) -> list[MicroBatch]:
        """This process's micro-batches of one step."""
        size = self.recipe.micro_batch
        first = step * self.recipe.batch
        mine = range(
            self.accelerator.process_index,
            self.recipe.micro_batches,
            self.accelerator.num_processes,
        )
        return [
            self.materials.training.training(
                self.order, range(first + m * size, first + (m + 1) * size), self.recipe.seed
            )
            for m in mine
        ]

    def _update(self, batches: list[MicroBatch]) -> dict[str, float]:
        rate = self.recipe.rate_at(self.position.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device, processes = self.accelerator.device, self.accelerator.num_processes
        counts = self._summed(torch.stack([b.counts() for b in batches]).sum(0).to(device))
        sums = torch.zeros(SUMS, dtype=torch.float64, device=device)
        for n, batch in enumerate(batches):
            is_last = n == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                own = self.objective(batch.to(device))
                # Gradients are averaged over processes; the loss is a sum over them.
                loss = terms_of(own, counts, self.recipe)["loss"] * processes
                self.accelerator.backward(loss)
            sums += own.detach().double()
        norm = clip(list(self._trained().values()), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        terms = terms_of(self._summed(sums), counts, self.recipe)
        shown = {name: float(value) for name, value in terms.items()}
        return shown | {"gradient": norm, "learning_rate": rate}

    def _end_epoch(self) -> dict[str, float]:
        """Validates, and keeps the adapter if it is the best so far, or nothing can tell."""
        reader = self.materials.validation
        loss = None if reader is None else self._validate(reader)
        best = self.position.best_loss
        if loss is None or best is None or loss["validation_loss"] < best:
            value = None if loss is None else loss["validation_loss"]
            self.position = replace(self.position, best_loss=value, best_step=self.position.step)
            self._keep_adapter()
        return loss or {}

    @torch.no_grad()
    def _validate(self, reader: SampleReader) -> dict[str, float]:
        size, processes = self.recipe.micro_batch, self.accelerator.num_processes
        last = min(len(reader), self.recipe.most_validation)
        starts = range(0, last, size)
        sums, counts = torch.zeros(SUMS).double(), torch.zeros(COUNTS).double()
        self.inner.model.language.eval()
        for n in range(-(-len(starts) // processes)):
            mine = n * processes + self.accelerator.process_index
            # Every process passes as often: shards of weights are gathered together.
            start = starts[min(mine, len(starts) - 1)]
            batch = reader.validation(range(start, min(start + size, last)))
            own = self.objective(batch.to(self.accelerator.device)).double().cpu()
            if mine < len(starts):
                sums, counts = sums + own, counts + batch.counts()
        self.inner.model.language.train()
        device = self.accelerator.device
        terms = terms_of(
            self._summed(sums.to(device)), self._summed(counts.to(device)), self.recipe
        )
        return {f"validation_{k}": float(terms[k]) for k in ("loss", "text", "mask_iou")}

    def _keep_adapter(self) -> None:
        model, scope = self.inner.model, AdapterScope()
        own = self._trained()
        state = {name: whole(own[name]).float() for name in adapter_names(model, scope)}
        if self.accelerator.is_main_process:
            write_adapter(
                state,
                self.out / "adapter",
                config=model.config,
                base=self.materials.base,
                scope=scope,
            )

    def _log_row(self) -> dict[str, float]:
        history = self.position.history
        shown = {k: float(np.mean([h[k] for h in history])) for k in history[-1]}
        shown["learning_rate"] = history[-1]["learning_rate"]
        self.position = replace(self.position, history=())
        return shown

    def _report(
        self,
        shown: dict[str, float],
        trackers: list[Tracker],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        if self.curve is None:
            return
        step = self.position.step
        epoch = -(-step // self.steps_per_epoch)
        self.curve.add(step, f"epoch {epoch}", shown)
        for tracker in trackers:
            tracker.log(step, shown)
        if on_progress is not None:
            on_progress(Progress(f"epoch {epoch}", step, self.total, shown))

    def save(self) -> None:
        """Writes a resumable state."""
        tensors = self._gathered()
        if self.accelerator.is_main_process:
            self.states.save(self.position, tensors)
        self.accelerator.wait_for_everyone()

    def _agree(self, is_asked: bool) -> bool:
        """Whether any process was asked: all of them leave before the same step."""
        asked = torch.tensor([float(is_asked)], device=self.accelerator.device)
        return bool(self._summed(asked) > 0)

    def _summed(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return values
        summed: Tensor = self.accelerator.reduce(values, reduction="sum")
        return summed
