"""Peak memory of each phase of the network, measured by running it without memory.

On the meta device tensors have shapes and lifetimes but no data. Counting the bytes that are alive
after every operation gives the peak a device would see, fragmentation and workspaces apart.
Legend: M images, B conversations, T positions, K masks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from calico_model.config import CalicoConfig
from calico_model.loading.placement import Placement
from calico_model.loading.precision import Precision
from calico_model.modeling.adapter import mark_trainable
from calico_model.modeling.features import ImageFeatures, Pixels, concatenate
from calico_model.modeling.language import Conversations
from calico_model.modeling.losses import dice_loss, pixel_loss, text_loss
from calico_model.modeling.model import Calico


@dataclass(frozen=True)
class PredictionPeaks:
    """Peaks of the phases of a prediction beside the weights, in bytes.

    Attributes:
        features: of one image, as the cache keeps them.
        encoding: pixels to features.
        prefilling: prompts through all layers of the LLM, without keys and values.
        segmenting: all masks of the group.
    """

    features: int
    encoding: int
    prefilling: int
    segmenting: int


def blank_model(config: CalicoConfig, *, dtype: torch.dtype = torch.float32) -> Calico:
    """Builds the network on the meta device: all shapes, no memory, no values."""
    with torch.device("meta"):
        return Calico(config).to(dtype)


@lru_cache(maxsize=32)
def predict_dry(
    config: CalicoConfig,
    precision: Precision,
    *,
    images: int,
    together: int,
    conversations: int,
    length: int,
    masks: int,
) -> PredictionPeaks:
    """Measures a prediction.

    Args:
        config: any size.
        precision: FP32 or BF16, what is computed in.
        images: M of the group.
        together: images that are encoded at once.
        conversations: B questions.
        length: T of each prompt.
        masks: K.
    """
    network = _Network(config, precision)
    one, encoding = network.encoding(1)
    if together > 1:
        _, encoding = network.encoding(together)
    group = concatenate([one] * images)
    return PredictionPeaks(
        one.nbytes,
        encoding,
        network.prefilling(group, conversations, length),
        network.segmenting(group, masks),
    )


@lru_cache(maxsize=8)
def train_dry(
    config: CalicoConfig,
    *,
    images: int,
    conversations: int,
    length: int,
    masks: int,
    has_checkpointing: bool,
) -> tuple[PredictionPeaks, int]:
    """Measures a bfloat16 training step on the adapter; arguments as in `predict_dry`.

    Returns:
        What encoding takes one image at a time, and the peak of forward and backward.
    """
    network = _Network(config, Precision.BF16)
    one, encoding = network.encoding(1)
    pool = concatenate([one] * (images * conversations))
    step = network.learning(
        pool, conversations, length, masks=masks, has_checkpointing=has_checkpointing
    )
    return PredictionPeaks(one.nbytes, encoding, 0, 0), step


class _Network:
    """A network without memory, in the numbers it is computed in."""

    def __init__(self, config: CalicoConfig, precision: Precision) -> None:
        placement = Placement(precision)
        self.config, self.dtype = config, placement.place("language")[1]
        self.model = blank_model(config).eval()
        loaded = self.model.state_dict().keys()
        self._held = [*self.model.parameters(), *self.model.buffers()]
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if name in loaded and tensor.is_floating_point():
                tensor.data = tensor.data.to(placement.place(name)[1])

    def encoding(self, images: int) -> tuple[ImageFeatures, int]:
        """Features of M images and the peak of making them, pixels included."""
        outputs: list[ImageFeatures] = []

        def encode() -> None:
            with torch.no_grad():
                outputs.append(self.model.encode(self._pixels(images)))

        peak = _peak_bytes(encode, self._held)
        return outputs[0], peak

    def prefilling(self, features: ImageFeatures, conversations: int, length: int) -> int:
        """Peak of one pass over whole prompts."""
        head = self.model.language.lm_head
        self.model.language.lm_head = nn.Identity()  # only last positions are looked at

        def prefill() -> None:
            with torch.no_grad():
                self.model(features, _conversations(features, conversations, length))

        peak = _peak_bytes(prefill, [*self._held, *_tensors(features)])
        self.model.language.lm_head = head
        return peak

    def segmenting(self, features: ImageFeatures, masks: int) -> int:
        """Peak of decoding K masks together."""
        states = torch.empty(masks, self.config.language.width, dtype=self.dtype, device="meta")

        def segment() -> None:
            with torch.no_grad():
                self.model.segment(features, states, _integers(masks))

        return _peak_bytes(segment, [*self._held, *_tensors(features), states])

    def learning(
        self,
        features: ImageFeatures,
        conversations: int,
        length: int,
        *,
        masks: int,
        has_checkpointing: bool,
    ) -> int:
        """Peak of forward and backward, gradients included; losses at the input's size."""
        side = self.config.image_size
        mark_trainable(self.model)
        self.model.language.train()
        if has_checkpointing:
            # The meta device has no random state to keep.
            self.model.language.activation_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": False}
            )

        def learn() -> None:
            hidden, scores = self.model(features, _conversations(features, conversations, length))
            which = _integers(masks)
            logits, _ = self.model.segment(features, hidden[which, which], which)
            large = functional.interpolate(logits[:, None], (side, side), mode="bilinear")[:, 0]
            target = torch.empty_like(large)
            loss = pixel_loss(large, target).mean() + dice_loss(large, target).mean()
            loss = loss + text_loss(scores, _integers(conversations, length))
            torch.autograd.backward(loss)

        return _peak_bytes(learn, [*self._held, *_tensors(features)])

    def _pixels(self, images: int) -> Pixels:
        config = self.config

        def square(side: int) -> Tensor:
            return torch.empty(images, 3, side, side, dtype=self.dtype, device="meta")

        if config.trunk is not None:
            return Pixels(square(config.image_size))
        eva, dino = square(config.eva.input_size), square(config.dino.input_size)
        return Pixels(square(config.image_size), eva, dino)


def _conversations(features: ImageFeatures, conversations: int, length: int) -> Conversations:
    slots = _integers(conversations * len(features))
    return Conversations(
        _integers(conversations, length),
        torch.ones(conversations, length, dtype=torch.bool, device="meta"),
        _integers(conversations),
        slots,
        slots,
        slots,
    )


def _integers(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int64, device="meta")


def _tensors(features: ImageFeatures) -> tuple[Tensor, ...]:
    tokens = (features.global_tokens, features.semantic_tokens)
    return (*tokens, features.mask.embedding, *features.mask.fine)


def _peak_bytes(compute: Callable[[], object], given: Iterable[Tensor]) -> int:
    """The most bytes alive at once during `compute`; what was `given` is not counted."""
    trace = _LiveBytes(given)
    with trace:
        compute()
    return trace.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage from its first tensor to its last."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._sizes = dict.fromkeys((t.untyped_storage()._cdata for t in given), 0)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = operation(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._meet(value)
        return output

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._part, key)

    def _part(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
