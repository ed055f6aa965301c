"""Corrections as the model learns from them: images to kept features, regions to lessons.

The one place of training that holds a model. Each image is encoded once: its features are kept on
disk by content. Only the views of new corrections are encoded in the update that learns them.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from backend.errors import MediaError
from backend.inference_priority import Yielding
from backend.learning.correction import Correction
from backend.learning.gate import Agreement, Quality
from backend.learning.progress import OnProgress
from backend.learning.session import CorrectedTask, Stop, Write
from backend.learning.supervision import Supervision, known_kinds, lessons, region_name, true_parts
from backend.learning.yielding import call_at_every_layer
from backend.types import Region, Task
from calico_model.errors import CalicoError, CheckpointError, InvalidConfigError
from calico_model.inference.feature_store import FeatureStore
from calico_model.modeling.adapter import Adapter, read_adapter, write_adapter
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.predictor import Predictor
from calico_model.training.frozen import encoder_fingerprint, rounded
from calico_model.training.online import example as model_example
from calico_model.training.online.dense_images import (
    ViewCache,
    group_views,
    plain_image,
    with_dense,
)
from calico_model.training.online.example import Example, RegionTarget, example_of, make_example
from calico_model.training.online.learnability import CrossPrediction, leave_one_out
from calico_model.training.online.scoring import score_groups
from calico_model.training.online.update import (
    Replay,
    UpdatePlan,
    UpdateProgress,
    find_update_domain,
    update_adapter,
)
from calico_model.training.online.views import with_views
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind

_log = logging.getLogger(__name__)
_MOST_IN_MEMORY = 192  # groups whose features are held between runs
_VIEW_BYTES = 512 * 2**20  # of other views of corrected images, held between runs


class GroupSource(Protocol):
    """Where a task's images come from."""

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task; raises MediaError naming the field."""


@dataclass(frozen=True, eq=False)
class BaseGroups:
    """Data the base was trained on.

    Attributes:
        replay: groups to rehearse.
        probe: groups to measure forgetting on; none of `replay`.
    """

    replay: tuple[LabeledGroup, ...] = ()
    probe: tuple[LabeledGroup, ...] = ()


class OnlineUpdater:
    """A model with its adapters, for training alone.

    Args:
        predictor: of a process that answers nobody.
        base: fingerprint of its weights.
        images: where a task's images come from.
        features: folder of kept features.
        feature_bytes: ceiling of that folder.
        base_groups: data the base was trained on.
        plan: how every update learns.
        give_way: waits while somebody predicts, called all the time; nobody does if None.
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
        give_way: Yielding | None = None,
    ) -> None:
        self._predictor, self._images = predictor, images
        self._model = predictor.adapters.model
        self._device = next(self._model.parameters()).device
        self._give_way = give_way
        if give_way is not None:
            call_at_every_layer(self._model, give_way)
        self._base = base
        self._plan = plan or UpdatePlan()
        self._store = FeatureStore(
            features, encoder=encoder_fingerprint(self._model), max_bytes=feature_bytes
        )
        self._replay = self._base_examples("replay", base_groups.replay)
        self._probe = self._base_examples("probe", base_groups.probe)
        self._probed: dict[Path | None, Quality] = {}
        self._seen: OrderedDict[object, tuple[ImageFeatures, tuple[tuple[int, int], ...]]]
        self._seen = OrderedDict()
        self._views = ViewCache(_VIEW_BYTES)

    @property
    def base(self) -> str:
        """Fingerprint of the base weights."""
        return self._base

    @property
    def base_version(self) -> str:
        """What predictions of the bare base are stamped with."""
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
    ) -> Write | None:
        """Learns from corrections; see `Updater.update`.

        Raises:
            CheckpointError: the adapter to go on from does not fit.
            InvalidConfigError: not one of the corrections can be used.
        """
        if self._give_way is not None:
            self._give_way.renew()
        if stop():  # before views are encoded, which takes longer than anything else here
            return None
        fresh, known = self._material(new, earlier)
        if stop():
            return None
        plan = self._plan if seconds is None else replace(self._plan, seconds=seconds)
        update = update_adapter(
            self._predictor.adapters,
            fresh,
            Replay(known, self._replay),
            plan,
            start=self._read(start),
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
        """Measures an adapter, or the base, on tasks; None if none of them can be used.

        Raises:
            CheckpointError: the adapter cannot be read or does not fit.
        """
        examples = self._examples(tasks)
        return self._score(adapter, examples) if examples else None

    def probe(self, adapter: Path | None, tasks: Sequence[CorrectedTask]) -> Quality | None:
        """Measures an adapter, or the base, on base data; see `Updater.probe`.

        Raises:
            CheckpointError: the adapter cannot be read or does not fit.
        """
        if (
            not self._probe
            or not find_update_domain(self._model, self._examples(tasks), self._replay)[1]
        ):
            return None
        if adapter not in self._probed:
            # Folders never change, and of all but the newest few nobody asks again.
            self._probed = dict(list(self._probed.items())[-8:])
            self._probed[adapter] = self._score(adapter, self._probe)
        return self._probed[adapter]

    def agreement(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> Agreement | None:
        """Asks how far corrections can be predicted from each other; see `Updater.agreement`."""
        if self._model.dense_head is None:
            return None
        ours, theirs = (
            [[plain_image(one, k) for k in range(len(one))] for one in self._examples(tasks)]
            for tasks in (new, earlier)
        )
        told = leave_one_out([*ours, *theirs])
        fresh, known = told[: len(ours)], told[len(ours) :]
        alone = leave_one_out(theirs)
        return Agreement(
            _right(fresh),
            sum(one.names for one in fresh),
            _right(known) if known else None,
            _right(alone) if alone else None,
        )

    @property
    def _shares_processor(self) -> bool:
        """Whether others slow it down; on other devices the thread sleeps while they work."""
        return self._give_way is not None and self._device.type == "cpu"

    def _clock(self) -> Callable[[], float]:
        if self._give_way is None:
            return time.monotonic
        return self._give_way.working_s if self._shares_processor else self._give_way.passing_s

    def _eta_s(self, done: UpdateProgress) -> float | None:
        if done.eta_s is None or self._give_way is None or not self._shares_processor:
            return done.eta_s
        return self._give_way.stretched(done.eta_s)

    def _score(self, folder: Path | None, examples: Sequence[Example]) -> Quality:
        scores = score_groups(self._predictor.adapters, self._read(folder), examples)
        groups = tuple(one.regions for one in scores.groups)
        return Quality(scores.miou, scores.recall, len(groups), scores.by_label, groups)

    def _read(self, folder: Path | None) -> Adapter | None:
        if folder is None:
            return None
        adapter = read_adapter(self._model, folder, base=self._base)
        self._predictor.adapters.check(adapter)
        return adapter

    def _base_examples(self, name: str, groups: Sequence[LabeledGroup]) -> tuple[Example, ...]:
        return tuple(
            example_of(one, self._encode(one.group), f"{name}-{number}")
            for number, one in enumerate(groups)
        )

    def _material(
        self, new: Sequence[CorrectedTask], earlier: Sequence[CorrectedTask]
    ) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Examples of an update with the views of their images."""
        made = {id(task): self._example(task) for task in (*new, *earlier)}
        usable = [one for one in made.values() if one is not None]
        names = {label for one in usable for label in one.labels}
        images = sum(len(one) for one in usable)
        views = self._plan.dense.views_for(images)
        _, speaks = find_update_domain(self._model, usable, self._replay)
        spoken = self._plan.views_for(len(new)) if speaks else 0

        def seen(tasks: Sequence[CorrectedTask], spoken: int) -> tuple[Example, ...]:
            found = ((task, made[id(task)]) for task in tasks)
            return tuple(
                self._with_views(task, one, spoken, views, names)
                for task, one in found
                if one is not None
            )

        return seen(new, spoken), seen(earlier, 0)

    def _with_views(
        self,
        task: CorrectedTask,
        example: Example,
        spoken: int,
        views: int,
        names: Collection[str],
    ) -> Example:
        """Adds views: of whole groups for the language model, of images for the dense head."""
        if self._model.dense_head is None:
            views = 0
        key = (*_place(task), task.seq)
        kept = self._views.get(key, views) if not spoken else None
        group = None
        if spoken or (views and kept is None):
            group = self._images.fetch_group(task.correction.task)
        if spoken and group is not None:
            example = with_views(example, group.images, spoken, self._encode_fresh)
        if self._model.dense_head is None:
            return example
        if kept is None:
            images = () if group is None else group.images
            kept = group_views(example, images, views, self._predictor.encode_photo, names)
            self._views.put(key, kept)
        return with_dense(example, kept)

    def _examples(self, tasks: Sequence[CorrectedTask]) -> tuple[Example, ...]:
        found = (self._example(task) for task in tasks)
        return tuple(one for one in found if one is not None)

    def _example(self, task: CorrectedTask) -> Example | None:
        """What a task teaches, or None where it cannot be learned from."""
        try:
            features, sizes_hw = self._features(task)
            truth = true_parts(task.correction)
            return make_example(
                f"{task.project_id}/{task.correction.task.id}",
                features,
                sizes_hw,
                truth,
                targets=region_lessons(task.correction, truth),
                known=known_kinds(task.correction),
            )
        except (MediaError, CalicoError) as error:
            _log.warning(
                "task %s cannot be learned from: %s",
                task.correction.task.id,
                error,
                extra={"event": "correction_unusable", "project": task.project_id},
            )
        return None

    def _features(self, task: CorrectedTask) -> tuple[ImageFeatures, tuple[tuple[int, int], ...]]:
        place = _place(task)
        if place not in self._seen:
            group = self._images.fetch_group(task.correction.task)
            self._seen[place] = self._encode(group), group.sizes_hw
            if len(self._seen) > _MOST_IN_MEMORY:
                self._seen.popitem(last=False)
        self._seen.move_to_end(place)
        return self._seen[place]

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        """Features of a group, from the disk where they are there."""
        found: list[ImageFeatures | None] = [self._stored(key) for key in group.keys]
        if any(one is None for one in found):
            fresh = self._predictor.encode(group)
            for index, key in enumerate(group.keys):
                if found[index] is None:
                    own = rounded(fresh.image(index), torch.bfloat16)
                    found[index] = own
                    self._keep(key, own)
        return concatenate([one for one in found if one is not None])

    def _encode_fresh(self, group: ImageGroup) -> ImageFeatures:
        """Features of pictures nobody asks for twice."""
        return rounded(self._predictor.encode(group), torch.bfloat16)

    def _stored(self, key: str) -> ImageFeatures | None:
        if key not in self._store:
            return None
        try:
            return self._store.get(key)
        except CheckpointError as error:
            _log.warning("%s", error, extra={"event": "feature_damaged"})
            return None

    def _keep(self, key: str, features: ImageFeatures) -> None:
        try:
            self._store.reserve(1, features.nbytes)
            self._store.put(key, features)
        except (InvalidConfigError, CheckpointError) as error:
            _log.warning("features are not kept: %s", error, extra={"event": "feature_not_kept"})


def region_lessons(correction: Correction, truth: Sequence[PartMask]) -> tuple[RegionTarget, ...]:
    """Returns what each region teaches, placed where `make_example` looks for it."""
    there = {(part.image_index, part.label): part for part in truth}
    found = []
    for lesson in lessons(correction):
        region = lesson.region
        name = region_name(region, correction.vocabulary)
        if not name:
            continue
        part = there.get((region.image_index, name))
        if part is None and Supervision.ABSENCE not in lesson.teaches:
            continue
        shown = part if Supervision.ABSENCE not in lesson.teaches else None
        found.append(
            RegionTarget(
                shown or _absent(region, name), model_example.Supervision(lesson.teaches.value)
            )
        )
    return tuple(found)


def _absent(region: Region, name: str) -> PartMask:
    return PartMask(region.image_index, region.kind or RegionKind.COMMON_PART, name, region.mask)


def _right(told: Sequence[CrossPrediction]) -> float:
    """Mean over all names that were asked about."""
    return sum(one.right * one.names for one in told) / max(1, sum(one.names for one in told))


def _place(task: CorrectedTask) -> tuple[object, ...]:
    """Where the pixels of a task are kept."""
    own = task.correction.task
    return task.project_id, own.id, own.image_urls


def _share(done: UpdateProgress) -> float:
    return done.step / max(done.steps, 1)
