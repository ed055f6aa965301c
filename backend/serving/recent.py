"""The last predictions, masks as their runs, so that a click on a seen group needs no model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace

import numpy as np

from backend.rle import Runs, mask_of, runs_of
from calico_model.types import GroupPrediction


@dataclass(frozen=True, eq=False)
class _Packed:
    prediction: GroupPrediction  # its masks are emptied
    runs: tuple[Runs, ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        return sum(mask.nbytes for mask in self.runs)


class RecentPredictions:
    """Least recently used predictions below a ceiling of bytes. One lock guards the order."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._lock = threading.Lock()
        self._packed: OrderedDict[Hashable, _Packed] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        """Whether a prediction is remembered."""
        return key in self._packed

    def get(
        self, key: Hashable, *, images: Collection[int] | None = None
    ) -> GroupPrediction | None:
        """Returns a remembered prediction, or None.

        Args:
            key: what it was remembered under.
            images: whose masks are wanted; those of other images come back as (0, 0). None is all.
        """
        with self._lock:
            packed = self._packed.get(key)
            if packed is None:
                return None
            self._packed.move_to_end(key)
        return _unpack(packed, images)

    def put(self, key: Hashable, prediction: GroupPrediction) -> None:
        """Remembers a prediction and forgets the oldest ones that no longer fit."""
        packed = _pack(prediction)
        with self._lock:
            if (known := self._packed.pop(key, None)) is not None:
                self._used -= known.nbytes
            self._packed[key] = packed
            self._used += packed.nbytes
            while self._used > self._max_bytes:
                _, oldest = self._packed.popitem(last=False)
                self._used -= oldest.nbytes


def _pack(prediction: GroupPrediction) -> _Packed:
    empty = np.zeros((0, 0), np.bool_)
    parts = tuple(replace(part, mask=empty) for part in prediction.parts)
    return _Packed(
        prediction=replace(prediction, parts=parts),
        runs=tuple(runs_of(part.mask) for part in prediction.parts),
        shapes=tuple((part.mask.shape[0], part.mask.shape[1]) for part in prediction.parts),
    )


def _unpack(packed: _Packed, images: Collection[int] | None) -> GroupPrediction:
    parts = zip(packed.prediction.parts, packed.runs, packed.shapes, strict=True)
    return replace(
        packed.prediction,
        parts=tuple(
            replace(part, mask=mask_of(runs, size_hw))
            if images is None or part.image_index in images
            else part
            for part, runs, size_hw in parts
        ),
    )
