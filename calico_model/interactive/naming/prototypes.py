"""What accepted regions of each label look like, and which label a new one is like (V2).

Nothing is trained: an accepted region is kept as one unit vector, and when a label has too many
the two most alike become their mean. Pure arrays; does not know where vectors come from.
Legend: n prototypes, d width of a descriptor, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidConfigError

PER_LABEL = 16
MOST_LABELS = 256
TEMPERATURE = 0.07
"""Of cosines (seed system V2)."""
FAMILIAR = 0.35
"""Cosine at which a region is as likely of a label nobody has accepted yet as of this one."""

_Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Looks:
    """The prototypes of one label.

    Attributes:
        vectors: (n, d) float32 of unit length.
        counts: (n,) how many accepted regions each stands for.
    """

    vectors: _Floats
    counts: _Floats


@dataclass(frozen=True, eq=False)
class Prototypes:
    """A project's memory of its labels; a value, never changed once made.

    Attributes:
        looks: by label, the one accepted longest ago first.
    """

    looks: Mapping[str, Looks] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def regions(self) -> int:
        """How many accepted regions went in."""
        return round(sum(float(one.counts.sum()) for one in self.looks.values()))

    def add(self, label: str, descriptor: _Floats, *, per_label: int = PER_LABEL) -> Prototypes:
        """Returns the memory with one more accepted region.

        Args:
            label: as the project writes it.
            descriptor: (d,) of any length but zero.
            per_label: prototypes a label may have; the label unused longest goes when there are
                more than `MOST_LABELS`.

        Raises:
            InvalidConfigError: a descriptor of another width, of length zero, or not finite.
        """
        vector = _unit(np.asarray(descriptor, dtype=np.float32), self._width)
        known = self.looks.get(label)
        vectors, counts = vector[None], np.ones(1, np.float32)
        if known is not None:
            vectors = np.concatenate((known.vectors, vectors))
            counts = np.concatenate((known.counts, counts))
        while len(vectors) > per_label:
            vectors, counts = _merge_closest(vectors, counts)
        looks = {name: one for name, one in self.looks.items() if name != label}
        looks[label] = Looks(vectors, counts)
        while len(looks) > MOST_LABELS:
            del looks[next(iter(looks))]
        return Prototypes(MappingProxyType(looks))

    def log_chances(
        self,
        descriptors: _Floats,
        labels: Sequence[str],
        *,
        temperature: float = TEMPERATURE,
        familiar: float = FAMILIAR,
    ) -> NDArray[np.float64]:
        """Log chance of each label of a closed set, by its closest prototypes.

        A label without prototypes counts as if one stood at `familiar`, so that a region unlike
        everything accepted is given to those nobody has seen yet.

        Args:
            descriptors: (R, d) of any length but zero.
            labels: C labels as the project writes them.
            temperature: what cosines are divided by.
            familiar: cosine.

        Returns:
            (R, C); each row sums to one after exp. Uniform where nothing was accepted.
        """
        logits = np.full((len(descriptors), len(labels)), familiar / temperature)
        found = [(n, self.looks[label]) for n, label in enumerate(labels) if label in self.looks]
        if found and len(descriptors):
            ours = np.stack([_unit(row, self._width) for row in descriptors])
            for column, known in found:
                logits[:, column] = (ours @ known.vectors.T).max(1) / temperature
        top = logits.max(1, keepdims=True)
        chances: NDArray[np.float64] = (
            logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        )
        return chances

    def likeness(self, descriptors: _Floats, labels: Sequence[str]) -> NDArray[np.float64] | None:
        """Cosine (R,) of each region with the prototype of any label it is most like.

        Args:
            descriptors: (R, d) of any length but zero.
            labels: as the project writes them.

        Returns:
            None where nothing was accepted under any of the labels.
        """
        known = [self.looks[label].vectors for label in labels if label in self.looks]
        if not known:
            return None
        ours = np.stack([_unit(row, self._width) for row in descriptors])
        return np.asarray((ours @ np.concatenate(known).T).max(1), dtype=np.float64)

    @property
    def _width(self) -> int | None:
        first = next(iter(self.looks.values()), None)
        return None if first is None else first.vectors.shape[1]


def _unit(vector: _Floats, width: int | None) -> _Floats:
    length = float(np.linalg.norm(vector))
    if vector.ndim != 1 or (width is not None and len(vector) != width):
        raise InvalidConfigError(f"descriptor: expected ({width},), got {vector.shape}")
    if not np.isfinite(length) or length == 0.0:
        raise InvalidConfigError(f"descriptor: expected a finite length above 0, got {length}")
    return vector / np.float32(length)


def _merge_closest(vectors: _Floats, counts: _Floats) -> tuple[_Floats, _Floats]:
    """Replaces the two most alike by their mean, weighed by what they stand for."""
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    i, j = sorted(divmod(int(alike.argmax()), len(vectors)))
    both = counts[i] + counts[j]
    mean = (counts[i] * vectors[i] + counts[j] * vectors[j]) / both
    length = np.linalg.norm(mean)
    vectors, counts = vectors.copy(), counts.copy()
    vectors[i] = mean / length if length > 0 else vectors[i]
    counts[i] = both
    return np.delete(vectors, j, axis=0), np.delete(counts, j)
