"""Corrections as the model learns from them: images to kept features, regions to lessons.

The one place of training that holds a model. Each image is encoded once: its features are kept on
disk by content. Only the views of new corrections are encoded in the update that learns them.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from backend.errors import MediaError
from backend.learning.correction import Correction
from backend.learning.gate import Quality
from backend.learning.lesson import Teaches, lessons, true_parts
from backend.learning.pausing import call_at_every_layer
from backend.learning.progress import OnProgress
from backend.learning.training import CorrectedTask, Stop, Write
from backend.right_of_way import GivingWay
from backend.types import Region, Task
from calico_model.errors import CalicoError, CheckpointError, InvalidConfigError
from calico_model.feature_store import FeatureStore
from calico_model.features import ImageFeatures, concatenate
from calico_model.modeling.adapter import Adapter, read_adapter, write_adapter
from calico_model.predictor import Predictor
from calico_model.training import example as model_example
from calico_model.training.example import Example, RegionLesson, example_of, make_example
from calico_model.training.finetune import FinetunePlan, Progress, Replay, finetune
from calico_model.training.frozen import encoder_fingerprint, rounded
from calico_model.training.scoring import score_groups
from calico_model.training.views import with_views
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind
from calico_model.vocabulary import normalise

_log = logging.getLogger(__name__)
_MOST_IN_MEMORY = 192  # groups whose features are held between runs
_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})


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
        plan: FinetunePlan | None = None,
        give_way: GivingWay | None = None,
    ) -> None:
        self._predictor, self._images = predictor, images
        self._model = predictor.adapters.model
        self._device = next(self._model.parameters()).device
        self._give_way = give_way
        if give_way is not None:
            call_at_every_layer(self._model, give_way)
        self._base = base
        self._plan = plan or FinetunePlan()
        self._store = FeatureStore(
            features, encoder=encoder_fingerprint(self._model), max_bytes=feature_bytes
        )
        self._replay = self._base_examples("replay", base_groups.replay)
        self._probe = self._base_examples("probe", base_groups.probe)
        self._probed: dict[Path | None, Quality] = {}
        self._seen: OrderedDict[object, tuple[ImageFeatures, tuple[tuple[int, int], ...]]]
        self._seen = OrderedDict()

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
        update = finetune(
            self._predictor.adapters,
            self._examples(new, self._plan.views_for(len(new))),
            Replay(self._examples(earlier), self._replay),
            self._plan,
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

    def probe(self, adapter: Path | None) -> Quality | None:
        """Measures an adapter, or the base, on base data; None if there is none.

        Raises:
            CheckpointError: the adapter cannot be read or does not fit.
        """
        if not self._probe:
            return None
        if adapter not in self._probed:
            # Folders never change, and of all but the newest few nobody asks again.
            self._probed = dict(list(self._probed.items())[-8:])
            self._probed[adapter] = self._score(adapter, self._probe)
        return self._probed[adapter]

    @property
    def _shares_processor(self) -> bool:
        """Whether others slow it down; on other devices the thread sleeps while they work."""
        return self._give_way is not None and self._device.type == "cpu"

    def _clock(self) -> Callable[[], float]:
        if self._give_way is None:
            return time.monotonic
        return self._give_way.working_s if self._shares_processor else self._give_way.passing_s

    def _eta_s(self, done: Progress) -> float | None:
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

    def _examples(self, tasks: Sequence[CorrectedTask], views: int = 0) -> tuple[Example, ...]:
        found = []
        for task in tasks:
            try:
                group = self._images.fetch_group(task.correction.task) if views else None
                found.append(self._example(task, group, views))
            except (MediaError, CalicoError) as error:
                _log.warning(
                    "task %s cannot be learned from: %s",
                    task.correction.task.id,
                    error,
                    extra={"event": "correction_unusable", "project": task.project_id},
                )
        return tuple(found)

    def _example(self, task: CorrectedTask, group: ImageGroup | None, views: int) -> Example:
        features, sizes_hw = self._features(task, group)
        truth = true_parts(task.correction)
        example = make_example(
            f"{task.project_id}/{task.correction.task.id}",
            features,
            sizes_hw,
            truth,
            lessons=region_lessons(task.correction, truth),
            known=known_kinds(task.correction),
        )
        if group is None:
            return example
        return with_views(example, group.images, views, self._encode_fresh)

    def _features(
        self, task: CorrectedTask, group: ImageGroup | None
    ) -> tuple[ImageFeatures, tuple[tuple[int, int], ...]]:
        place = (task.project_id, task.correction.task.id, task.correction.task.image_urls)
        if place not in self._seen:
            group = group or self._images.fetch_group(task.correction.task)
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


def region_lessons(correction: Correction, truth: Sequence[PartMask]) -> tuple[RegionLesson, ...]:
    """Returns what each region teaches, placed where `make_example` looks for it."""
    there = {(part.image_index, normalise(part.label)): part for part in truth}
    found = []
    for lesson in lessons(correction):
        region = lesson.region
        name = normalise(region.label or "")
        if not name:
            continue
        part = there.get((region.image_index, name))
        if part is None and Teaches.ABSENCE not in lesson.teaches:
            continue
        shown = part if Teaches.ABSENCE not in lesson.teaches else None
        found.append(
            RegionLesson(
                shown or _absent(region, name), model_example.Teaches(lesson.teaches.value)
            )
        )
    return tuple(found)


def known_kinds(correction: Correction) -> frozenset[RegionKind]:
    """The questions a correction answers completely.

    A project that names parts only says nothing about objects, and the other way round.
    """
    regions = (
        region
        for outcome in correction.outcomes
        for region in (outcome.before, outcome.after)
        if region is not None
    )
    kinds = {region.kind or RegionKind.COMMON_PART for region in regions}
    parts = _PARTS if kinds & _PARTS else frozenset[RegionKind]()
    return parts | (kinds & {RegionKind.COMMON_OBJECT})


def _absent(region: Region, name: str) -> PartMask:
    return PartMask(region.image_index, region.kind or RegionKind.COMMON_PART, name, region.mask)


def _share(done: Progress) -> float:
    return done.step / max(done.steps, 1)
