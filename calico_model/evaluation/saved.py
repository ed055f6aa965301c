"""Predictions in a file: written once, scored as often as one likes, or made by another model.

One JSON object a line and group: the ids of its images, the model's version, its regions with COCO
run lengths, and its answers if it speaks. Groups are found by their ids; several lines with the
same ids answer in the order they were written.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from pathlib import Path
from typing import Annotated

import msgspec

from calico_model.data.records import Rle, encode_mask, read_mask
from calico_model.errors import InvalidRecordError
from calico_model.staging import sync
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind


class SavedRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """One region; `image` counts from 0."""

    image: Annotated[int, msgspec.Meta(ge=0)]
    kind: RegionKind
    label: str
    segmentation: Rle
    object_label: str | None = None
    part_id: str | None = None
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class SavedPrediction(msgspec.Struct, frozen=True):
    """One line."""

    ids: tuple[str, ...]
    version: str
    regions: tuple[SavedRegion, ...]
    answers: dict[str, str] = {}


class SavedPredictions:
    """A predictor that reads its answers from a file.

    Attributes:
        version: of the first line.

    Raises:
        InvalidRecordError: the file is missing, empty, or a line is not a prediction; names line
            and key.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._waiting: dict[tuple[str, ...], deque[tuple[int, SavedPrediction]]] = defaultdict(
            deque
        )
        first: SavedPrediction | None = None
        for number, line in _read_lines(path):
            saved = _decode(f"{path.name}: line {number}", line)
            self._waiting[saved.ids].append((number, saved))
            first = first or saved
        if first is None:
            raise InvalidRecordError(f"{path.name}: expected at least one prediction, got none")
        self.version = first.version

    @property
    def unasked(self) -> int:
        """How many predictions nobody asked for yet."""
        return sum(map(len, self._waiting.values()))

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Returns the next prediction for a group of these ids.

        Raises:
            InvalidRecordError: there is none, or a mask does not fit its image.
        """
        if not self._waiting[group.ids]:
            raise InvalidRecordError(f"{self._name}: no prediction for images {list(group.ids)}")
        number, saved = self._waiting[group.ids].popleft()
        parts = []
        for index, region in enumerate(saved.regions):
            where = f"{self._name}: line {number}: regions[{index}]"
            if region.image >= len(group):
                raise InvalidRecordError(
                    f"{where}.image: expected 0 to {len(group) - 1}, got {region.image}"
                )
            size = group.sizes_hw[region.image]
            mask = read_mask(region.segmentation, size, f"{where}.segmentation")
            parts.append(
                PartMask(
                    region.image,
                    region.kind,
                    region.label,
                    mask,
                    region.object_label,
                    region.part_id,
                    region.score,
                )
            )
        return GroupPrediction(tuple(parts), saved.version, saved.answers)


class PredictionFile:
    """Writes predictions line by line; the file is there completely or not at all."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            self._staged = Path(file.name)

    def add(self, group: ImageGroup, prediction: GroupPrediction) -> None:
        """Appends the prediction of a group."""
        regions = tuple(
            SavedRegion(
                part.image_index,
                part.kind,
                part.label,
                encode_mask(part.mask),
                part.object_label,
                part.part_id,
                part.score,
            )
            for part in prediction.parts
            if part.mask.any()
        )
        saved = SavedPrediction(group.ids, prediction.version, regions, dict(prediction.answers))
        with self._staged.open("ab") as file:
            file.write(msgspec.json.encode(saved) + b"\n")

    def close(self) -> None:
        """Puts the file in its place."""
        self._staged.chmod(0o644)
        sync(self._staged)
        self._staged.replace(self._path)
        sync(self._path.parent)

    def discard(self) -> None:
        """Leaves no file behind."""
        self._staged.unlink(missing_ok=True)


def _read_lines(path: Path) -> list[tuple[int, bytes]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRecordError(
            f"{path.name}: expected a readable file in {path.parent}"
        ) from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _decode(where: str, line: bytes) -> SavedPrediction:
    try:
        return msgspec.json.decode(line, type=SavedPrediction)
    except msgspec.DecodeError as error:
        raise InvalidRecordError(f"{where}: {error}") from error
