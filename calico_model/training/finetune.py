"""The online update: corrections and replay in, an adapter out. No I/O.

One function, `finetune`. The encoders never run: examples carry their features. Everything random
is drawn from the plan's seed, so that equal inputs give equal bits on one machine, unless the
budget of seconds cuts the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calico_model.errors import InvalidConfigError
from calico_model.modeling.adapter import Adapter, AdapterScope
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.training.example import Example


@dataclass(frozen=True)
class FinetunePlan:
    """How one update learns.

    Attributes:
        scope: which parts learn.
        seed: of what is drawn when, and of wordings.
        least_steps, steps_per_example, most_steps: optimiser steps grow with the new examples.
        seconds: budget; fewer steps are made where they would take longer. Needs a clock.
        batch: questions per step.
        replay_share: of a batch that is replay, in [0, 1), when there is any.
        learning_rate: peak, of LoRA, CAM, CEM and queries.
        decoder_rate: of the mask decoder.
        row_rate: of the labels' token rows.
        anchor: weight of the KL divergence from the base on replay of base data.
        decay: pull of every weight towards the base per step, as a share of the rate (L2-SP).
    """

    scope: AdapterScope = field(default_factory=AdapterScope)
    seed: int = 27
    least_steps: int = 40
    steps_per_example: float = 2.0
    most_steps: int = 80
    seconds: float = 35.0
    batch: int = 12
    replay_share: float = 0.5
    learning_rate: float = 2e-3
    decoder_rate: float = 5e-4
    row_rate: float = 5e-3
    anchor: float = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("least_steps", "most_steps", "batch", "seconds"):
            self._check(name, getattr(self, name) > 0, "a number above 0")
        for name in ("learning_rate", "decoder_rate", "row_rate"):
            self._check(name, getattr(self, name) > 0, "a number above 0")
        for name in ("seed", "anchor", "decay", "steps_per_example"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("replay_share", 0 <= self.replay_share < 1, "a share below 1")

    def _check(self, name: str, is_good: bool, expected: str) -> None:
        if not is_good:
            raise InvalidConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

    def steps_for(self, examples: int) -> int:
        """Optimiser steps for so many new examples."""
        wanted = round(self.least_steps + self.steps_per_example * examples)
        return min(self.most_steps, wanted)


@dataclass(frozen=True)
class Replay:
    """What must not be forgotten.

    Attributes:
        corrections: examples of earlier updates.
        base: examples of the data the base was trained on; also where the base is the teacher.
    """

    corrections: tuple[Example, ...] = ()
    base: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far an update is.

    Attributes:
        step, steps: done and planned; the plan may shrink when steps turn out to be slow.
        loss: of the last step.
        eta_s: seconds to the end, None without a clock or before the first step.
    """

    step: int
    steps: int
    loss: float
    eta_s: float | None


@dataclass(frozen=True)
class AdapterUpdate:
    """The outcome of an update.

    Attributes:
        adapter: what was learned; equals the start if no step was made.
        steps: made.
        planned_steps: what the number of examples asked for.
        was_stopped: `stop` ended it early; the adapter is what had been learned so far.
        losses: name -> mean over the last tenth of the steps; empty without any.
    """

    adapter: Adapter
    steps: int
    planned_steps: int
    was_stopped: bool
    losses: dict[str, float]


def finetune(
    adapters: AdapterSet,
    new: Sequence[Example],
    replay: Replay,
    plan: FinetunePlan,
    *,
    start: Adapter | None = None,
    clock: Callable[[], float] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> AdapterUpdate:
    """Learns from corrected groups.

    Args:
        adapters: the model with its tokenizer; wears nothing afterwards. The caller holds its lock
            for the whole update: a trainer has a model of its own.
        new: corrections not learned from before.
        replay: what to rehearse between them.
        plan: how.
        start: adapter to go on from, None for the base.
        clock: seconds that only rise; None makes all planned steps.
        on_progress: called after every step.
        stop: asked before every step; True ends the update.

    Raises:
        InvalidConfigError: there is nothing to learn from.
    """
    raise NotImplementedError
