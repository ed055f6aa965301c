"""Prototypes of the accepted regions of each label, and the labels that a new region is like.

Nothing is trained: an accepted region is kept as one unit vector. If a label has too many vectors,
the two most similar become their mean. Pure arrays; does not know where vectors come from.
Legend: n prototypes, d width of a descriptor, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calico_model.errors import InvalidConfigError

PER_LABEL = 16
MOST_LABELS = 256
TEMPERATURE = 0.07
"""Divisor of cosines."""
FAMILIAR = 0.35
"""Cosine to a label's prototype at which a label without accepted regions is as likely."""

_Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelPrototypes:
    """The prototypes of one label.

    Attributes:
        vectors: (n, d) float32 of unit length.
        counts: (n,) number of accepted regions that each is the mean of.
    """

    vectors: _Floats
    counts: _Floats


@dataclass(frozen=True, eq=False)
class Prototypes:
    """The prototypes of a project's labels; immutable.

    Attributes:
        looks: label -> its prototypes, the label accepted longest ago first.
        apart: the same of regions whose descriptors have another width, because another network
            has described them; the two are never compared.
    """

    looks: Mapping[str, LabelPrototypes] = field(default_factory=lambda: MappingProxyType({}))
    apart: Prototypes | None = None

    @property
    def regions(self) -> int:
        """Number of accepted regions, without those apart."""
        return round(sum(float(label.counts.sum()) for label in self.looks.values()))

    @property
    def all_regions(self) -> int:
        """Number of accepted regions, with those apart."""
        return self.regions + (0 if self.apart is None else self.apart.all_regions)

    def of_width(self, width: int) -> Prototypes:
        """Returns the prototypes that descriptors of a width can be compared with."""
        if self._width == width:
            return self
        return Prototypes() if self.apart is None else self.apart.of_width(width)

    def add(self, label: str, descriptor: _Floats, *, per_label: int = PER_LABEL) -> Prototypes:
        """Returns the prototypes with one more accepted region.

        One of another width than the first comes apart. If there are more than `MOST_LABELS`
        labels, the label accepted longest ago is removed.

        Args:
            label: as the project writes it.
            descriptor: (d,) of any length but zero.
            per_label: prototypes of one label at most.

        Raises:
            InvalidConfigError: a descriptor of several dimensions, of length zero, or not finite.
        """
        vector = _unit(np.asarray(descriptor, dtype=np.float32), None)
        if self._width not in (None, len(vector)):
            apart = (self.apart or Prototypes()).add(label, vector, per_label=per_label)
            return replace(self, apart=apart)
        known = self.looks.get(label)
        vectors, counts = vector[None], np.ones(1, np.float32)
        if known is not None:
            vectors = np.concatenate((known.vectors, vectors))
            counts = np.concatenate((known.counts, counts))
        while len(vectors) > per_label:
            vectors, counts = _merge_closest(vectors, counts)
        looks = {name: others for name, others in self.looks.items() if name != label}
        looks[label] = LabelPrototypes(vectors, counts)
        while len(looks) > MOST_LABELS:
            del looks[next(iter(looks))]
        return Prototypes(MappingProxyType(looks), self.apart)

    def log_chances(
        self,
        descriptors: _Floats,
        labels: Sequence[str],
        *,
        temperature: float = TEMPERATURE,
        familiar: float = FAMILIAR,
    ) -> NDArray[np.float64]:
        """Log chance of each label of a closed set, by its most similar prototype.

        A label without prototypes counts as if it had one of the cosine `familiar`, so that a
        region unlike all accepted regions gets one of these labels.

        Args:
            descriptors: (R, d) of any length but zero.
            labels: C labels as the project writes them.
            temperature: what cosines are divided by.
            familiar: cosine.

        Returns:
            (R, C); each row sums to one after exp. Uniform where nothing was accepted.
        """
        logits = np.full((len(descriptors), len(labels)), familiar / temperature)
        known = [(n, self.looks[label]) for n, label in enumerate(labels) if label in self.looks]
        if known and len(descriptors):
            units = np.stack([_unit(row, self._width) for row in descriptors])
            for column, of_label in known:
                logits[:, column] = (units @ of_label.vectors.T).max(1) / temperature
        top = logits.max(1, keepdims=True)
        chances: NDArray[np.float64] = (
            logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        )
        return chances

    def likeness(self, descriptors: _Floats, labels: Sequence[str]) -> NDArray[np.float64] | None:
        """Cosine (R,) of each region with the most similar prototype of any label.

        Args:
            descriptors: (R, d) of any length but zero.
            labels: as the project writes them.

        Returns:
            None if none of the labels has a prototype.
        """
        known = [self.looks[label].vectors for label in labels if label in self.looks]
        if not known:
            return None
        units = np.stack([_unit(row, self._width) for row in descriptors])
        return np.asarray((units @ np.concatenate(known).T).max(1), dtype=np.float64)

    @property
    def _width(self) -> int | None:
        first = next(iter(self.looks.values()), None)
        return None if first is None else first.vectors.shape[1]


def _unit(vector: _Floats, width: int | None) -> _Floats:
    """A descriptor scaled to length 1; an InvalidConfigError if that is impossible."""
    length = float(np.linalg.norm(vector))
    if vector.ndim != 1 or (width is not None and len(vector) != width):
        raise InvalidConfigError(f"descriptor: expected ({width},), got {vector.shape}")
    if not np.isfinite(length) or length == 0.0:
        raise InvalidConfigError(f"descriptor: expected a finite length above 0, got {length}")
    return vector / np.float32(length)


def _merge_closest(vectors: _Floats, counts: _Floats) -> tuple[_Floats, _Floats]:
    """Replaces the two most similar vectors by their mean, weighed by their counts."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    i, j = sorted(divmod(int(cosines.argmax()), len(vectors)))
    both = counts[i] + counts[j]
    mean = (counts[i] * vectors[i] + counts[j] * vectors[j]) / both
    length = np.linalg.norm(mean)
    vectors, counts = vectors.copy(), counts.copy()
    vectors[i] = mean / length if length > 0 else vectors[i]
    counts[i] = both
    return np.delete(vectors, j, axis=0), np.delete(counts, j)
