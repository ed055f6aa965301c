"""The model as serving holds it: one base, and any number of adapters that answer by name."""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.served_model import SHIPPED_WEIGHTS
from backend.serving.model_thread import ModelThread
from backend.settings import Settings
from calico_model.assistant import Assistant
from calico_model.inference.confidence import Calibration, read_calibration
from calico_model.inference.dense_detection import LEAST_SHOWN
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
from calico_model.types import GroupPrediction, ImageGroup, PartMask, Vector

_log = logging.getLogger(__name__)


class _Assisted(ABC):
    """What a version says beside an annotator: one definition for the base and for adapters.

    The network runs in `thread` alone, whoever asks.
    """

    model: Predictor
    thread: ModelThread

    @abstractmethod
    def assistant(self) -> Assistant:
        """The model with what this version wears."""

    def encode(self, group: ImageGroup) -> None:
        """Encodes the images that have no features yet; the encoders are frozen."""
        self.thread.run(lambda: self.model.encode(group))

    def describe(self, group: ImageGroup) -> Vector:
        """How a group looks, whatever the adapter: encoders are frozen; from cached features."""
        return self.thread.run(lambda: describe(self.model.encode(group)))

    def describe_regions(
        self, group: ImageGroup, outlines: Sequence[Outline]
    ) -> tuple[Vector, ...]:
        """How regions look, whatever the adapter: encoders are frozen."""
        return self.thread.run(lambda: tuple(self.assistant().describe(group, outlines)))

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> tuple[Reference, ...]:
        """Looks for named things, each with its owner or None, on every image."""
        return self.thread.run(lambda: self.assistant().refer(group, names, group_prediction))

    def look_into(
        self, group: ImageGroup, image_index: int, box: Box, group_prediction: GroupPrediction
    ) -> PartMask:
        """Outlines what a box shows and says what it is."""
        return self.thread.run(
            lambda: self.assistant().describe_box(group, image_index, box, group_prediction)
        )

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> tuple[Proposal, ...]:
        """Proposes an outlined part on the other images of a group."""
        return self.thread.run(lambda: self.assistant().transfer(group, part, group_prediction))

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
class BasePredictor(_Assisted):
    """The bare base, and what makes answers with adapters from it.

    Attributes:
        model: the one model in memory.
        fingerprint: of its weights; an adapter of others is refused.
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
        """Answers with the bare base."""
        return self.thread.run(lambda: self.model.predict(group))

    def assistant(self) -> Assistant:
        """The bare base."""
        return Assistant(self.model)

    def with_adapter(self, version: str, folder: Path) -> AdaptedPredictor:
        """Reads an adapter.

        Raises:
            CheckpointError: it cannot be read, or belongs to other weights.
        """
        adapter, calibration = self.thread.run(lambda: self._read(folder))
        found = AdaptedPredictor(self.model, version, adapter, calibration, self.thread)
        # The set must not hold adapters that nobody answers with any more.
        weakref.finalize(found, _forget, self.model.adapters, version, adapter)
        return found

    def _read(self, folder: Path) -> tuple[Adapter, Calibration]:
        adapter = read_adapter(self.model.adapters.model, folder, base=self.fingerprint)
        self.model.adapters.check(adapter)
        return adapter, read_calibration(folder)


@dataclass(frozen=True, eq=False)
class AdaptedPredictor(_Assisted):
    """One version, with its project's calibration.

    It holds the adapter for as long as anybody answers with it.
    """

    model: Predictor
    version: str
    adapter: Adapter
    calibration: Calibration
    thread: ModelThread

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Answers with this version, whatever else the model is asked meanwhile."""
        return self.thread.run(lambda: self._predict(group))

    def assistant(self) -> Assistant:
        """This version."""
        self._put_on()
        return Assistant(self.model, self.version)

    def _predict(self, group: ImageGroup) -> GroupPrediction:
        self._put_on()
        found = self.model.predict(group, adapter=self.version)
        if self.calibration.is_identity:
            return found
        return worth_showing(self.calibration.apply(found))

    def _put_on(self) -> None:
        """Makes sure the set has this adapter, and no namesake."""
        adapters = self.model.adapters
        if adapters.get(self.version) is not self.adapter:
            adapters.add(self.version, self.adapter)


def load_base_model(settings: Settings) -> BasePredictor:
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
            threads=settings.model_threads,
            precision=settings.precision,
            on_plan=_log_plan,
        )
    )
    return BasePredictor(model, fingerprint(weights), thread)


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


def worth_showing(prediction: GroupPrediction) -> GroupPrediction:
    """Leaves out what the project's annotators would not keep of pictures the base does not know.

    Their scores are chances of being right and carry no evidence of the language model.
    """
    parts = tuple(
        part for part in prediction.parts if part.evidence is not None or part.score >= LEAST_SHOWN
    )
    return replace(prediction, parts=parts)


def _forget(adapters: AdapterSet, version: str, adapter: Adapter) -> None:
    if adapters.get(version) is adapter:  # it may have been read again meanwhile
        adapters.drop(version)
