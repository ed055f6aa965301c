"""The model of the trainer: learns from corrections and measures adapters.

The only module of training that holds a model; everything else uses the protocol `Updater`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cachetools import FIFOCache
from torch import Tensor, nn

from backend.inference_priority import Yielding
from backend.learning.examples import ExampleBuilder
from backend.learning.gate import CorrectionAgreement, Quality
from backend.learning.session import OnProgress, Stop, WriteAdapter
from backend.learning.training_material import CorrectedTask
from backend.types import GroupSource
from calico_model.modeling.adapter import Adapter, read_adapter, write_adapter
from calico_model.predictor import Predictor
from calico_model.training.online.dense_images import plain_image
from calico_model.training.online.example import Example
from calico_model.training.online.learnability import CrossPrediction, leave_one_out
from calico_model.training.online.scoring import score_groups
from calico_model.training.online.update import (
    Replay,
    UpdatePlan,
    UpdateProgress,
    find_update_domain,
    update_adapter,
)
from calico_model.types import LabeledGroup
from calico_model.vocabulary import name_of, normalise

_MOST_PROBED = 9  # adapters whose quality on base data is remembered


@dataclass(frozen=True, eq=False)
class BaseGroups:
    """Data that the base was trained on.

    Attributes:
        replay: groups to rehearse.
        probe: groups to measure forgetting on; none of `replay`.
    """

    replay: tuple[LabeledGroup, ...] = ()
    probe: tuple[LabeledGroup, ...] = ()


class OnlineUpdater:
    """A model with its adapters that is used for training only; an `Updater`.

    Args:
        predictor: of a process that serves no predictions.
        base: fingerprint of its weights.
        images: fetches the images of a task.
        features: folder of the stored features.
        feature_bytes: upper bound of that folder in bytes.
        base_groups: data that the base was trained on.
        plan: of every update.
        yielding: called at every layer, waits while another process predicts; None never waits.
        clock: seconds of learning where nothing yields.
    """

    def __init__(
        self,
        predictor: Predictor,
        base: str,
        images: GroupSource,
        features: Path,
        *,
        feature_bytes: int,
        base_groups: BaseGroups,
        plan: UpdatePlan | None = None,
        yielding: Yielding | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictor = predictor
        self._model = predictor.adapters.model
        self._device = next(self._model.parameters()).device
        self._yielding, self._plain_clock = yielding, clock
        if yielding is not None:
            call_at_every_layer(self._model, yielding)
        self._base = base
        self._plan = plan or UpdatePlan()
        self._examples = ExampleBuilder(predictor, images, features, feature_bytes=feature_bytes)
        self._replay = self._examples.from_groups("replay", base_groups.replay)
        self._probe = self._examples.from_groups("probe", base_groups.probe)
        self._probed: FIFOCache[Path | None, Quality] = FIFOCache(_MOST_PROBED)

    @property
    def base(self) -> str:
        """Fingerprint of the base weights."""
        return self._base

    @property
    def base_version(self) -> str:
        """Version name in predictions of the base without an adapter."""
        return self._predictor.version

    def update(
        self,
        new: Sequence[CorrectedTask],
        earlier: Sequence[CorrectedTask],
        *,
        start: Path | None,
        on_progress: OnProgress,
        stop: Stop,
        seconds: float | None = None,
    ) -> WriteAdapter | None:
        """Learns from corrections; see `Updater.update`.

        Raises:
            CheckpointError: the adapter to go on from does not fit.
            InvalidConfigError: none of the corrections can be used.
        """
        if self._yielding is not None:
            self._yielding.renew()
        if stop():  # before views are encoded, the longest step here
            return None
        new_examples, earlier_examples = self._with_views(new, earlier)
        if stop():
            return None
        plan = self._plan if seconds is None else replace(self._plan, seconds=seconds)
        update = update_adapter(
            self._predictor.adapters,
            new_examples,
            Replay(earlier_examples, self._replay),
            plan,
            start=self._read(start, (*new, *earlier)),
            clock=self._clock(),
            on_progress=lambda done: on_progress(_share(done), self._eta_s(done)),
            stop=stop,
        )
        if update.was_stopped:
            return None
        adapter = update.adapter

        def write(folder: Path) -> object:
            return write_adapter(
                adapter.tensors,
                folder,
                config=self._model.config,
                base=self._base,
                scope=adapter.scope,
                labels=adapter.labels,
                dense=adapter.dense,
            )

        return write

    def measure(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on tasks; None if none of the tasks can be used.

        Raises:
            CheckpointError: the adapter cannot be read or does not fit.
        """
        examples = self._examples.from_tasks(tasks)
        return self._score(self._read(adapter, tasks), examples) if examples else None

    def probe(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on base data; see `Updater.probe`.

        Raises:
            CheckpointError: the adapter cannot be read or does not fit.
        """
        if not self._probe:
            return None
        _, asks_language = find_update_domain(
            self._model, self._examples.from_tasks(tasks), self._replay
        )
        if not asks_language:
            return None
        if adapter not in self._probed:
            # The folder of an adapter never changes.
            self._probed[adapter] = self._score(self._read(adapter), self._probe)
        return self._probed[adapter]

    def agreement(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> CorrectionAgreement | None:
        """Measures how well corrections are predicted from each other; see `Updater.agreement`."""
        if self._model.dense_head is None:
            return None
        new_images, earlier_images = (
            [
                [plain_image(example, k) for k in range(len(example))]
                for example in self._examples.from_tasks(tasks)
            ]
            for tasks in (new, earlier)
        )
        predicted = leave_one_out([*new_images, *earlier_images])
        fresh, known = predicted[: len(new_images)], predicted[len(new_images) :]
        alone = leave_one_out(earlier_images)
        return CorrectionAgreement(
            _share_right(fresh),
            sum(group.names for group in fresh),
            _share_right(known) if known else None,
            _share_right(alone) if alone else None,
        )

    @property
    def _shares_processor(self) -> bool:
        """Whether predictions slow training down; on a GPU this thread only waits for kernels."""
        return self._yielding is not None and self._device.type == "cpu"

    def _clock(self) -> Callable[[], float]:
        if self._yielding is None:
            return self._plain_clock
        return self._yielding.working_s if self._shares_processor else self._yielding.passing_s

    def _eta_s(self, done: UpdateProgress) -> float | None:
        if done.eta_s is None or self._yielding is None or not self._shares_processor:
            return done.eta_s
        return self._yielding.stretched(done.eta_s)

    def _score(self, adapter: Adapter | None, examples: Sequence[Example]) -> Quality:
        scores = score_groups(self._predictor.adapters, adapter, examples)
        regions = tuple(group.regions for group in scores.groups)
        return Quality(scores.miou, scores.recall, len(regions), scores.by_label, regions)

    def _read(self, folder: Path | None, tasks: Sequence[CorrectedTask] = ()) -> Adapter | None:
        """Returns an adapter, with the names that its labels have in some tasks by now."""
        if folder is None:
            return None
        adapter = read_adapter(self._model, folder, base=self._base).renamed(renamed_names(tasks))
        self._predictor.adapters.check(adapter)
        return adapter

    def _with_views(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Returns the examples of an update, new and earlier ones, with views of their images."""
        made = {id(task): self._examples.from_task(task) for task in (*new, *earlier)}
        usable = [example for example in made.values() if example is not None]
        names = {label for example in usable for label in example.labels}
        image_count = sum(len(example) for example in usable)
        image_views = self._plan.dense.views_for(image_count)
        _, asks_language = find_update_domain(self._model, usable, self._replay)
        new_group_views = self._plan.views_for(len(new)) if asks_language else 0

        def add_views(tasks: Sequence[CorrectedTask], group_view_count: int) -> tuple[Example, ...]:
            examples = ((task, made[id(task)]) for task in tasks)
            return tuple(
                self._examples.with_views(
                    task,
                    example,
                    group_view_count=group_view_count,
                    image_view_count=image_views,
                    names=names,
                )
                for task, example in examples
                if example is not None
            )

        return add_views(new, new_group_views), add_views(earlier, 0)


def renamed_names(tasks: Sequence[CorrectedTask]) -> dict[str, str]:
    """Returns the names of labels that were renamed since some tasks were annotated.

    A renamed label has its old name as another word, and the old one is on no region any more.

    Returns:
        Old name -> new name, in normal form.
    """
    corrections = [task.correction for task in tasks]
    used = {
        name_of(label, correction.vocabulary)
        for correction in corrections
        for outcome in correction.outcomes
        if outcome.after is not None
        for label in outcome.after.labels
    }
    vocabularies = (correction.vocabulary for correction in corrections)
    pairs = (
        (normalise(alias), vocabulary.names[label])
        for vocabulary in vocabularies
        if vocabulary is not None
        for alias, label in vocabulary.aliases.items()
    )
    return {old: new for old, new in pairs if old not in used and new in used}


def call_at_every_layer(model: nn.Module, call: Callable[[], None]) -> Callable[[], None]:
    """Calls a function after every layer, forward and backward; the results stay the same.

    A training step takes longer than a prediction, so pauses between steps would come too late.

    Args:
        model: every module without submodules counts as a layer.
        call: must be quick; an exception it raises ends the step.

    Returns:
        A function that removes the hooks.
    """

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        call()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _gradient: call())  # type: ignore[no-untyped-call]

    layers = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [layer.register_forward_hook(after) for layer in layers]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def _share_right(groups: Sequence[CrossPrediction]) -> float:
    """Share of right predictions over all names, in [0, 1]."""
    right = sum(group.right * group.names for group in groups)
    return right / max(1, sum(group.names for group in groups))


def _share(done: UpdateProgress) -> float:
    return done.step / max(done.steps, 1)
