"""Groups drawn when they are asked for, as a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from calico_model.data import synthetic
from calico_model.data.synthetic import SceneSplit
from calico_model.types import LabeledGroup


class DrawnGroups(Sequence[LabeledGroup]):
    """Groups drawn when they are asked for: the ones `calico synth` would write."""

    def __init__(self, split: SceneSplit, groups: int, seed: int, sizes: tuple[int, int]) -> None:
        self._split, self._groups, self._seed, self._sizes = split, groups, seed, sizes

    def __len__(self) -> int:
        return self._groups

    @overload
    def __getitem__(self, index: int) -> LabeledGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LabeledGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> LabeledGroup | tuple[LabeledGroup, ...]:
        """Draws one group, or several."""
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = synthetic.group_rng(synthetic.Stream.EVALUATION, self._seed, index)
        size = int(rng.integers(self._sizes[0], self._sizes[1] + 1))
        scenes = synthetic.draw_group(rng, split=self._split, group_size=size)
        ids = [f"{self._split}-{self._seed}-{index}-{n + 1}" for n in range(size)]
        return synthetic.labeled_group(scenes, ids)
