"""The online update: corrections and replay in, an adapter out. No I/O.

The encoders never run: examples carry their features. Everything random is drawn from the plan's
seed, so that equal inputs give equal bits on one machine, unless the budget of seconds cuts the
number of steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from calico_model.errors import InvalidConfigError
from calico_model.modeling.adapter import (
    DOMAIN_BIAS,
    DOMAIN_WEIGHT,
    INPUT_ROWS,
    OUTPUT_ROWS,
    Adapter,
    AdapterScope,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.domain import Domain, find_domain
from calico_model.modeling.model import Calico
from calico_model.training.online.curriculum import Curriculum, Replay
from calico_model.training.online.dense_images import plain_image
from calico_model.training.online.dense_learner import DenseHeadLearner, DenseViews
from calico_model.training.online.example import DenseImage, Example
from calico_model.training.online.learner import AdapterLearner, labels_with_rows
from calico_model.training.online.plan import UpdatePlan
from calico_model.training.schedules import cosine_rate

__all__ = ["AdapterUpdate", "UpdatePlan", "UpdateProgress", "Replay", "update_adapter"]

_RECOMPUTED = (DOMAIN_BIAS, DOMAIN_WEIGHT)
"""Tensors that are computed anew from all corrections: there is nothing to average."""
_DENSE = "dense_"
"""Prefix of the dense head, which learns from all corrections, old and new, every time."""
_TIMED_STEPS = 3
_UNLIMITED = 10_000  # steps: the clock ends them
_DENSE_HEAD_ALONE = AdapterScope(
    lora=False, cam=False, cem=False, queries=False, mask_decoder=False
)


@dataclass(frozen=True)
class UpdateProgress:
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
        adapter: the result; equals the start if no step was made.
        steps: made.
        planned_steps: steps that belong to so many examples.
        was_stopped: `stop` ended it early; the adapter holds what had been learned by then.
        losses: name -> mean over the last tenth of the steps; empty without any.
    """

    adapter: Adapter
    steps: int
    planned_steps: int
    was_stopped: bool
    losses: dict[str, float]


def update_adapter(
    adapters: AdapterSet,
    new: Sequence[Example],
    replay: Replay,
    plan: UpdatePlan,
    *,
    start: Adapter | None = None,
    clock: Callable[[], float] | None = None,
    on_progress: Callable[[UpdateProgress], None] = lambda _progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> AdapterUpdate:
    """Learns from corrected groups.

    Args:
        adapters: the model with its tokenizer; no adapter is selected afterwards. The caller holds
            its lock for the whole update: a trainer has a model of its own.
        new: corrections not learned from before.
        replay: examples to rehearse between them.
        plan: how to learn.
        start: adapter to go on from, None for the base.
        clock: seconds that only rise; None makes all planned steps.
        on_progress: called after every step.
        stop: asked before every step; True ends the update.

    Raises:
        InvalidConfigError: there is nothing to learn from.
    """
    corrections = (*new, *replay.corrections)
    if not any(example.known for example in corrections):
        raise InvalidConfigError(
            "new: expected at least one corrected group with a named region, got none"
        )
    labels = labels_with_rows(corrections, start, adapters.tokenizer)
    planned = plan.steps_for(len(new))
    domain, asks_language = find_update_domain(adapters.model, corrections, replay.base)
    if domain is not None:  # the base answers its own kind of pictures: nothing to rehearse there
        replay = replace(replay, base=())
    with adapters.borrowed(start):
        in_pairs = adapters.model.config.asks_in_pairs
        curriculum = Curriculum(new, replay, plan.mix, plan.seed, in_pairs=in_pairs)
        has_dense = _has_dense(adapters, plan, curriculum)
        asks_language = asks_language or not has_dense
        if not asks_language:
            plan = replace(plan, scope=_DENSE_HEAD_ALONE)
            labels = () if start is None else start.labels
            planned = planned if clock is None else _UNLIMITED
        # The learner freezes every parameter that it does not train, so it is made first.
        learner = AdapterLearner(adapters, plan, labels, start, corrections)
        dense = _dense_learner(adapters, plan, start, curriculum) if has_dense else None
        budget = _StepBudget(planned, plan.seconds, clock)
        recent: deque[dict[str, float]] = deque(maxlen=max(1, planned // 10))
        was_stopped = False
        while budget.step < budget.steps:
            if stop():
                was_stopped = True
                break
            rate = cosine_rate(budget.share, warmup=plan.warmup)
            terms = learner.learn(curriculum, rate) if asks_language else {}
            if dense is not None:
                terms |= dense.learn(rate, coarse=budget.share < plan.dense.coarse)
            recent.append(terms)
            budget.tick()
            loss = terms.get("loss", terms.get("dense", 0.0))
            on_progress(UpdateProgress(budget.step, budget.steps, loss, budget.eta_s))
        adapter = learner.adapter(domain) if budget.step else start or adapters.base(plan.scope)
        if budget.step and dense is not None:
            tensors = {**adapter.tensors, **dense.tensors}
            adapter = replace(adapter, tensors=tensors, dense=dense.names)
        if budget.step and start is not None:
            share = plan.start_share(len(replay.corrections), len(new))
            adapter = averaged(start, adapter, share)
    means = {n: _mean([terms.get(n, 0.0) for terms in recent]) for n in _names(recent)}
    return AdapterUpdate(adapter, budget.step, planned, was_stopped, means)


def find_update_domain(
    model: Calico, corrections: Sequence[Example], base: Sequence[Example]
) -> tuple[Domain | None, bool]:
    """Finds the pictures an update is for, and whether the language model learns from them.

    For pictures unlike its own the language model has nothing to build on: there the dense head
    gets the whole time.

    Args:
        model: the one that encoded the examples.
        corrections: examples to learn from.
        base: examples of the data the base was trained on.

    Returns:
        The domain, None where the pictures look like the base's; and whether to teach language.
    """
    features = [example.features for example in corrections]
    domain = find_domain(features, [example.features for example in base])
    known = model.familiarity
    is_familiar = known is None or any(known.covers(group) for group in features)
    return domain, model.dense_head is None or (domain is None and is_familiar)


def _has_dense(adapters: AdapterSet, plan: UpdatePlan, curriculum: Curriculum) -> bool:
    has_maps = all(example.features.photo for example in curriculum.corrected)
    return adapters.model.dense_head is not None and plan.scope.dense_head and has_maps


def _dense_learner(
    adapters: AdapterSet, plan: UpdatePlan, start: Adapter | None, curriculum: Curriculum
) -> DenseHeadLearner:
    head = adapters.model.dense_head
    assert head is not None
    images = [
        DenseViews(views, weight)
        for example, weight in zip(curriculum.corrected, curriculum.weights, strict=True)
        for views in example.dense or _plain_images(example)
    ]
    return DenseHeadLearner(head, plan.dense, start, images, seed=plan.seed)


def _plain_images(example: Example) -> tuple[tuple[DenseImage, ...], ...]:
    return tuple((plain_image(example, index),) for index in range(len(example)))


class _StepBudget:
    """Counts steps and fits them into a budget of seconds.

    Attributes:
        step, steps: done and planned.
        eta_s: seconds to the end, None without a clock or before the first step.
        share: of the update that is over, in [0, 1].
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
            passed = self._clock() - self._began
            each = passed / self.step
            if self.step >= _TIMED_STEPS:
                self.steps = max(self.step, min(self.steps, int(self._seconds / max(each, 1e-9))))
            self.eta_s = each * (self.steps - self.step)
            self.share = min(1.0, max(self.share, passed / self._seconds))
        self.share = max(self.share, self.step / self.steps)


def _names(recent: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for terms in recent for name in terms})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def averaged(start: Adapter, learned: Adapter, share: float) -> Adapter:
    """Returns the mean of an update's result and its start.

    A short update on few groups may go too far: it learns them by heart and loses others. Weights
    between the start and the end of an update are often better than both on groups it never saw
    (WiSE-FT, Wortsman et al. 2022), because the end came from the start. Rows of new names stay as
    they were learned, and so does the dense head, which learns from all corrections each time.

    Args:
        start: adapter the update went on from.
        learned: adapter it ended with; its names begin with those of the start.
        share: weight of the start, in [0, 1].
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in learned.tensors.items():
        before = start.tensors.get(name)
        if before is None or name in _RECOMPUTED or name.startswith(_DENSE):
            tensors[name] = tensor
        elif name in (INPUT_ROWS, OUTPUT_ROWS):
            tensors[name] = _average_known(before, tensor, share)
        else:
            tensors[name] = tensor.lerp(before, share)
    return replace(learned, tensors=tensors)


def _average_known(before: Tensor, learned: Tensor, share: float) -> Tensor:
    """The mean of (k, W) rows and the first k of (n, W) rows; the other n - k as learned."""
    rows = learned.clone()
    rows[: len(before)] = learned[: len(before)].lerp(before, share)
    return rows
