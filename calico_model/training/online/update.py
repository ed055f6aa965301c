"""The online update: corrections and replay in, an adapter out. No I/O.

One function, `finetune`. The encoders never run: examples carry their features. Everything random
is drawn from the plan's seed, so that equal inputs give equal bits on one machine, unless the
budget of seconds cuts the number of steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from calico_model.errors import InvalidConfigError
from calico_model.modeling.adapter import Adapter, AdapterScope
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.domain import Domain, find_domain
from calico_model.modeling.model import Calico
from calico_model.training.online.averaging import averaged
from calico_model.training.online.curriculum import Curriculum, Replay
from calico_model.training.online.dense_images import plain_image
from calico_model.training.online.dense_learner import DenseLearner, DenseLesson
from calico_model.training.online.example import DenseImage, Example
from calico_model.training.online.learner import Learner, own_labels
from calico_model.training.online.plan import FinetunePlan
from calico_model.training.schedules import cosine_rate

__all__ = ["AdapterUpdate", "FinetunePlan", "Progress", "Replay", "finetune"]

_TIMED_STEPS = 3
_MANY = 10_000  # steps: the clock ends them
_DENSE_ALONE = AdapterScope(lora=False, cam=False, cem=False, queries=False, mask_decoder=False)


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
    if not any(one.known for one in corrections):
        raise InvalidConfigError(
            "new: expected at least one corrected group with a named region, got none"
        )
    labels = own_labels(corrections, start, adapters.tokenizer)
    planned = plan.steps_for(len(new))
    domain, speaks = find_ground(adapters.model, corrections, replay.base)
    if domain is not None:  # the base answers its own kind of pictures: nothing to rehearse there
        replay = replace(replay, base=())
    with adapters.borrowed(start):
        in_pairs = adapters.model.config.asks_in_pairs
        curriculum = Curriculum(new, replay, plan.mix, plan.seed, in_pairs=in_pairs)
        has_dense = _has_dense(adapters, plan, curriculum)
        speaks = speaks or not has_dense
        if not speaks:
            plan = replace(plan, scope=_DENSE_ALONE)
            labels = () if start is None else start.labels
            planned = planned if clock is None else _MANY
        learner = Learner(adapters, plan, labels, start, corrections)  # freezes what it leaves out
        dense = _dense_learner(adapters, plan, start, curriculum) if has_dense else None
        pace = _Pace(planned, plan.seconds, clock)
        recent: deque[dict[str, float]] = deque(maxlen=max(1, planned // 10))
        was_stopped = False
        while pace.step < pace.steps:
            if stop():
                was_stopped = True
                break
            rate = cosine_rate(pace.share, warmup=plan.warmup)
            terms = learner.learn(curriculum, rate) if speaks else {}
            if dense is not None:
                terms |= dense.learn(rate, coarse=pace.share < plan.dense.coarse)
            recent.append(terms)
            pace.tick()
            loss = terms.get("loss", terms.get("dense", 0.0))
            on_progress(Progress(pace.step, pace.steps, loss, pace.eta_s))
        adapter = learner.adapter(domain) if pace.step else start or adapters.base(plan.scope)
        if pace.step and dense is not None:
            tensors = {**adapter.tensors, **dense.tensors}
            adapter = replace(adapter, tensors=tensors, dense=dense.names)
        if pace.step and start is not None:
            share = plan.start_share(len(replay.corrections), len(new))
            adapter = averaged(start, adapter, share)
    means = {name: _mean([one.get(name, 0.0) for one in recent]) for name in _names(recent)}
    return AdapterUpdate(adapter, pace.step, planned, was_stopped, means)


def find_ground(
    model: Calico, corrections: Sequence[Example], base: Sequence[Example]
) -> tuple[Domain | None, bool]:
    """Tells which pictures an update is for, and whether the language model learns of them.

    Of pictures unlike its own the language model knows nothing to build on: there the dense head
    has the whole time.

    Args:
        model: that encoded the examples.
        corrections: to learn from.
        base: of the data the base was trained on.

    Returns:
        The domain, None where the pictures look like the base's; and whether to teach language.
    """
    domain = find_domain([one.features for one in corrections], [one.features for one in base])
    known = model.familiarity
    is_familiar = known is None or any(known.covers(one.features) for one in corrections)
    return domain, model.dense_head is None or (domain is None and is_familiar)


def _has_dense(adapters: AdapterSet, plan: FinetunePlan, curriculum: Curriculum) -> bool:
    has_maps = all(one.features.photo for one in curriculum.corrected)
    return adapters.model.dense_head is not None and plan.scope.dense_head and has_maps


def _dense_learner(
    adapters: AdapterSet, plan: FinetunePlan, start: Adapter | None, curriculum: Curriculum
) -> DenseLearner:
    head = adapters.model.dense_head
    assert head is not None
    told = zip(curriculum.corrected, curriculum.weights, strict=True)
    lessons = [
        DenseLesson(views, weight) for one, weight in told for views in one.dense or _plain(one)
    ]
    return DenseLearner(head, plan.dense, start, lessons, seed=plan.seed)


def _plain(example: Example) -> tuple[tuple[DenseImage, ...], ...]:
    return tuple((plain_image(example, index),) for index in range(len(example)))


class _Pace:
    """Counts steps and fits them into a budget of seconds.

    Attributes:
        share: of the update that has gone, in [0, 1].
    """

    def __init__(self, steps: int, seconds: float, clock: Callable[[], float] | None) -> None:
        self.step, self.steps = 0, steps
        self.eta_s: float | None = None
        self.share = 0.0
        self._seconds, self._clock = seconds, clock
        self._began = clock() if clock is not None else 0.0

    def tick(self) -> None:
        """Notes that a step has been made; the plan shrinks, never grows."""
        self.step += 1
        if self._clock is not None:
            gone = self._clock() - self._began
            each = gone / self.step
            if self.step >= _TIMED_STEPS:
                self.steps = max(self.step, min(self.steps, int(self._seconds / max(each, 1e-9))))
            self.eta_s = each * (self.steps - self.step)
            self.share = min(1.0, max(self.share, gone / self._seconds))
        self.share = max(self.share, self.step / self.steps)


def _names(recent: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for one in recent for name in one})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
