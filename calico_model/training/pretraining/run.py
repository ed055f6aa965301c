"""Training from scratch: calico-tiny in stages, on one process or several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import accumulate, takewhile
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from calico_model.config import CalicoConfig, LoraConfig
from calico_model.data.pool import ScenePool
from calico_model.loading.checkpoints import WEIGHTS, load_base_state, read_tensors, save_model
from calico_model.modeling.model import Calico
from calico_model.presets import small_tokenizer, tiny
from calico_model.staging import replace_text
from calico_model.tokenizer import Tokenizer
from calico_model.training.engine import (
    OnProgress,
    TrainingLoop,
    build_accelerator,
    do_nothing,
    ignore_progress,
)
from calico_model.training.pretraining.batches import TrainingBatch, dictionary_batch, group_batch
from calico_model.training.pretraining.objective import LossWeights, PretrainingObjective
from calico_model.training.pretraining.recipe import REFINE, PretrainingRecipe, Stage
from calico_model.training.simulated_clicks import draw_clicks
from calico_model.training.state import check_same

_LOG_EVERY = 25


def pretrain(
    recipe: PretrainingRecipe,
    pool_folder: Path,
    out: Path,
    *,
    start_from: Path | None = None,
    on_progress: OnProgress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[], None] = do_nothing,
    on_saved: Callable[[], None] = do_nothing,
) -> Path | None:
    """Trains calico-tiny and writes the model folder.

    Args:
        recipe: what to do; the same recipe and folders resume an interrupted run.
        pool_folder: rendered scenes (see `pool.fill_pool`); must not grow during a run.
        out: gets `state/` (resumable), `curve.csv`, `curve.png` and `model/`.
        start_from: weights the stage "refine" begins with; the stages before it are skipped.
        on_progress: called every few steps on the main process.
        stop: asked every step; True saves the state and returns.
        on_start: called on every process once they have met, before the state is read.
        on_saved: called on the main process when `out` has a new state.

    Returns:
        The model folder; None when it was stopped before the end.

    Raises:
        InvalidConfigError: the run in `out` was started with another recipe.
        CheckpointError: processes found different states.
    """
    accelerator = build_accelerator("bf16")
    on_start()
    set_seed(recipe.seed)
    tokenizer = small_tokenizer()
    config = tiny(tokenizer.size)
    run = _PretrainingRun(accelerator, recipe, config, tokenizer, ScenePool(pool_folder), out)
    run.on_saved = on_saved
    if start_from is not None:
        run.start_from(start_from)
    run.resume()
    if not run.train(on_progress, stop):
        return None
    if accelerator.is_main_process:
        run.export()
    accelerator.wait_for_everyone()
    return out / "model"


class _PretrainingRun(TrainingLoop[TrainingBatch]):
    """Every weight of calico-tiny learns, with the heads that teach it."""

    accelerator: Accelerator

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: PretrainingRecipe,
        config: CalicoConfig,
        tokenizer: Tokenizer,
        pool: ScenePool,
        out: Path,
    ) -> None:
        self._recipe, self._config = recipe, config
        self._tokenizer, self._pool = tokenizer, pool
        # LoRA starts as the identity, so training the bare weights and adding it later is exact.
        model = Calico(replace(config, lora=LoraConfig(rank=0)))
        model.initialise()
        use_plain_attention(model)
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective = PretrainingObjective(model, LossWeights(0.0, 0.0, 0.0))
        optimizer = torch.optim.AdamW(
            _parameter_groups(objective, recipe.weight_decay),
            lr=1e-3,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._objective = objective
        super().__init__(
            objective,
            optimizer,
            out,
            stage_ends=list(accumulate(stage.steps for stage in recipe.stages)),
            clip_norm=recipe.clip_norm,
            log_every=_LOG_EVERY,
            checkpoint_every=recipe.checkpoint_every,
            accelerator=accelerator,
        )
        self.module.train()

    def start_from(self, folder: Path) -> None:
        """Takes over weights in this configuration's shapes and moves to the stage that refines."""
        where = f"{folder.name}/{WEIGHTS}"
        load_base_state(self._objective.model, read_tensors(folder / WEIGHTS), where=where)
        before = takewhile(lambda stage: stage.name != REFINE.name, self._recipe.stages)
        self.step = sum(stage.steps for stage in before)

    def resume(self) -> None:
        """Continues from the newest state, if there is one.

        Raises:
            InvalidConfigError: the state was made by another recipe; only steps may change.
        """
        state = self.out / "state"
        if (state / "newest.json").is_file():
            newest = json.loads((state / "newest.json").read_text())
            check_same(newest["recipe"], _lasting(self._recipe))
            self.accelerator.load_state(str(state / newest["folder"]))
            self.step = self.saved_step = int(newest["step"])

    def stage_name(self, stage: int) -> str:
        return self._recipe.stages[stage].name

    def rate_at(self, step: int) -> float:
        stage, first = self._stage(step)
        return stage.rate_at(step - first)

    def draw(self, step: int) -> TrainingBatch:
        stage, _ = self._stage(step)
        rng = np.random.default_rng((self._recipe.seed, step, self.accelerator.process_index))
        draw_batch = self._group_batch if stage.language else self._dictionary_batch
        batch = draw_batch(stage, rng)
        return replace(batch, clicks=draw_clicks(rng, len(batch.masks.image), stage.clicks))

    def backward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        stage, _ = self._stage(self.step)
        self._objective.weights = LossWeights(
            stage.dense_weight,
            stage.prompt_weight,
            self._recipe.presence_weight,
            stage.mask_weight,
        )
        with _attention(self.accelerator.device):
            loss, terms = self.module(batch.to(self.accelerator.device))
        self.accelerator.backward(loss)
        return dict(terms)

    def save(self) -> None:
        """Writes a state into a folder of its own; the file that names it is replaced last."""
        state = self.out / "state"
        folder = f"step-{self.step:07d}"
        self.accelerator.save_state(str(state / folder))
        if self.accelerator.is_main_process:
            newest = {"step": self.step, "folder": folder, "recipe": _lasting(self._recipe)}
            replace_text(state / "newest.json", json.dumps(newest))
            for old in state.glob("step-*"):
                if old.name != folder:
                    shutil.rmtree(old)
            self.plot()
        self.accelerator.wait_for_everyone()

    def export(self) -> None:
        """Writes the model folder with LoRA back in the configuration."""
        shipped = Calico(self._config)
        targets = dict(shipped.named_parameters()) | dict(shipped.named_buffers())
        with torch.no_grad():
            for name, tensor in self._objective.model.state_dict().items():
                target = targets.get(name)
                if target is None:
                    parent, leaf = name.rsplit(".", 1)
                    target = targets[f"{parent}.base_layer.{leaf}"]
                target.copy_(tensor)
        save_model(shipped, self._tokenizer, self.out / "model", dtype=torch.bfloat16)

    def _stage(self, step: int) -> tuple[Stage, int]:
        """The stage of a 0-based step, and the step it began at."""
        stage, first = self.stage_of(step)
        return self._recipe.stages[stage], first

    def _dictionary_batch(self, stage: Stage, rng: np.random.Generator) -> TrainingBatch:
        scenes = self._pool.draw_scenes(rng, stage.scenes)
        return dictionary_batch(scenes, rng, stage.masks, self._config.mask_side)

    def _group_batch(self, stage: Stage, rng: np.random.Generator) -> TrainingBatch:
        size = 1 + int(rng.choice(len(stage.group_sizes), p=stage.group_sizes))
        groups = [self._pool.draw_group(rng, size) for _ in range(max(1, stage.scenes // size))]
        return group_batch(
            groups,
            self._tokenizer,
            rng,
            queries=self._config.qformer.queries,
            questions=stage.questions_of(len(groups)),
            chances=stage.chances,
            nothing_chance=stage.nothing_chance,
            masks=stage.masks,
            side=self._config.mask_side,
            system_prompt=self._config.system_prompt,
        )


def _lasting(recipe: PretrainingRecipe) -> dict[str, object]:
    """What of a recipe must not change between the parts of one run."""
    return {
        "seed": recipe.seed,
        "stages": [
            [s.name, s.language, s.scenes, s.questions, s.masks, list(s.group_sizes)]
            for s in recipe.stages
        ],
    }


def _parameter_groups(module: nn.Module, decay: float) -> list[dict[str, object]]:
    """Matrices decay, vectors do not."""
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
