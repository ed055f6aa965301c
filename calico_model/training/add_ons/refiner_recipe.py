"""How the mask refiner is trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass

from calico_model.training.add_ons.recipe import AddOnRecipe


@dataclass(frozen=True, kw_only=True)
class RefinerRecipe(AddOnRecipe):
    """The whole training of the mask refiner; a chunk takes about 35 MB of disk.

    Attributes:
        masks: simulated annotators per step.
        rounds: times each of them is answered; every answer but an unasked one teaches.
        box_share, corrected_share, unasked_share: annotators that begin with a box, with a mask
            that is not right, or not at all (the model's own mask is to be sharpened); the others
            begin with one click.
    """

    seed: int = 37
    chunks: int = 40
    steps: int = 3000
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    masks: int = 24
    rounds: int = 3
    box_share: float = 0.1
    corrected_share: float = 0.25
    unasked_share: float = 0.15
