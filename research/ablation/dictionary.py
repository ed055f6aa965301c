"""Which prompt the finished mask decoder knows each part by.

Legend: K [SEG] tokens, C prompt width. A language side from scratch would first have to find the
decoder's prompts by trial; as in the training of calico-tiny, each [SEG] is pulled towards the sum
of a part's and a category's entry. The entries are those of the finished weights, for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from calico_model.data.catalogue import TRAINED_CATEGORIES
from calico_model.loading.checkpoints import read_tensors
from calico_model.modeling.model import Calico
from calico_model.training.pretraining.batches import WHOLE, TrainingBatch

_RIDGE = 1.0


@dataclass(frozen=True)
class PartDictionary:
    """Prompts as sums of two entries.

    Attributes:
        parts: (P + 1, C) float32, by part index; the last is the whole object.
        categories: (Y, C) float32, by category index.
    """

    parts: Tensor
    categories: Tensor

    def save(self, path: Path) -> None:
        """Writes the entries: staged, then renamed."""
        staged = path.with_suffix(".tmp")
        save_file({"parts": self.parts, "categories": self.categories}, staged)
        staged.rename(path)

    @classmethod
    def from_file(cls, path: Path) -> PartDictionary:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: not a readable file.
        """
        tensors = read_tensors(path)
        return cls(tensors["parts"], tensors["categories"])


@torch.no_grad()
def fit_dictionary(
    model: Calico,
    batches: Iterable[TrainingBatch],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> PartDictionary:
    """Fits the entries to the prompts of finished weights by least squares.

    Args:
        model: the finished weights, in evaluation mode.
        batches: with features and turns; answers are forced.
        on_progress: called with the number of batches read.
    """
    width = WHOLE + 1 + len(TRAINED_CATEGORIES)
    total = torch.eye(width) * _RIDGE
    answer = torch.zeros(width, model.config.mask.prompt_width)
    for done, batch in enumerate(batches, start=1):
        assert batch.turns is not None
        assert batch.features is not None
        hidden, _ = model(batch.features, batch.turns.conversations)
        states = hidden[batch.turns.seg_row, batch.turns.seg_column][batch.segments]
        prompts = model.segmentation_projection(states).float()  # (K, C)
        which = torch.stack((batch.masks.part, WHOLE + 1 + batch.masks.category))
        chosen = functional.one_hot(which, width).sum(0).float()  # (K, P + 1 + Y)
        total += chosen.T @ chosen
        answer += chosen.T @ prompts
        on_progress(done)
    entries = torch.linalg.solve(total, answer).contiguous()
    return PartDictionary(entries[: WHOLE + 1].clone(), entries[WHOLE + 1 :].clone())
