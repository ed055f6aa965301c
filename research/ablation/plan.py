"""How every row of a study is trained and judged, in numbers. Knows nothing of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from calico_model.data.casting import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.training.pretraining.recipe import Stage


class Start(StrEnum):
    """Where the language side begins."""

    SCRATCH = "scratch"
    LANGUAGE = "language"


@dataclass(frozen=True)
class Plan:
    """How every row is trained and judged.

    Attributes:
        steps: optimiser steps.
        scenes: least number of training scenes whose features are kept.
        groups: held-out pairs.
        split: hold-out they are drawn from.
        start: where the language side begins.
        pairs: groups per step, each with one question.
        masks: most masks decoded per step.
        learning_rate: peak; warm-up over the first tenth, linear decay over the last half.
        mask_weight: on top of the paper's mask weights; a new [SEG] projection needs more.
        resamples: of the bootstrap.
    """

    steps: int = 450
    scenes: int = 4000
    groups: int = 300
    split: SceneSplit = SceneSplit.SEEN
    start: Start = Start.SCRATCH
    pairs: int = 16
    masks: int = 32
    learning_rate: float = 1e-3
    mask_weight: float = 3.0
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "scenes", "groups", "pairs", "masks", "resamples"):
            if getattr(self, name) < 1:
                raise InvalidConfigError(f"{name}: expected >= 1, got {getattr(self, name)}")

    @property
    def stage(self) -> Stage:
        """The training as a stage of a recipe."""
        return Stage(
            "ablation",
            self.steps,
            self.learning_rate,
            language=True,
            scenes=2 * self.pairs,
            masks=self.masks,
            dense_weight=0.0,
            mask_weight=self.mask_weight,
            warmup_steps=self.steps // 10,
            decay_share=0.5,
        )
