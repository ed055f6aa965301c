"""The model as serving holds it: one base, any number of adapters over it, one thread for all."""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.served_model import SHIPPED_WEIGHTS
from backend.serving.model_thread import ModelThread
from backend.settings import Settings
from calico_model.assistant import Assistant
from calico_model.inference.confidence import Calibration, read_calibration
from calico_model.inference.dense_answers import LEAST_SHOWN
from calico_model.inference.diversity import describe
from calico_model.inference.prompt import Box, MaskPrompt
from calico_model.interactive.clicks import Refined
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.propagate.transfer import Proposal
from calico_model.interactive.referring import Reference
from calico_model.loading.checkpoints import fingerprint
from calico_model.loading.memory_plan import MemoryPlan
from calico_model.modeling.adapter import Adapter, read_adapter
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.predictor import Predictor, load_predictor
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask, Vector

_log = logging.getLogger(__name__)


class _LoadedVersion(ABC):
    """What the base and every adapted version answer alike; see `ServedModel`."""

    model: Predictor
    thread: ModelThread

    @abstractmethod
    def assistant(self) -> Assistant:
        """Returns the model with this version's adapter; called in `thread`."""

    def encode(self, group: ImageGroup) -> None:
        """Encodes the images that have no features yet."""
        self.thread.run(lambda: self.model.encode(group))

    def prepare_clicks(self, group: ImageGroup, image_index: int) -> None:
        """Does what the first click on an image of a group would have to wait for."""
        self.thread.run(lambda: self.assistant().prepare_clicks(group, image_index))

    def describe(self, group: ImageGroup) -> Vector:
        """Returns how a group looks; the encoders are frozen, so every version answers the same."""
        return self.thread.run(lambda: describe(self.model.encode(group)))

    def describe_regions(
        self, group: ImageGroup, outlines: Sequence[Outline]
    ) -> tuple[Vector, ...]:
        """Returns how regions look; every version answers the same, as in `describe`."""
        return self.thread.run(lambda: tuple(self.assistant().describe(group, outlines)))

    def refine(
        self,
        group: ImageGroup,
        image_index: int,
        prompt: MaskPrompt,
        group_prediction: GroupPrediction | None = None,
    ) -> Refined:
        """Outlines what clicks, a box and an earlier mask mean in one image of a group."""
        return self.thread.run(
            lambda: self.assistant().refine(group, image_index, prompt, group_prediction)
        )

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> tuple[Proposal, ...]:
        """Proposes an outlined part on the other images of a group."""
        return self.thread.run(lambda: self.assistant().transfer(group, part, group_prediction))

    def carry(
        self, group: ImageGroup, part: PartMask, accepted: Mapping[int, BoolMask]
    ) -> tuple[Proposal, ...]:
        """Carries an outlined part to the images of a series that follow it."""
        return self.thread.run(lambda: self.assistant().carry(group, part, accepted))

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> tuple[Reference, ...]:
        """Outlines named things, each with its owner or None, on every image of a group."""
        return self.thread.run(lambda: self.assistant().refer(group, names, group_prediction))

    def look_into(
        self, group: ImageGroup, image_index: int, box: Box, group_prediction: GroupPrediction
    ) -> PartMask:
        """Outlines what a box shows and names it."""
        return self.thread.run(
            lambda: self.assistant().describe_box(group, image_index, box, group_prediction)
        )

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> tuple[Named, ...]:
        """Names regions out of a closed label set."""
        return self.thread.run(
            lambda: self.assistant().name(group, outlines, closed, group_prediction)
        )


@dataclass(frozen=True, eq=False)
class LoadedBase(_LoadedVersion):
    """The base weights without an adapter.

    Attributes:
        model: the only model in memory.
        fingerprint: of its weights; an adapter of other weights is refused.
        thread: where the model runs.
    """

    model: Predictor
    fingerprint: str
    thread: ModelThread

    @property
    def version(self) -> str:
        """Names the weights."""
        return self.model.version

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Asks the base the three questions about a group."""
        return self.thread.run(lambda: self.model.predict(group))

    def predict_groups(self, groups: Sequence[ImageGroup]) -> list[GroupPrediction]:
        """Asks the base about several groups at once."""
        return self.thread.run(lambda: self.model.predict_groups(groups))

    def assistant(self) -> Assistant:
        """Returns the model without an adapter."""
        return Assistant(self.model)

    def with_adapter(self, version: str, folder: Path) -> LoadedAdapter:
        """Reads an adapter; returns the version that answers with it.

        Raises:
            CheckpointError: the adapter cannot be read, or belongs to other weights.
        """
        adapter, calibration = self.thread.run(lambda: self._read(folder))
        loaded = LoadedAdapter(self.model, version, adapter, calibration, self.thread)
        # The set must not hold adapters that nobody answers with any more.
        weakref.finalize(loaded, _forget, self.model.adapters, version, adapter)
        return loaded

    def _read(self, folder: Path) -> tuple[Adapter, Calibration]:
        adapter = read_adapter(self.model.adapters.model, folder, base=self.fingerprint)
        self.model.adapters.check(adapter)
        return adapter, read_calibration(folder)


@dataclass(frozen=True, eq=False)
class LoadedAdapter(_LoadedVersion):
    """The base with one adapter, and the calibration of its project.

    The adapter stays in the model's set for as long as this object lives.

    Attributes:
        model: the only model in memory.
        version: names the adapter.
        adapter: its tensors.
        calibration: of the scores of predictions.
        thread: where the model runs.
    """

    model: Predictor
    version: str
    adapter: Adapter
    calibration: Calibration
    thread: ModelThread

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Asks this version the three questions, whatever else the model is asked meanwhile."""
        return self.thread.run(lambda: self._predict(group))

    def predict_groups(self, groups: Sequence[ImageGroup]) -> list[GroupPrediction]:
        """Asks this version about several groups at once."""
        return self.thread.run(lambda: self._predict_groups(groups))

    def assistant(self) -> Assistant:
        """Returns the model with this adapter."""
        self._add_to_set()
        return Assistant(self.model, self.version)

    def _predict(self, group: ImageGroup) -> GroupPrediction:
        self._add_to_set()
        return self._calibrated(self.model.predict(group, adapter=self.version))

    def _predict_groups(self, groups: Sequence[ImageGroup]) -> list[GroupPrediction]:
        self._add_to_set()
        predictions = self.model.predict_groups(groups, adapter=self.version)
        return list(map(self._calibrated, predictions))

    def _calibrated(self, prediction: GroupPrediction) -> GroupPrediction:
        if self.calibration.is_identity:
            return prediction
        return worth_showing(self.calibration.apply(prediction))

    def _add_to_set(self) -> None:
        """Makes sure that the set has this adapter under its version, and no other."""
        adapters = self.model.adapters
        if adapters.get(self.version) is not self.adapter:
            adapters.add(self.version, self.adapter)


def worth_showing(prediction: GroupPrediction) -> GroupPrediction:
    """Leaves out regions that the project's annotators would not keep.

    Only regions of pictures that are unlike those the base learned from: their scores are chances
    of being right, and they carry no evidence of the language model.
    """
    parts = tuple(
        part for part in prediction.parts if part.evidence is not None or part.score >= LEAST_SHOWN
    )
    return replace(prediction, parts=parts)


def _forget(adapters: AdapterSet, version: str, adapter: Adapter) -> None:
    if adapters.get(version) is adapter:  # it may have been read again meanwhile
        adapters.drop(version)


def load_base_model(settings: Settings) -> LoadedBase:
    """Loads the configured weights, by default the ones this package ships.

    Raises:
        CheckpointError: missing or unusable weights.
        InsufficientMemoryError: they do not fit the device.
    """
    weights = settings.weights or SHIPPED_WEIGHTS
    thread = ModelThread()
    model = thread.run(
        lambda: load_predictor(
            weights,
            device=settings.device,
            threads=settings.model_threads or default_threads(),
            precision=settings.precision,
            # Every server of a database is to find the same features, whatever it was asked before.
            encodes_apart=settings.is_shared,
            cache_bytes=settings.encoded_image_bytes,
            on_plan=_log_plan,
        )
    )
    return LoadedBase(model, fingerprint(weights), thread)


def default_threads() -> int:
    """Returns half of the cores that this process may use, at least 1.

    Trainer, Label Studio and the threads of requests need cores as well. Threads of a prediction
    that lack one wait for each other without sleeping: on two busy cores, two threads take two to
    three times as long as one.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // 2)


def _log_plan(plan: MemoryPlan) -> None:
    placement = plan.placement
    _log.info(
        "loading weights",
        extra={
            "event": "memory_plan",
            "precision": placement.precision.value,
            "device": placement.device,
            "encoders_on_cpu": placement.are_encoders_offloaded,
            "images_at_once": placement.images_at_once,
            "weight_bytes": plan.weight_bytes,
            "peak_bytes": plan.peak_bytes(placement.device),
        },
    )
