"""How the dense head's body is trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass

from calico_model.training.add_on_recipe import AddOnRecipe


@dataclass(frozen=True, kw_only=True)
class DenseRecipe(AddOnRecipe):
    """The whole training of the dense head's body; a chunk takes 20 to 35 MB of disk.

    Attributes:
        images: per step.
        unseen: chance that an image is shown without one of its maps.
    """

    seed: int = 37
    chunks: int = 40
    steps: int = 2400
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.02
    images: int = 12
    unseen: float = 0.2
