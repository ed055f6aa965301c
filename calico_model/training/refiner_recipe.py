"""How the mask refiner is trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from calico_model.errors import InvalidConfigError


@dataclass(frozen=True)
class RefinerRecipe:
    """The whole training of the mask refiner on frozen features.

    Attributes:
        seed: of pairs, annotators and initial weights.
        chunks: encoded pairs to learn from, in chunks of 32; each takes about 35 MB of disk.
        steps: optimiser steps.
        masks: simulated annotators per step.
        rounds: times each of them is answered; every answer but an unasked one teaches.
        learning_rate: peak; linear warm-up, flat, then linear decay over `decay_share` of steps.
        box_share, corrected_share, unasked_share: annotators that begin with a box, with a mask
            that is not right, or not at all (the model's own mask is to be sharpened); the others
            begin with one click.
        checkpoint_every: steps between resumable states.
    """

    seed: int = 37
    chunks: int = 40
    steps: int = 3000
    masks: int = 24
    rounds: int = 3
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_share: float = 0.6
    box_share: float = 0.1
    corrected_share: float = 0.25
    unasked_share: float = 0.15
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("chunks", "steps", "masks", "rounds", "checkpoint_every"):
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
