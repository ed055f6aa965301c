"""Training from scratch: one visible loop for every stage, on one process or several.

Steps are the unit of time. The data of a step depends on seed, step and process alone, so that a
run killed anywhere and resumed sees what an uninterrupted run would have seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from calico_model.config import CalicoConfig, LoraConfig
from calico_model.data.pool import ScenePool
from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import WEIGHTS, load_base_state, read_tensors, save_model
from calico_model.modeling.model import Calico
from calico_model.presets import tiny
from calico_model.tokenizer import Tokenizer
from calico_model.training.batches import TrainingBatch, dictionary_batch, group_batch
from calico_model.training.curves import CurveLog
from calico_model.training.pretraining.lexicon import small_tokenizer
from calico_model.training.pretraining.objective import TrainingObjective, Weights
from calico_model.training.pretraining.recipe import REFINE, Recipe, Stage
from calico_model.training.simulated_clicks import draw_clicks

_LOG_EVERY = 25


@dataclass(frozen=True)
class Progress:
    """Where training is.

    Attributes:
        stage: its name.
        step: steps done over all stages.
        total: steps of all stages.
        terms: latest averaged losses and metrics.
    """

    stage: str
    step: int
    total: int
    terms: dict[str, float]


def train(
    recipe: Recipe,
    pool_folder: Path,
    out: Path,
    *,
    start_from: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Trains calico-tiny and writes the model folder.

    Args:
        recipe: what to do; the same recipe and folders resume an interrupted run.
        pool_folder: rendered scenes (see `pool.fill_pool`); must not grow during a run.
        out: gets `state/` (resumable), `curve.csv`, `curve.png` and `model/`.
        start_from: weights the stage "refine" begins with; the stages before it are skipped.
        on_progress: called every few steps on the main process.
        stop: asked every step; True saves the state and returns.

    Returns:
        The model folder.
    """
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(recipe.seed)
    tokenizer = small_tokenizer()
    config = tiny(tokenizer.size)
    run = _Run(accelerator, recipe, config, tokenizer, ScenePool(pool_folder), out)
    if start_from is not None:
        run.start_from(start_from)
    run.resume()
    for first, stage in _starts(recipe):
        is_open = run.step < first + stage.steps
        if is_open and not run.train_stage(stage, first, on_progress, stop):
            return out / "model"
    if accelerator.is_main_process:
        run.export()
    accelerator.wait_for_everyone()
    return out / "model"


def _starts(recipe: Recipe) -> Iterator[tuple[int, Stage]]:
    first = 0
    for stage in recipe.stages:
        yield first, stage
        first += stage.steps


class _Run:
    """One training on this process: model, optimiser and counters."""

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: Recipe,
        config: CalicoConfig,
        tokenizer: Tokenizer,
        pool: ScenePool,
        out: Path,
    ) -> None:
        self.accelerator, self.recipe, self.config = accelerator, recipe, config
        self.tokenizer, self.pool, self.out = tokenizer, pool, out
        self.step = 0
        self.curve: CurveLog | None = None
        # LoRA starts as the identity, so training the bare weights and adding it later is exact.
        model = Calico(replace(config, lora=LoraConfig(rank=0)))
        model.initialise()
        use_plain_attention(model)
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective = TrainingObjective(model, Weights(0.0, 0.0, 0.0))
        optimizer = torch.optim.AdamW(
            _decayed(objective, recipe.weight_decay), lr=1e-3, betas=(0.9, 0.95), fused=True
        )
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)

    def start_from(self, folder: Path) -> None:
        """Takes over weights in this configuration's shapes and moves to the stage that refines."""
        model = self.accelerator.unwrap_model(self.objective).model
        load_base_state(model, read_tensors(folder / WEIGHTS), where=f"{folder.name}/{WEIGHTS}")
        before = takewhile(lambda stage: stage.name != REFINE.name, self.recipe.stages)
        self.step = sum(stage.steps for stage in before)

    def resume(self) -> None:
        """Continues from the newest state, if there is one.

        Raises:
            InvalidConfigError: the state was made by another recipe; only steps may change.
        """
        state = self.out / "state"
        if (state / "newest.json").is_file():
            newest = json.loads((state / "newest.json").read_text())
            _check_same(newest["recipe"], _lasting(self.recipe))
            self.accelerator.load_state(str(state / newest["folder"]))
            self.step = int(newest["step"])
        self.out.mkdir(parents=True, exist_ok=True)
        self.curve = CurveLog(self.out / "curve.csv", resume_step=self.step)

    def train_stage(
        self,
        stage: Stage,
        first: int,
        on_progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool],
    ) -> bool:
        """Runs the rest of one stage; the next batch is made while a step runs.

        Returns:
            False when it was asked to stop before the end.
        """
        self.objective.train()
        self.accelerator.unwrap_model(self.objective).weights = Weights(
            stage.dense_weight,
            stage.prompt_weight,
            self.recipe.presence_weight,
            stage.mask_weight,
        )
        total = sum(s.steps for s in self.recipe.stages)
        history: list[dict[str, float]] = []
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(self._batch, stage, self.step)
            while self.step < first + stage.steps and not self._agree(stop()):
                batch = upcoming.result()
                upcoming = ahead.submit(self._batch, stage, self.step + 1)
                rate = stage.rate_at(self.step - first)
                history.append(self._update(batch, rate))
                self.step += 1
                is_last = self.step == first + stage.steps
                if is_last or self.step % _LOG_EVERY == 0:
                    shown = {k: float(np.mean([h[k] for h in history])) for k in history[-1]}
                    shown["learning_rate"] = rate
                    history.clear()
                    self._report(Progress(stage.name, self.step, total, shown), on_progress)
                if self.step % self.recipe.checkpoint_every == 0:
                    self.save()
        self.save()
        return self.step == first + stage.steps

    def _report(self, progress: Progress, on_progress: Callable[[Progress], None] | None) -> None:
        if not self.accelerator.is_main_process:
            return
        assert self.curve is not None
        self.curve.add(progress.step, progress.stage, progress.terms)
        if on_progress is not None:
            on_progress(progress)

    def _agree(self, is_asked: bool) -> bool:
        """Whether any process was asked: all of them leave before the same step."""
        if self.accelerator.num_processes == 1:
            return is_asked
        asked = torch.tensor([float(is_asked)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum") > 0)

    def _batch(self, stage: Stage, step: int) -> TrainingBatch:
        rng = np.random.default_rng((self.recipe.seed, step, self.accelerator.process_index))
        side = self.config.mask_side
        if not stage.language:
            scenes = self.pool.draw_scenes(rng, stage.scenes)
            alone = dictionary_batch(scenes, rng, stage.masks, side)
            return replace(alone, clicks=draw_clicks(rng, len(alone.masks.image), stage.clicks))
        size = 1 + int(rng.choice(len(stage.group_sizes), p=stage.group_sizes))
        groups = [self.pool.draw_group(rng, size) for _ in range(max(1, stage.scenes // size))]
        batch = group_batch(
            groups,
            self.tokenizer,
            rng,
            queries=self.config.qformer.queries,
            questions=stage.questions_of(len(groups)),
            chances=stage.chances,
            nothing_chance=stage.nothing_chance,
            masks=stage.masks,
            side=side,
            system_prompt=self.config.system_prompt,
        )
        return replace(batch, clicks=draw_clicks(rng, len(batch.masks.image), stage.clicks))

    def _update(self, batch: TrainingBatch, rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with _attention(self.accelerator.device):
            loss, terms = self.objective(batch.to(self.accelerator.device))
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value) for name, value in terms.items()} | {"gradient": float(norm)}

    def save(self) -> None:
        """Writes a resumable state in a folder of its own; the pointer to it is replaced last."""
        state = self.out / "state"
        folder = f"step-{self.step:07d}"
        self.accelerator.save_state(str(state / folder))
        if self.accelerator.is_main_process:
            newest = {"step": self.step, "folder": folder, "recipe": _lasting(self.recipe)}
            staged = state / "newest.tmp"
            staged.write_text(json.dumps(newest))
            staged.replace(state / "newest.json")
            for old in state.glob("step-*"):
                if old.name != folder:
                    shutil.rmtree(old)
            assert self.curve is not None
            self.curve.plot(self.out / "curve.png")
        self.accelerator.wait_for_everyone()

    def export(self) -> None:
        """Writes the model folder with LoRA back in the configuration."""
        trained = self.accelerator.unwrap_model(self.objective).model
        shipped = Calico(self.config)
        own = dict(shipped.named_parameters()) | dict(shipped.named_buffers())
        with torch.no_grad():
            for name, tensor in trained.state_dict().items():
                target = own.get(name)
                if target is None:
                    parent, leaf = name.rsplit(".", 1)
                    target = own[f"{parent}.base_layer.{leaf}"]
                target.copy_(tensor)
        save_model(shipped, self.tokenizer, self.out / "model", dtype=torch.bfloat16)


def _lasting(recipe: Recipe) -> dict[str, object]:
    """What of a recipe must not change between the parts of one run."""
    return {
        "seed": recipe.seed,
        "stages": [
            [s.name, s.language, s.scenes, s.questions, s.masks, list(s.group_sizes)]
            for s in recipe.stages
        ],
    }


def _check_same(before: dict[str, object], now: dict[str, object]) -> None:
    for name, value in now.items():
        if before.get(name) != value:
            raise InvalidConfigError(
                f"{name}: the run was started with {before.get(name)!r}, got {value!r}; "
                "choose another output folder"
            )


def _decayed(module: nn.Module, decay: float) -> list[dict[str, object]]:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On CPUs the fused attention's backward pass costs twice the plain, equally causal, one."""
    if device.type != "cpu":
        return nullcontext()
    return cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH))


def use_plain_attention(model: Calico) -> None:
    """Swaps the encoders' attention on CPUs, where the fused backward pass is much slower.

    The language model keeps the fused form: the plain one applies no causal mask of its own.
    """
    if torch.cuda.is_available():
        return
    for part in (model.eva, model.dino, getattr(model, "qformer", None)):
        if part is not None:
            part.config._attn_implementation = "eager"
