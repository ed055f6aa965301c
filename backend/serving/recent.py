"""The last predictions, masks packed to bits, so that a click on a seen group needs no model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calico_model.types import GroupPrediction, PartMask


@dataclass(frozen=True, eq=False)
class _Packed:
    prediction: GroupPrediction  # its masks are emptied
    bits: tuple[NDArray[np.uint8], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def nbytes(self) -> int:
        return sum(mask.nbytes for mask in self.bits)


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

    def get(self, key: Hashable) -> GroupPrediction | None:
        """Returns a remembered prediction with its masks, or None."""
        with self._lock:
            packed = self._packed.get(key)
            if packed is None:
                return None
            self._packed.move_to_end(key)
        return _unpack(packed)

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
    parts: tuple[PartMask, ...] = tuple(replace(part, mask=empty) for part in prediction.parts)
    return _Packed(
        prediction=replace(prediction, parts=parts),
        bits=tuple(np.packbits(part.mask) for part in prediction.parts),
        shapes=tuple(part.mask.shape for part in prediction.parts),
    )


def _unpack(packed: _Packed) -> GroupPrediction:
    parts = tuple(
        replace(
            part,
            mask=np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).view(np.bool_),
        )
        for part, bits, shape in zip(
            packed.prediction.parts, packed.bits, packed.shapes, strict=True
        )
    )
    return replace(packed.prediction, parts=parts)
