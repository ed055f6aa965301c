"""Fine-tuning on a folder of records, on one process or several: the paper's training.

What a step sees depends on the recipe, the records and the step alone, so that a run killed
anywhere and resumed ends in the same bits, and several processes compute what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import fingerprint, load_model, save_model
from calico_model.loading.precision import Precision
from calico_model.modeling.adapter import (
    AdapterScope,
    adapter_names,
    load_adapter,
    write_adapter,
)
from calico_model.modeling.model import Calico
from calico_model.training.engine import (
    OnProgress,
    TrainingLoop,
    TrainingProgress,
    build_accelerator,
    do_nothing,
    ignore_progress,
)
from calico_model.training.state import Position, StateFolder, gather, gather_state, restore_state
from calico_model.training.supervised.batches import COUNTS, DataOrder, MicroBatch, SampleReader
from calico_model.training.supervised.objective import SUMS, FinetuneObjective, terms_of
from calico_model.training.supervised.recipe import FinetuneRecipe, Sharding
from calico_model.training.supervised.setup import FinetuneInputs, FinetuneMaterial, prepare
from calico_model.training.supervised.tracking import Tracker

_DIVIDED_LAYER = "LlamaDecoderLayer"


@dataclass(frozen=True)
class FinetuneResult:
    """How a call of `finetune` ended.

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


def finetune(
    recipe: FinetuneRecipe,
    inputs: FinetuneInputs,
    out: Path,
    *,
    sharding: Sharding = Sharding.DDP,
    trackers: Callable[[int], list[Tracker]] = lambda _step: [],
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[], None] = do_nothing,
    on_saved: Callable[[], None] = do_nothing,
) -> FinetuneResult:
    """Fine-tunes, or goes on where an interrupted run ended.

    Args:
        recipe: what to do.
        inputs: weights, records and the feature cache.
        out: gets `state/` (resumable), `curve.csv`, `curve.png` and `adapter/`, the best so far.
        sharding: what processes divide.
        trackers: opened on the main process, with the step the run resumes from.
        on_progress: called on the main process while images are encoded and at every logged step.
        stop: asked every step; True saves the state and returns.
        on_start: called on every process once they have met, before the state is read.
        on_saved: called on the main process when `out` has a new state.

    Raises:
        InvalidConfigError: a recipe, cache or resumed run that does not fit.
        InvalidRecordError: broken records; names file and key.
        CheckpointError: broken weights or state, or a full disk.
    """
    if sharding is not Sharding.DDP and recipe.precision.is_quantised:
        raise InvalidConfigError(
            f"sharding: {sharding} cannot divide {recipe.precision} weights; use ddp"
        )
    accelerator = build_accelerator(plugin=_plugin(sharding))
    recipe.check_processes(accelerator.num_processes)
    if recipe.precision is Precision.INT8 and accelerator.device.type == "cpu":
        raise InvalidConfigError(
            "precision: int8 weights cannot be trained on a CPU; use fp32, bf16 or nf4"
        )
    on_start()
    is_main = accelerator.is_main_process
    with _deterministic(accelerator.device):
        material = prepare(recipe, inputs, accelerator, on_progress if is_main else ignore_progress)
        run = _FinetuneRun(accelerator, recipe, material, out)
        run.on_saved = on_saved
        run.resume()
        opened = trackers(run.step) if is_main else []

        def report(progress: TrainingProgress) -> None:
            for tracker in opened:
                tracker.log(progress.step, progress.terms)
            on_progress(progress)

        try:
            is_finished = run.train(report, stop)
        finally:
            for tracker in opened:
                tracker.close()
        run.plot()
    return FinetuneResult(out / "adapter", run.step, is_finished, run.best_loss)


def merge_adapter(weights: Path, adapter: Path, folder: Path) -> None:
    """Writes the weights with an adapter folded in.

    Args:
        weights: model folder the adapter was trained on.
        adapter: adapter folder.
        folder: model folder to write, in bfloat16 on disk; replaced when it exists.

    Raises:
        CheckpointError: weights or adapter are damaged or do not belong together.
    """
    model, tokenizer = load_model(weights)
    load_adapter(model, adapter, base=fingerprint(weights))
    fold_lora(model)
    save_model(model, tokenizer, folder, dtype=torch.bfloat16)


def fold_lora(model: Calico) -> None:
    """Adds every LoRA product to its matrix; the model then computes the same without LoRA."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()


def _plugin(sharding: Sharding) -> FullyShardedDataParallelPlugin | None:
    """How accelerate divides the weights among processes; None keeps them whole.

    Precision is not accelerate's: the objective says where bfloat16 is used, because the mask
    decoder and the losses stay in float32.
    """
    if sharding is Sharding.DDP:
        return None
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=sharding is Sharding.FSDP,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[_DIVIDED_LAYER],
        cpu_ram_efficient_loading=False,
    )


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Same bits every time, where the kernels can: on CPUs."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _FinetuneRun(TrainingLoop[list[MicroBatch]]):
    """The adapter learns; a stage is an epoch.

    Attributes:
        best_loss: lowest validation loss so far, None without one.
    """

    accelerator: Accelerator
    saved_step = 0  # a run that has not begun leaves no state

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: FinetuneRecipe,
        material: FinetuneMaterial,
        out: Path,
    ) -> None:
        self._recipe, self._material = recipe, material
        self._model = material.model
        self.best_loss: float | None = None
        self._best_step = 0
        self._order = DataOrder(len(material.training), recipe.seed)
        self._states = StateFolder(out / "state", recipe.lasting() | material.identity())
        objective = FinetuneObjective(self._model, recipe)
        optimizer = torch.optim.AdamW(
            [p for p in objective.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        epoch = recipe.steps_for(len(material.training))
        super().__init__(
            objective,
            optimizer,
            out,
            stage_ends=[epoch * (n + 1) for n in range(recipe.epochs)],
            clip_norm=recipe.clip_norm,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            accelerator=accelerator,
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._model.named_parameters() if p.requires_grad}

    def resume(self) -> None:
        """Continues from the newest state, if there is one."""
        state = self._states.load()
        if state is not None:
            position, tensors = state
            restore_state(self.parameters(), self.optimizer, tensors, _tensor_name)
            self.step = self.saved_step = position.step
            self.best_loss, self._best_step = position.best_loss, position.best_step
            self.history = list(position.history)

    def save(self) -> None:
        tensors = gather_state(self.parameters(), self.optimizer, _tensor_name)
        if self.accelerator.is_main_process:
            position = Position(self.step, self.best_loss, self._best_step, tuple(self.history))
            self._states.save(position, tensors)
        self.accelerator.wait_for_everyone()

    def stage_name(self, stage: int) -> str:
        return f"epoch {stage + 1}"

    def rate_at(self, step: int) -> float:
        return self._recipe.rate_at(step, self.total)

    def draw(self, step: int) -> list[MicroBatch]:
        """This process's micro-batches of one step."""
        size, first = self._recipe.micro_batch, step * self._recipe.batch
        numbers = range(
            self.accelerator.process_index,
            self._recipe.micro_batches,
            self.accelerator.num_processes,
        )
        return [
            self._material.training.training(
                self._order, range(first + n * size, first + (n + 1) * size), self._recipe.seed
            )
            for n in numbers
        ]

    def backward(self, batch: list[MicroBatch]) -> dict[str, Tensor]:
        device, processes = self.accelerator.device, self.accelerator.num_processes
        counts = self.summed(torch.stack([b.counts() for b in batch]).sum(0).to(device))
        sums = torch.zeros(SUMS, dtype=torch.float64, device=device)
        for n, micro_batch in enumerate(batch):
            is_last = n == len(batch) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.module):
                parts = self.module(micro_batch.to(device))
                # Gradients are averaged over processes; the loss is a sum over them.
                loss = terms_of(parts, counts, self._recipe)["loss"] * processes
                self.accelerator.backward(loss)
            sums += parts.detach().double()
        return terms_of(self.summed(sums), counts, self._recipe)

    def end_stage(self) -> dict[str, float]:
        """Validates, and keeps the adapter if it is the best so far, or nothing can tell."""
        reader = self._material.validation
        terms = {} if reader is None else self._validate(reader)
        loss = terms.get("validation_loss")
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best_loss, self._best_step = loss, self.step
            self._keep_adapter()
        return terms

    @torch.no_grad()
    def _validate(self, reader: SampleReader) -> dict[str, float]:
        size, processes = self._recipe.micro_batch, self.accelerator.num_processes
        last = min(len(reader), self._recipe.most_validation)
        starts = range(0, last, size)
        sums, counts = torch.zeros(SUMS).double(), torch.zeros(COUNTS).double()
        self._model.language.eval()
        for n in range(-(-len(starts) // processes)):
            number = n * processes + self.accelerator.process_index
            # Every process passes as often: shards of weights are gathered together.
            start = starts[min(number, len(starts) - 1)]
            batch = reader.validation(range(start, min(start + size, last)))
            parts = self.module(batch.to(self.accelerator.device)).double().cpu()
            if number < len(starts):
                sums, counts = sums + parts, counts + batch.counts()
        self._model.language.train()
        device = self.accelerator.device
        terms = terms_of(self.summed(sums.to(device)), self.summed(counts.to(device)), self._recipe)
        return {f"validation_{k}": float(terms[k]) for k in ("loss", "text", "mask_iou")}

    def _keep_adapter(self) -> None:
        scope, parameters = AdapterScope(), self.parameters()
        names = adapter_names(self._model, scope)
        tensors = {name: gather(parameters[name]).float() for name in names}
        if self.accelerator.is_main_process:
            write_adapter(
                tensors,
                self.out / "adapter",
                config=self._model.config,
                base=self._material.base,
                scope=scope,
            )


def _tensor_name(kind: str, parameter: str) -> str:
    return f"{kind}/{parameter}"
