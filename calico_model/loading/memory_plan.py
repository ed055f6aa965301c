"""How much memory a model needs, known before anything is loaded.

Parameters are counted by part and activations are measured on a network without memory, all from
the configuration. Which placement fits a device is decided in fitting.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.config import CalicoConfig
from calico_model.loading.dry_run import blank_model, predict_dry, train_dry
from calico_model.loading.placement import Placement
from calico_model.loading.precision import Precision, quantised_bytes
from calico_model.loading.quantisation import is_quantised
from calico_model.modeling.adapter import trainable_count
from calico_model.modeling.model import Calico
from calico_model.presets import full
from calico_model.types import RegionKind

FEATURE_CACHE_BYTES = 512 * 2**20
_MASKS_PER_IMAGE = 8  # generous: three questions about an object with several parts
_CHARACTERS_PER_TOKEN = 3  # of English; Llama's tokenizer makes about 4
_ANSWER_TOKENS = 150  # of a training sample
# Adam's two moments and the float32 copy of each trained number.
_OPTIMISER_BYTES = 12
# Rows of the table: a name and the modules of `Calico` behind it. LoRA is taken out of "LLM".
_ROWS = (
    ("LLM", ("language",)),
    ("LoRA", ()),
    ("EVA-CLIP", ("eva",)),
    ("Q-Former", ("qformer",)),
    ("queries and f_image", ("query_tokens", "image_projection")),
    ("SAM encoder", ("sam_encoder",)),
    ("SAM decoder", ("mask_decoder",)),
    ("f_segmentation", ("segmentation_projection",)),
    ("DINOv2", ("dino",)),
    ("CEM and CAMs", ("cem", "cams")),
    ("shared trunk", ("trunk",)),
)
# Millions of parameters of CALICO-7B as measured on its public parts; the paper gives LoRA's rank
# and the trainable share alone.
PUBLISHED = {
    "LLM": 6738.5,
    "LoRA": 4.194304,
    "EVA-CLIP": 986.0,
    "Q-Former": 105.1,
    "queries and f_image": 3.17,
    "SAM encoder": 637.0,
    "SAM decoder": 4.06,
    "f_segmentation": 17.8,
    "DINOv2": 86.6,
    "CEM and CAMs": 18.7,
}


@dataclass(frozen=True)
class PartCount:
    """One row of the parameter table.

    Attributes:
        part: its name.
        parameters: numbers in it.
        published: millions in the released parts of the 7B, None where nothing is known.
    """

    part: str
    parameters: int
    published: float | None


def part_of(name: str) -> str:
    """Names the row of the table that a parameter or buffer of `Calico` belongs to."""
    if ".lora_" in name:
        return "LoRA"
    module = name.partition(".")[0]
    return next(row for row, modules in _ROWS if module in modules)


def by_part(model: Calico) -> dict[str, list[tuple[str, Tensor]]]:
    """Groups parameters, and buffers a checkpoint holds, by row; empty rows are left out."""
    tensors_of: dict[str, list[tuple[str, Tensor]]] = {row: [] for row, _ in _ROWS}
    for name, tensor in model.state_dict().items():
        tensors_of[part_of(name)].append((name, tensor))
    return {row: tensors for row, tensors in tensors_of.items() if tensors}


def parameter_table(config: CalicoConfig) -> tuple[PartCount, ...]:
    """Counts the parameters of each part; the published ones stand beside a 7B."""
    parameters: dict[str, int] = dict.fromkeys((row for row, _ in _ROWS), 0)
    for name, parameter in blank_model(config).named_parameters():
        parameters[part_of(name)] += parameter.numel()
    published = PUBLISHED if replace(config, name="") == full(name="") else {}
    return tuple(
        PartCount(row, count, published.get(row)) for row, count in parameters.items() if count
    )


@dataclass(frozen=True)
class PartMemory:
    """The weights of one part.

    Attributes:
        part: row of the parameter table.
        parameters: numbers in it.
        nbytes: memory of its weights with all scales.
        device: where they are.
        precision: what they are held in.
    """

    part: str
    parameters: int
    nbytes: int
    device: str
    precision: Precision


@dataclass(frozen=True)
class MemoryItem:
    """Memory beside the weights: what it is for, bytes, and where."""

    name: str
    nbytes: int
    device: str


@dataclass(frozen=True)
class MemoryPlan:
    """What a model takes at its peak.

    Attributes:
        placement: the model's.
        images: images of a group.
        parts: the weights.
        kept: held all the time beside the weights.
        phases: follow one another, so that only the largest counts.
        cache_bytes_per_image: features of one image, kept for the next question.
        kv_bytes_per_token: keys and values of one position of one conversation.
    """

    placement: Placement
    images: int
    parts: tuple[PartMemory, ...]
    kept: tuple[MemoryItem, ...]
    phases: tuple[MemoryItem, ...]
    cache_bytes_per_image: int
    kv_bytes_per_token: int

    @property
    def weight_bytes(self) -> int:
        """All weights, wherever they are."""
        return sum(part.nbytes for part in self.parts)

    def peak_bytes(self, device: str) -> int:
        """The most that is held on a device at once."""
        weights = sum(part.nbytes for part in self.parts if part.device == device)
        kept = sum(item.nbytes for item in self.kept if item.device == device)
        return (
            weights + kept + max((p.nbytes for p in self.phases if p.device == device), default=0)
        )


def plan_inference(config: CalicoConfig, placement: Placement, images: int) -> MemoryPlan:
    """Plans a prediction: all three questions about a group.

    Args:
        config: any size.
        placement: where the parts are.
        images: 1 to 8 images in the group.
    """
    home, encoders = placement.device, str(placement.place("eva")[0])
    together = min(images, placement.images_at_once)
    questions, prompt = len(RegionKind), _prompt_tokens(config, images)
    masks = _MASKS_PER_IMAGE * images
    run = predict_dry(
        config,
        _computed_in(placement.precision),
        images=images,
        together=together,
        conversations=questions,
        length=prompt,
        masks=masks,
    )
    kv = _kv_bytes(config, placement)
    answers = run.prefilling + kv * questions * (prompt + config.max_answer_tokens)
    return MemoryPlan(
        placement,
        images,
        tuple(_weights(config, placement)),
        (
            MemoryItem("feature cache", FEATURE_CACHE_BYTES, home),
            MemoryItem(f"features of {images} images", run.features * images, home),
        ),
        (
            MemoryItem(f"encoding, {together} at once", run.encoding, encoders),
            MemoryItem("3 answers, KV cache", answers + _unpacked(config, placement), home),
            MemoryItem(f"decoding {masks} masks", run.segmenting, home),
        ),
        run.features,
        kv,
    )


def plan_training(
    config: CalicoConfig,
    precision: Precision,
    *,
    device: str = "cuda",
    images: int = 2,
    conversations: int = 1,
    has_checkpointing: bool = True,
) -> MemoryPlan:
    """Plans one step of training the adapter with AdamW; NF4 makes it QLoRA.

    Args:
        config: with the adapter's rank.
        precision: of the frozen weights, not FP32; trained numbers have a float32 copy.
        device: where training runs.
        images: per conversation.
        conversations: in one micro-batch.
        has_checkpointing: the LLM's layers recompute their activations in the backward pass.
    """
    placement = Placement(precision, device, images_at_once=1)
    pool = images * conversations
    encoding, step = train_dry(
        config,
        images=images,
        conversations=conversations,
        length=_prompt_tokens(config, images) + _ANSWER_TOKENS,
        masks=_MASKS_PER_IMAGE * pool,
        has_checkpointing=has_checkpointing,
    )
    optimiser = trainable_count(config) * _OPTIMISER_BYTES
    return MemoryPlan(
        placement,
        images,
        tuple(_weights(config, placement)),
        (
            MemoryItem("float32 copy and AdamW moments", optimiser, device),
            MemoryItem(f"features of {pool} images", encoding.features * pool, device),
        ),
        (
            MemoryItem("encoding, 1 at once", encoding.encoding, device),
            MemoryItem("forward and backward", step + _unpacked(config, placement), device),
        ),
        encoding.features,
        _kv_bytes(config, placement),
    )


def _computed_in(precision: Precision) -> Precision:
    return Precision.FP32 if precision is Precision.FP32 else Precision.BF16


def _prompt_tokens(config: CalicoConfig, images: int) -> int:
    """An upper estimate of the longest prompt's positions, image rows included."""
    questions = [question for kind in RegionKind for question in prompts.QUESTIONS[kind]]
    text = prompts.conversation(max(questions, key=len), images, config.system_prompt)
    return len(text) // _CHARACTERS_PER_TOKEN + images * config.qformer.queries


def _kv_bytes(config: CalicoConfig, placement: Placement) -> int:
    itemsize = placement.place("language")[1].itemsize
    return 2 * config.language.layers * config.language.width * itemsize


def _unpacked(config: CalicoConfig, placement: Placement) -> int:
    """One compressed matrix of the LLM at a time is unpacked to be multiplied."""
    language = config.language
    if not placement.precision.is_quantised:
        return 0
    return language.width * max(language.width, language.mlp) * torch.bfloat16.itemsize


@lru_cache(maxsize=8)
def _shapes(config: CalicoConfig) -> dict[str, list[tuple[str, torch.Size, bool]]]:
    return {
        part: [(name, tensor.shape, tensor.is_floating_point()) for name, tensor in tensors]
        for part, tensors in by_part(blank_model(config)).items()
    }


def _weights(config: CalicoConfig, placement: Placement) -> Iterator[PartMemory]:
    for part, tensors in _shapes(config).items():
        device, dtype = placement.place(tensors[0][0])
        held = Precision.FP32 if dtype is torch.float32 else Precision.BF16
        numbers = nbytes = 0
        for name, shape, is_float in tensors:
            numbers += shape.numel()
            if placement.precision.is_quantised and is_quantised(name):
                held = placement.precision
                nbytes += quantised_bytes(shape[0], shape[1], held)
            else:
                nbytes += shape.numel() * (dtype.itemsize if is_float else 8)
        yield PartMemory(part, numbers, nbytes, str(device), held)
