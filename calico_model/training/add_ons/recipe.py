"""What every training of an add-on on frozen features has in common, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from calico_model.errors import InvalidConfigError


@dataclass(frozen=True, kw_only=True)
class AddOnRecipe:
    """The training of a part that is added to a frozen CALICO.

    Attributes:
        seed: of all that is drawn, and of initial weights.
        chunks: encoded pairs to learn from, in chunks of 32.
        steps: optimiser steps.
        learning_rate: peak; linear warm-up, flat, then linear decay over `decay_share` of steps.
        checkpoint_every: steps between resumable states.
    """

    seed: int
    chunks: int
    steps: int
    learning_rate: float
    warmup_steps: int
    decay_share: float = 0.6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("seed", "warmup_steps") else 1
            if isinstance(value, int) and value < least:
                raise InvalidConfigError(f"{name}: expected >= {least}, got {value}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.learning_rate * min(warm, 1.0, max(left, 0.02))

    def lasting(self) -> dict[str, object]:
        """What must not change between the parts of one run."""
        return {k: v for k, v in asdict(self).items() if k != "checkpoint_every"}
