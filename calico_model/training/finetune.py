"""The online update: corrections and replay in, an adapter out. No I/O.

One function, `finetune`. The encoders never run: examples carry their features. Everything random
is drawn from the plan's seed, so that equal inputs give equal bits on one machine, unless the
budget of seconds cuts the number of steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from calico_model.errors import InvalidConfigError
from calico_model.modeling.adapter import Adapter
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.domain import find_domain
from calico_model.training.averaging import averaged
from calico_model.training.curriculum import Curriculum, Replay
from calico_model.training.dense_learner import DenseLearner
from calico_model.training.example import Example
from calico_model.training.finetune_plan import FinetunePlan
from calico_model.training.learner import Learner, own_labels

__all__ = ["AdapterUpdate", "FinetunePlan", "Progress", "Replay", "finetune"]

_TIMED_STEPS = 3


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
    corrections = (*new, *replay.corrections)
    if not corrections:
        raise InvalidConfigError("new: expected at least one corrected group, got none")
    labels = own_labels(corrections, start, adapters.tokenizer)
    planned = plan.steps_for(len(new))
    domain = find_domain(
        [one.features for one in corrections], [one.features for one in replay.base]
    )
    if domain is not None:  # the base answers its own kind of pictures: nothing to rehearse there
        replay = replace(replay, base=())
    with adapters.lent(start):
        learner = Learner(adapters, plan, labels, start, corrections)
        pace = _Pace(planned, plan.seconds, clock)
        in_pairs = adapters.model.config.asks_in_pairs
        curriculum = Curriculum(new, replay, plan.mix, plan.seed, in_pairs=in_pairs)
        dense = _dense_learner(adapters, plan, start, curriculum)
        recent: deque[dict[str, float]] = deque(maxlen=max(1, planned // 10))
        was_stopped = False
        while pace.step < pace.steps:
            if stop():
                was_stopped = True
                break
            rate = _rate(pace.step, pace.steps, plan.warmup)
            terms = learner.learn(curriculum, rate)
            recent.append(terms if dense is None else terms | dense.learn(rate))
            pace.tick()
            on_progress(Progress(pace.step, pace.steps, recent[-1]["loss"], pace.eta_s))
        adapter = learner.adapter(domain) if pace.step else start or adapters.base(plan.scope)
        if pace.step and dense is not None:
            tensors = {**adapter.tensors, **dense.tensors}
            adapter = replace(adapter, tensors=tensors, dense=dense.names)
        if pace.step and start is not None:
            share = plan.start_share(len(replay.corrections), len(new))
            adapter = averaged(start, adapter, share)
    means = {name: _mean([one.get(name, 0.0) for one in recent]) for name in _names(recent)}
    return AdapterUpdate(adapter, pace.step, planned, was_stopped, means)


def _dense_learner(
    adapters: AdapterSet, plan: FinetunePlan, start: Adapter | None, curriculum: Curriculum
) -> DenseLearner | None:
    head = adapters.model.dense_head
    if head is None or not plan.scope.dense_head:
        return None
    corrected, weights = curriculum.corrected, curriculum.weights
    return DenseLearner(head, plan.dense, start, corrected, weights, seed=plan.seed)


class _Pace:
    """Counts steps and fits them into a budget of seconds."""

    def __init__(self, steps: int, seconds: float, clock: Callable[[], float] | None) -> None:
        self.step, self.steps = 0, steps
        self.eta_s: float | None = None
        self._seconds, self._clock = seconds, clock
        self._began = clock() if clock is not None else 0.0

    def tick(self) -> None:
        """Notes that a step has been made; the plan shrinks, never grows."""
        self.step += 1
        if self._clock is None:
            return
        each = (self._clock() - self._began) / self.step
        if self.step >= _TIMED_STEPS:
            self.steps = max(self.step, min(self.steps, int(self._seconds / max(each, 1e-9))))
        self.eta_s = each * (self.steps - self.step)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a 0-based step: up, then down to 0 along a cosine."""
    first = max(1.0, warmup * steps)
    up = (step + 1) / first
    along = min(1.0, max(0.0, (step - first) / max(1.0, steps - first)))
    return min(1.0, up) * 0.5 * (1 + math.cos(math.pi * along))


def _names(recent: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for one in recent for name in one})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
