"""What each version predicted for each group, which clicks and typed texts build on.

The last ones are in memory. All are kept in the database, beside the answers: so the same click
means the same at every server of a database, and after a restart. Masks are stored as their runs.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import zlib
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, replace

import msgspec
import numpy as np

from backend.decoding import read_msgpack
from backend.errors import StoreError
from backend.rle import Runs, mask_of, pack_runs, runs_of, unpack_runs
from backend.served_model import ServedModel
from backend.serving.caches import BoundedCache
from backend.serving.jobs import content_key
from backend.serving.metrics import Metrics
from backend.storage.store import Store
from calico_model.types import (
    AnswerPhrase,
    GroupPrediction,
    ImageGroup,
    MaskEvidence,
    PartMask,
    RegionKind,
)

_log = logging.getLogger(__name__)
_FORMAT = 1  # of the stored bytes; other formats have other keys
_FASTEST = 1  # of zlib's levels; runs shrink to a third at each of them
_DAMAGE = (zlib.error, msgspec.MsgspecError, ValueError)


@dataclass(frozen=True, eq=False)
class PackedPrediction:
    """A group's prediction with runs in place of its masks.

    Attributes:
        prediction: its masks are (0, 0).
        runs: of each mask.
        sizes_hw: (height, width) of each mask.
    """

    prediction: GroupPrediction
    runs: tuple[Runs, ...]
    sizes_hw: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all runs."""
        return sum(runs.nbytes for runs in self.runs)

    def unpacked(self, images: Collection[int] | None = None) -> GroupPrediction:
        """Returns the prediction.

        Args:
            images: whose masks are wanted; those of other images stay (0, 0). None is all.
        """
        parts = zip(self.prediction.parts, self.runs, self.sizes_hw, strict=True)
        return replace(
            self.prediction,
            parts=tuple(
                replace(part, mask=mask_of(runs, size_hw))
                if images is None or part.image_index in images
                else part
                for part, runs, size_hw in parts
            ),
        )


def pack(prediction: GroupPrediction) -> PackedPrediction:
    """Packs a prediction; nothing is lost."""
    empty = np.zeros((0, 0), np.bool_)
    return PackedPrediction(
        prediction=replace(
            prediction, parts=tuple(replace(part, mask=empty) for part in prediction.parts)
        ),
        runs=tuple(runs_of(part.mask) for part in prediction.parts),
        sizes_hw=tuple((part.mask.shape[0], part.mask.shape[1]) for part in prediction.parts),
    )


class _StoredPart(msgspec.Struct, array_like=True):
    image_index: int
    kind: RegionKind
    label: str
    object_label: str | None
    part_id: str | None
    score: float
    evidence: tuple[float, float, float] | None
    size_hw: tuple[int, int]
    runs: bytes


class _StoredPhrase(msgspec.Struct, array_like=True):
    kind: RegionKind
    label: str
    images: tuple[int, ...]
    is_object: bool
    start: int


class _StoredPrediction(msgspec.Struct, array_like=True):
    version: str
    answers: dict[str, str]
    parts: list[_StoredPart]
    phrases: list[_StoredPhrase]


def encode(packed: PackedPrediction) -> bytes:
    """Returns a packed prediction as bytes; `decode` reads them."""
    group = packed.prediction
    parts = [
        _StoredPart(
            part.image_index,
            part.kind,
            part.label,
            part.object_label,
            part.part_id,
            float(part.score),
            None if part.evidence is None else _floats(part.evidence),
            size_hw,
            pack_runs(runs),
        )
        for part, runs, size_hw in zip(group.parts, packed.runs, packed.sizes_hw, strict=True)
    ]
    phrases = [
        _StoredPhrase(one.kind, one.label, one.images, one.is_object, one.start)
        for one in group.phrases
    ]
    stored = _StoredPrediction(group.version, group.answers, parts, phrases)
    return zlib.compress(msgspec.msgpack.encode(stored), _FASTEST)


def decode(body: bytes) -> PackedPrediction:
    """Reads the bytes of `encode`.

    Raises:
        ValueError, zlib.error, msgspec.MsgspecError: they are damaged.
    """
    stored = read_msgpack(zlib.decompress(body), _StoredPrediction)
    empty = np.zeros((0, 0), np.bool_)
    parts = tuple(
        PartMask(
            image_index=part.image_index,
            kind=part.kind,
            label=part.label,
            mask=empty,
            object_label=part.object_label,
            part_id=part.part_id,
            score=part.score,
            evidence=None if part.evidence is None else MaskEvidence(*part.evidence),
        )
        for part in stored.parts
    )
    phrases = tuple(
        AnswerPhrase(one.kind, one.label, one.images, one.is_object, one.start)
        for one in stored.phrases
    )
    return PackedPrediction(
        GroupPrediction(parts, stored.version, stored.answers, phrases),
        tuple(unpack_runs(part.runs) for part in stored.parts),
        tuple(part.size_hw for part in stored.parts),
    )


def _floats(evidence: MaskEvidence) -> tuple[float, float, float]:
    iou, mask, phrase = map(float, astuple(evidence))
    return iou, mask, phrase


class GroupPredictions:
    """Predictions by the content of a group and the version. Threads may share it.

    Args:
        store: keeps them.
        max_bytes: of those in memory.
        code: version of the code that predicts; what other code stored is not found.
    """

    def __init__(self, store: Store, *, max_bytes: int, code: str) -> None:
        self._store, self._code = store, code
        self._recent: BoundedCache[PackedPrediction] = BoundedCache(
            max_bytes, lambda packed: packed.nbytes
        )

    @property
    def are_shared(self) -> bool:
        """Whether other servers read the same predictions."""
        return self._store.is_shared

    def find(
        self, content: str, version: str, *, images: Collection[int] | None = None
    ) -> GroupPrediction | None:
        """Returns what a version predicted for a group, or None.

        Args:
            content: `content_key` of the group.
            version: of the weights.
            images: whose masks are wanted, as in `PackedPrediction.unpacked`.
        """
        packed = self._recent.get((content, version))
        if packed is None:
            packed = self._read(self._key(content, version))
            if packed is None:
                return None
            self._recent.put((content, version), packed)
        return packed.unpacked(images)

    def is_known(self, content: str, version: str) -> bool:
        """Whether `find` finds something."""
        return self.find(content, version, images=()) is not None

    def put(self, content: str, version: str, prediction: GroupPrediction) -> None:
        """Remembers what a version predicted for a group, and queues it to be kept."""
        packed = pack(prediction)
        self._recent.put((content, version), packed)
        self._store.keep_prediction(
            self._key(content, version),
            encode(packed),
            project_id=None,
            task_id=None,
            version=version,
        )

    def _key(self, content: str, version: str) -> str:
        about = ("group", _FORMAT, content, version, self._code)
        return hashlib.sha256(repr(about).encode()).hexdigest()

    def _read(self, key: str) -> PackedPrediction | None:
        try:
            body = self._store.find_prediction(key)
            return None if body is None else decode(body)
        except (StoreError, *_DAMAGE):
            event = {"event": "kept_predictions_unreadable"}
            _log.warning("kept predictions cannot be read", exc_info=True, extra=event)
            return None


@dataclass(eq=False)
class _Asked:
    """A group that a thread wants predicted, and what became of it."""

    group: ImageGroup
    model: ServedModel
    prediction: GroupPrediction | None = None
    problem: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.prediction is not None or self.problem is not None


class GroupPredictor:
    """Has models predict groups, and remembers their answers. Threads may share it.

    Whoever gets the model takes along groups that other threads wait for, of the same version.

    Args:
        predictions: what is remembered.
        metrics: time the stages.
        at_once: groups that the model is asked about at once, at most.

    Attributes:
        predictions: what is remembered.
        lock: held while a model works; images of the next task arrive meanwhile.
    """

    def __init__(self, predictions: GroupPredictions, metrics: Metrics, at_once: int = 1) -> None:
        self.predictions, self._metrics, self._at_once = predictions, metrics, at_once
        self.lock = threading.Lock()
        self._asked: list[_Asked] = []
        self._guard = threading.Lock()  # guards _asked

    @property
    def waiting(self) -> int:
        """Groups that no model works on yet."""
        return len(self._asked)

    def predict(
        self, group: ImageGroup, model: ServedModel, *, stage: str = "model"
    ) -> GroupPrediction:
        """Asks the model about a group, whatever is remembered.

        Args:
            group: the images.
            model: of a version.
            stage: under which the metrics count the time.
        """
        mine = _Asked(group, model)
        with self._guard:
            self._asked.append(mine)
        with self.lock:
            if not mine.is_done:
                with self._metrics.stage(stage):
                    _predict_all(self._take(mine))
        if mine.prediction is None:
            raise mine.problem or RuntimeError("a group was neither predicted nor refused")
        self.predictions.put(content_key(group), model.version, mine.prediction)
        return mine.prediction

    def _take(self, mine: _Asked) -> list[_Asked]:
        """Returns a group, and those that wait for the same version."""
        with self._guard:
            others = [one for one in self._asked if one.model is mine.model and one is not mine]
            taken = [mine, *others[: self._at_once - 1]]
            self._asked = [one for one in self._asked if one not in taken]
            return taken


def _predict_all(asked: Sequence[_Asked]) -> None:
    """Asks about some groups of one version at once; one that breaks leaves the others alone."""
    model = asked[0].model
    if len(asked) > 1:
        try:
            found = model.predict_groups([one.group for one in asked])
        except Exception:  # whose fault it was shows below
            _log.warning("groups are asked one by one", extra={"event": "groups_apart"})
        else:
            for one, prediction in zip(asked, found, strict=True):
                one.prediction = prediction
            return
    for one in asked:
        try:
            one.prediction = model.predict(one.group)
        except Exception as error:  # raised in the thread that asked
            one.problem = error
