"""How the add-ons for annotators are trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from calico_model.errors import InvalidConfigError


@dataclass(frozen=True)
class AssistRecipe:
    """The whole training of exemplar prompts and mask memory on frozen features.

    Attributes:
        seed: of pairs, questions and initial weights.
        chunks: encoded pairs to learn from, in chunks of 32; each takes about 20 MB of disk.
        steps: optimiser steps.
        exemplars: parts sought in another image per step.
        memories: parts decoded behind others per step.
        learning_rate: peak; linear warm-up, flat, then linear decay over `decay_share` of steps.
        sparse_dropout: chance that an exemplar has its dense prompt alone, so that both learn.
        absent_weight: pixel loss of parts that are not there, against 1.
        checkpoint_every: steps between resumable states.
    """

    seed: int = 31
    chunks: int = 40
    steps: int = 700
    exemplars: int = 40
    memories: int = 40
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    decay_share: float = 0.6
    sparse_dropout: float = 0.2
    absent_weight: float = 0.5
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("chunks", "steps", "exemplars", "memories", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InvalidConfigError(f"{name}: expected >= 1, got {getattr(self, name)}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.learning_rate * min(warm, 1.0, max(left, 0.02))

    def lasting(self) -> dict[str, object]:
        """What must not change between the parts of one run."""
        return {k: v for k, v in asdict(self).items() if k != "checkpoint_every"}
