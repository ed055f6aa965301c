"""How CALICO is fine-tuned on records, in numbers: the paper's training and a laptop's.

Knows nothing of tensors or files. Sources are the paper (section 5.1), its public notes, and the
code of the models it builds on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from calico_model.errors import InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.training.schedules import check_value, linear_rate


class Sharding(StrEnum):
    """What the processes of a training divide among themselves, beside the samples.

    DDP keeps everything everywhere and averages gradients. ZERO2 and FSDP are accelerate's FSDP2:
    gradients, optimizer and weights are divided; ZERO2 gathers the weights of a layer once per
    pass and keeps them until the backward pass is through, FSDP frees them after each layer.
    """

    DDP = "ddp"
    ZERO2 = "zero2"
    FSDP = "fsdp"


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning. All but `log_every` must stay the same when a run is resumed.

    Attributes:
        seed: of data order, wordings, image order and dropout.
        epochs: passes of `steps_per_epoch` optimiser steps.
        steps_per_epoch: 0 takes as many as show every sample once.
        batch: samples per optimiser step, over all processes, by gradient accumulation.
        micro_batch: samples per forward pass. Results do not depend on the number of processes,
            only the order of sums does: a step's micro-batches are dealt out to them.
        learning_rate: peak of a linear warm-up from 0, then linear decay to 0.
        warmup_steps: optimiser steps.
        betas, weight_decay, clip_norm: of AdamW and of the gradient.
        most_objects: objects mentioned, and comparisons taken, per group of images in training;
            validation takes one.
        with_empty: also teach to say that nothing is common, or unique.
        focal_gamma: 0 is the pixel loss of the paper's code, 2 its focal form in the paper.
        quality_weight: of the IoU head's error; the paper does not train it.
        precision: of the frozen weights; NF4 or INT8 compress the LLM (QLoRA). Trained weights
            are held in float32; with anything but FP32, layers compute in bfloat16.
        checkpointing: recompute the LLM's layers in the backward pass instead of keeping them.
        holdout: share of the groups kept for validation when no folder is given for it.
        most_validation: samples of a validation, at most.
        checkpoint_every: optimiser steps between resumable states; one also ends each epoch.
        log_every: optimiser steps per row of the curve.
    """

    seed: int = 27
    epochs: int = 10
    steps_per_epoch: int = 0
    batch: int = 16
    micro_batch: int = 8
    learning_rate: float = 4e-4
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    most_objects: int = 4
    with_empty: bool = False
    focal_gamma: float = 0.0
    quality_weight: float = 0.0
    precision: Precision = Precision.FP32
    checkpointing: bool = False
    holdout: float = 0.05
    most_validation: int = 500
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "micro_batch", "most_objects", "most_validation"):
            check_value(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("checkpoint_every", "log_every"):
            check_value(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "steps_per_epoch", "warmup_steps", "weight_decay"):
            check_value(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "clip_norm"):
            check_value(self, name, getattr(self, name) > 0, "a number above 0")
        check_value(self, "holdout", 0 <= self.holdout < 1, "a share below 1")
        check_value(self, "batch", self.batch % self.micro_batch == 0, "a multiple of micro_batch")

    @property
    def micro_batches(self) -> int:
        """Forward passes per optimiser step, over all processes."""
        return self.batch // self.micro_batch

    @property
    def computes_in_half(self) -> bool:
        """Whether layers compute in bfloat16."""
        return self.precision is not Precision.FP32

    def check_processes(self, processes: int) -> None:
        """Checks that every process gets the same number of micro-batches.

        Raises:
            InvalidConfigError: the batch cannot be divided so; the message says what could be.
        """
        if self.micro_batches % processes:
            raise InvalidConfigError(
                f"batch: expected a multiple of micro_batch times processes, "
                f"{self.micro_batch * processes}, got {self.batch}"
            )

    def steps_for(self, samples: int) -> int:
        """Optimiser steps of one epoch over so many samples."""
        return self.steps_per_epoch or -(-samples // self.batch)

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of a 0-based step out of `total`."""
        return self.learning_rate * linear_rate(step, total, warmup_steps=self.warmup_steps)

    def lasting(self) -> dict[str, object]:
        """Values that must not change between the parts of one run, as JSON holds them."""
        values = asdict(self) | {"betas": list(self.betas), "precision": str(self.precision)}
        del values["log_every"]
        return {"training": "records"} | values


FULL_SIZE = FinetuneRecipe(
    batch=80,
    micro_batch=1,
    steps_per_epoch=500,
    precision=Precision.BF16,
    checkpointing=True,
    checkpoint_every=50,
)
"""The paper's 10 epochs of 500 steps on 80 pairs, in 24 GB and more."""
