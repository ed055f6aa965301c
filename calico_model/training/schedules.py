"""What the recipes of several trainings share: learning-rate curves and the check of a value.

Pure arithmetic; recipes are read by commands that must start without torch.
"""

from __future__ import annotations

import math

from calico_model.errors import InvalidConfigError

LEAST_SHARE = 0.02
"""Share of the peak rate below which no curve falls, but the linear one."""


def flat_rate(step: int, steps: int, *, warmup_steps: int, decay_share: float) -> float:
    """Returns a share of the peak rate: linear warm-up, flat, then linear decay.

    Args:
        step: 0-based.
        steps: of the whole training.
        warmup_steps: steps of the warm-up.
        decay_share: share of all steps in which the rate falls.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    left = (steps - step) / max(1.0, decay_share * steps)
    return min(warm, 1.0, max(left, LEAST_SHARE))


def linear_rate(step: int, steps: int, *, warmup_steps: int) -> float:
    """Returns a share of the peak rate: linear warm-up, then linear decay to 0.

    Args:
        step: 0-based.
        steps: of the whole training.
        warmup_steps: steps of the warm-up.
    """
    up = (step + 1) / warmup_steps if warmup_steps else 1.0
    down = (steps - step) / max(1, steps - warmup_steps)
    return min(1.0, up, down)


def cosine_rate(done: float, *, warmup: float) -> float:
    """Returns a share of the peak rate: linear warm-up, then decay along a cosine.

    Args:
        done: share of the training that is over, in [0, 1].
        warmup: share of the training in which the rate rises.
    """
    if done < warmup:
        return max(LEAST_SHARE, done / warmup)
    along = (done - warmup) / (1 - warmup)
    return max(LEAST_SHARE, 0.5 * (1 + math.cos(math.pi * along)))


def check_value(recipe: object, name: str, is_good: bool, expected: str) -> None:
    """Checks one value of a recipe.

    Args:
        recipe: that holds it.
        name: of the field.
        is_good: whether the value may be used.
        expected: what would be good, for the message.

    Raises:
        InvalidConfigError: the value is not good; the message names the field.
    """
    if not is_good:
        raise InvalidConfigError(f"{name}: expected {expected}, got {getattr(recipe, name)}")
