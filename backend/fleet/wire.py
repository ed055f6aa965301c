"""One prediction job, and its answer, as bytes: what web servers and model replicas exchange.

msgspec, so nothing is unpickled. The first byte is the format: what another release wrote in
another format is refused in one sentence, and asked again of another replica. Fields that a later
release adds at the end of a message, with a default, need no new format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

import msgspec
import numpy as np

from backend.decoding import read_msgpack
from backend.errors import FleetError, InvalidRleError
from backend.label_schema import LabelSchema
from backend.rle import Runs, mask_of, pack_runs, unpack_runs
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.storage.versions import AdapterVersion
from backend.types import Prompt, Region, RegionOrigin, Task, TextPrompt
from calico_model.types import BoolMask, RegionKind

FORMAT = 1
_KEY_BYTES = 16
M = TypeVar("M", bound=msgspec.Struct)


class AheadStep(StrEnum):
    """What a replica does for a task that was opened, before anybody clicks on it."""

    ENCODE = "encode"
    PREDICT = "predict"
    SOURCES = "sources"


class AheadJob(msgspec.Struct, array_like=True, frozen=True):
    """A step of work ahead of time for one task."""

    task: Task
    step: AheadStep


class ReplicaAnswer(msgspec.Struct, array_like=True, frozen=True):
    """A prediction result, and who computed it.

    Attributes:
        regions: see `PredictionResult`.
        score: see `PredictionResult`.
        version: see `PredictionResult`.
        problem: see `PredictionResult`.
        descriptor: little-endian float32 of a vector, or None.
        absent: see `PredictionResult`.
        weights: version of the base weights of the replica.
    """

    regions: bytes
    score: float
    version: str | None
    problem: Problem | None
    descriptor: bytes | None
    absent: tuple[int, ...]
    weights: str | None = None

    @property
    def result(self) -> PredictionResult:
        """The prediction result."""
        vector = None
        if self.descriptor is not None:
            vector = np.frombuffer(self.descriptor, "<f4").astype(np.float32)
        return PredictionResult(
            self.regions, self.score, self.version, self.problem, vector, self.absent
        )


class ReplicaReport(msgspec.Struct, array_like=True, frozen=True):
    """What a replica says of itself.

    Attributes:
        release: version of its package.
        weights: version of its base weights.
        waiting: tasks that wait there.
        adapters: adapter versions in its memory.
        owner: name of its process, as in the list of servers.
    """

    release: str
    weights: str
    waiting: int
    adapters: int
    owner: str


class _SentRegion(msgspec.Struct, array_like=True):
    """A region of the canvas. Its mask is sent as runs; None if it could not be decoded."""

    id: str
    image_index: int
    size_hw: tuple[int, int]
    kind: RegionKind | None
    label: str | None
    origin: RegionOrigin
    score: float | None
    key: bytes
    runs: bytes | None
    problem: str
    is_linked: bool
    more_labels: tuple[str, ...]
    is_outline: bool
    colour: str | None


class _SentJob(msgspec.Struct, array_like=True):
    task: Task
    schema: LabelSchema
    prompts: tuple[Prompt, ...]
    is_interactive: bool
    version: AdapterVersion | None
    wants_descriptor: bool
    canvas: tuple[_SentRegion, ...]
    question: TextPrompt | None
    is_urgent: bool


def encode_job(job: PredictionJob) -> bytes:
    """Returns a job as bytes; `decode_job` reads them.

    Equal masks stay equal: the key of a region's mask is sent as its hash.
    """
    version = job.version
    return _encode(
        _SentJob(
            job.task,
            replace(job.schema),  # without what it remembers
            job.prompts,
            job.is_interactive,
            None if version is None else replace(version, gate={}, reason=None),
            job.wants_descriptor,
            tuple(map(_sent_region, job.canvas)),
            job.question,
            job.is_urgent,
        )
    )


def decode_job(body: bytes) -> PredictionJob:
    """Reads the bytes of `encode_job`.

    Raises:
        FleetError: they are damaged, or of another format.
    """
    sent = _decode(body, _SentJob)
    return PredictionJob(
        sent.task,
        sent.schema,
        sent.prompts,
        sent.is_interactive,
        sent.version,
        wants_descriptor=sent.wants_descriptor,
        canvas=tuple(map(_received_region, sent.canvas)),
        question=sent.question,
        is_urgent=sent.is_urgent,
    )


def encode_answer(result: PredictionResult, weights: str | None = None) -> bytes:
    """Returns a result as bytes.

    Args:
        result: of a job.
        weights: version of the base weights that were asked.
    """
    vector = result.descriptor
    return _encode(
        ReplicaAnswer(
            result.regions,
            result.score,
            result.version,
            result.problem,
            None if vector is None else vector.astype("<f4").tobytes(),
            result.absent,
            weights,
        )
    )


def decode_answer(body: bytes) -> ReplicaAnswer:
    """Reads the bytes of `encode_answer`.

    Raises:
        FleetError: they are damaged, or of another format.
    """
    return _decode(body, ReplicaAnswer)


def encode_ahead(task: Task, step: AheadStep) -> bytes:
    """Returns a step of work ahead of time as bytes."""
    return _encode(AheadJob(task, step))


def decode_ahead(body: bytes) -> AheadJob:
    """Reads the bytes of `encode_ahead`.

    Raises:
        FleetError: they are damaged, or of another format.
    """
    return _decode(body, AheadJob)


def encode_report(report: ReplicaReport) -> bytes:
    """Returns the report of a replica as bytes."""
    return _encode(report)


def decode_report(body: bytes) -> ReplicaReport:
    """Reads the bytes of `encode_report`.

    Raises:
        FleetError: they are damaged, or of another format.
    """
    return _decode(body, ReplicaReport)


def _encode(message: msgspec.Struct) -> bytes:
    return bytes((FORMAT,)) + msgspec.msgpack.encode(message)


def _decode(body: bytes, kind: type[M]) -> M:
    if not body or body[0] != FORMAT:
        found = body[0] if body else "nothing"
        raise FleetError(
            f"message of another release of calico: expected format {FORMAT}, got {found}"
        )
    try:
        return read_msgpack(memoryview(body)[1:], kind)
    except msgspec.MsgspecError as error:
        raise FleetError(f"damaged message between server and replica: {error}") from error


def _sent_region(region: Region) -> _SentRegion:
    runs, problem = None, ""
    try:
        runs = pack_runs(region.runs)
    except InvalidRleError as error:
        problem = str(error)
    encoding = region.encoding
    key = hashlib.sha256(encoding).digest()[:_KEY_BYTES] if encoding else b""
    return _SentRegion(
        region.id,
        region.image_index,
        region.size_hw,
        region.kind,
        region.label,
        region.origin,
        region.score,
        key,
        runs,
        problem,
        region.is_linked,
        region.more_labels,
        region.is_outline,
        region.colour,
    )


def _received_region(sent: _SentRegion) -> Region:
    load_runs = _runs_loader(sent)

    def load_mask() -> BoolMask:
        return mask_of(load_runs(), sent.size_hw)

    return Region(
        id=sent.id,
        image_index=sent.image_index,
        size_hw=sent.size_hw,
        kind=sent.kind,
        label=sent.label,
        origin=sent.origin,
        score=sent.score,
        load_mask=load_mask,
        encoding=sent.key,
        load_runs=load_runs,
        is_linked=sent.is_linked,
        more_labels=sent.more_labels,
        is_outline=sent.is_outline,
        colour=sent.colour,
    )


def _runs_loader(sent: _SentRegion) -> Callable[[], Runs]:
    def load_runs() -> Runs:
        if sent.runs is None:
            raise InvalidRleError(sent.problem)
        try:
            return unpack_runs(sent.runs)
        except ValueError as error:
            raise InvalidRleError(f"damaged runs between server and replica: {error}") from error

    return load_runs
