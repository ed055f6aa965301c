"""How the add-ons for annotators are trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass

from calico_model.training.add_ons.recipe import AddOnRecipe


@dataclass(frozen=True, kw_only=True)
class AssistRecipe(AddOnRecipe):
    """The whole training of exemplar prompts and mask memory; a chunk takes about 20 MB of disk.

    Attributes:
        exemplars: parts sought in another image per step.
        memories: parts decoded behind others per step.
        sparse_dropout: chance that an exemplar has its dense prompt alone, so that both learn.
        absent_weight: pixel loss of parts that are not there, against 1.
    """

    seed: int = 31
    chunks: int = 40
    steps: int = 700
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    exemplars: int = 40
    memories: int = 40
    sparse_dropout: float = 0.2
    absent_weight: float = 0.5
