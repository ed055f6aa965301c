"""FLOPs of three pipelines that answer the three questions about a group, on the meta device.

Our pipeline encodes each image once and computes the common beginning of the prompts once. The
paper's pipeline runs the same network three times. GLaMM's pipeline runs its own encoders and the
same LLM three times, with 576 rows per image. Answers and masks are the same in all three.

Legend: M images, T positions, S cached positions, D the LLM's width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from calico_model.config import CalicoConfig
from calico_model.modeling.features import ImageFeatures, Pixels, concatenate
from calico_model.modeling.language import Conversations, packed, run_layers, step
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from research.cost.counter import count_stages
from research.cost.glamm import GlammEncoders
from research.cost.workload import Workload

PREFILL, DECODE, MASKS = "LLM prefill", "LLM decode", "mask decoder"
_CLIP = "CLIP, projector"
IMAGE_STAGES = ("shared trunk", "EVA-CLIP", _CLIP, "DINOv2", "SAM encoder", "CEM", "Q-Former")


@dataclass(frozen=True)
class PipelineCost:
    """Cost of one pipeline for all three questions.

    Attributes:
        stages: FLOPs by stage.
        image_tokens: LLM rows per image.
        prompt_tokens: positions of each prompt.
        first_rows, last_rows: positions that the first and the last LLM layer compute in all
            prefills.
    """

    stages: dict[str, int]
    image_tokens: int
    prompt_tokens: tuple[int, ...]
    first_rows: int
    last_rows: int

    @property
    def total(self) -> int:
        """FLOPs of all stages."""
        return sum(self.stages.values())

    @property
    def encoding(self) -> int:
        """FLOPs of the stages that depend on the images alone."""
        return sum(flops for stage, flops in self.stages.items() if stage in IMAGE_STAGES)


@dataclass(frozen=True)
class GroupCosts:
    """Costs of the three pipelines for one group.

    Attributes:
        workload: prompts and answers.
        ours, separate, glamm_style: the pipelines; `separate` is the paper's.
    """

    workload: Workload
    ours: PipelineCost
    separate: PipelineCost
    glamm_style: PipelineCost

    @property
    def ratio(self) -> float:
        """Cost of our pipeline divided by the cost of three separate runs."""
        return self.ours.total / self.separate.total

    @property
    def encode_once_ratio(self) -> float:
        """The same ratio if images were encoded once but prompts shared nothing."""
        runs = len(self.workload.prompts)
        spared = self.separate.encoding * (runs - 1) // runs
        return (self.separate.total - spared) / self.separate.total

    @property
    def revisited_ratio(self) -> float:
        """The same ratio when the images' features are cached."""
        return (self.ours.total - self.ours.encoding) / self.separate.total

    @property
    def vs_glamm(self) -> float:
        """Change from GLaMM's pipeline to ours for three questions, in percent."""
        return 100 * (self.ours.total / self.glamm_style.total - 1)

    @property
    def single_vs_glamm(self) -> float:
        """Change from one GLaMM run to one CALICO run, mean question, in percent."""
        return 100 * (self.separate.total / self.glamm_style.total - 1)


class CostModel:
    """Counts the pipelines of one network, whose tensors are on the meta device.

    Attributes:
        config: of the network.
        tokenizer: counts the tokens of prompts and answers.
    """

    def __init__(self, config: CalicoConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        with torch.device("meta"):
            self._model = Calico(config).eval().requires_grad_(False)
            self._glamm = GlammEncoders(config).eval().requires_grad_(False)
        self._stages = _stages(self._model, self._glamm)
        self._features = self._model.encode(self._pixels())
        self._per_image = self._count(self._encode)
        self._glamm_per_image = self._count(lambda: self._glamm.encode(self._model, self._pixels()))
        # A pass costs a + b * T + c * T^2 FLOPs; three counts give a, b and c.
        self._passes = [self._total(partial(self._pass, t)) for t in (2, 3, 4)]
        # A decoding step costs a + b * S FLOPs; two counts give a and b.
        self._steps = [self._total(partial(self._step, s)) for s in (2, 3)]
        self._groups: dict[int, tuple[Counter[str], Counter[str]]] = {}

    def compare(self, workload: Workload) -> GroupCosts:
        """Counts all three pipelines for one group."""
        queries = self.config.qformer.queries
        layout = workload.conversations(self.tokenizer, queries)
        prompts = tuple(layout.is_token.sum(1).tolist())
        below, above = (packed(layout, own_images=own).source.numel() for own in (False, True))
        first_rows = below if self.config.cam_layers[: len(self._model.cams)] else above
        if workload.images not in self._groups:
            masks = self._count(lambda: self._segment(workload))
            self._groups[workload.images] = self._prefill(layout), masks
        prefill, masks = self._groups[workload.images]
        runs, total = len(prompts), sum(prompts)

        ours = prefill + self._images(self._per_image, workload.images) + masks
        # In one batch, the cache holds the padding of the shorter prompts too.
        ours += self._decode((max(prompts),) * runs, workload)
        # The CAMs see as many image slots in three runs as in one batch of three.
        separate = Counter(prefill)
        separate[PREFILL] = sum(self.prefill_flops(t) for t in prompts)
        separate += self._images(self._per_image, runs * workload.images) + masks
        separate += self._decode(prompts, workload)

        tokens = self._glamm.image_tokens
        longer = tuple(t + workload.images * (tokens - queries) for t in prompts)
        glamm = Counter({PREFILL: sum(self.prefill_flops(t) for t in longer)}) + masks
        glamm += self._images(self._glamm_per_image, runs * workload.images)
        glamm += self._decode(longer, workload)
        return GroupCosts(
            workload,
            self._pipeline(ours, queries, prompts, first_rows, above),
            self._pipeline(separate, queries, prompts, total, total),
            self._pipeline(glamm, tokens, longer, sum(longer), sum(longer)),
        )

    def prefill_flops(self, positions: int) -> int:
        """FLOPs of one prompt of T positions through all LLM layers, and of one output head."""
        first, second, third = self._passes
        slope, curvature = second - first, third - 2 * second + first
        distance = positions - 2
        return first + distance * slope + distance * (distance - 1) // 2 * curvature

    def decode_flops(self, positions: int) -> int:
        """FLOPs of one more token when S positions, that token included, are cached."""
        first, second = self._steps
        return first + (positions - 2) * (second - first)

    def _pipeline(
        self, stages: Counter[str], tokens: int, prompts: tuple[int, ...], *rows: int
    ) -> PipelineCost:
        order = [stage for stage in (*self._stages, DECODE) if stages[stage]]
        others = [stage for stage in stages if stage not in order]
        return PipelineCost(
            {stage: stages[stage] for stage in (*order, *others)}, tokens, prompts, *rows
        )

    def _images(self, per_image: Counter[str], images: int) -> Counter[str]:
        """FLOPs of M images, M times those of one: images do not interact before the LLM."""
        return Counter({stage: images * flops for stage, flops in per_image.items()})

    def _decode(self, prompts: tuple[int, ...], workload: Workload) -> Counter[str]:
        """FLOPs of decoding all answers; the first token of each comes with the prefill."""
        steps = (
            self.decode_flops(prompt + k)
            for prompt, answer in zip(prompts, workload.answer_tokens, strict=True)
            for k in range(1, answer)
        )
        return Counter({DECODE: sum(steps)})

    def _count(self, compute: Callable[[], object]) -> Counter[str]:
        return Counter(count_stages(compute, self._stages))

    def _total(self, compute: Callable[[], object]) -> int:
        return sum(self._count(compute).values())

    # --- computations that are counted --------------------------------------------------------

    def _encode(self) -> None:
        features = self._model.encode(self._pixels())
        self._model.image_rows(features)
        self._model.correspondence(features)

    def _pixels(self) -> Pixels:
        config = self.config
        square, eva, dino = (
            self._empty(1, 3, side, side)
            for side in (config.image_size, config.eva.input_size, config.dino.input_size)
        )
        return Pixels(square, eva, dino) if config.trunk is None else Pixels(square)

    def _prefill(self, layout: Conversations) -> Counter[str]:
        """FLOPs of what `Calico.generate` computes between the image rows and the first tokens."""
        below, above = (packed(layout, own_images=own).to("meta") for own in (False, True))
        model, on_meta = self._model, layout.to("meta")
        images = int(layout.image_feature.max()) + 1
        rows = self._empty(images, self.config.qformer.queries, self.config.language.width)
        semantic = self._group(images).global_tokens if self.config.ablation.use_cem else None

        def prefill() -> None:
            embeddings = model.embed(on_meta, rows)
            hidden = model.prefill(embeddings, on_meta, semantic, (below, above), DynamicCache())
            model.language.lm_head(hidden[:, -1])

        return self._count(prefill)

    def _pass(self, positions: int) -> None:
        language = self._model.language
        hidden = self._empty(1, positions, self.config.language.width)
        depth = torch.arange(positions, device="meta")[None]
        hidden = run_layers(language, range(self.config.language.layers), hidden, depth, None)
        language.lm_head(hidden[:, -1])

    def _step(self, positions: int) -> None:
        language, config = self._model.language, self.config.language
        cache = DynamicCache()
        past = self._empty(1, config.heads, positions - 1, config.width // config.heads)
        for layer in range(config.layers):
            cache.update(past, past, layer)
        is_token = torch.ones(1, positions, dtype=torch.bool, device="meta")
        token = torch.zeros(1, dtype=torch.int64, device="meta")
        language.lm_head(step(language, token, is_token, cache))

    def _segment(self, workload: Workload) -> None:
        states = self._empty(workload.masks, self.config.language.width)
        image = torch.zeros(workload.masks, dtype=torch.int64, device="meta")
        self._model.segment(self._group(workload.images), states, image)

    def _group(self, images: int) -> ImageFeatures:
        return concatenate([self._features] * images)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")


def _stages(model: Calico, glamm: GlammEncoders) -> dict[str, list[nn.Module]]:
    """Modules by stage, in the order they run; a stage that the network lacks has none."""
    decoder = model.mask_decoder
    stages: dict[str, list[nn.Module | None]] = {
        "shared trunk": [model.trunk],
        "EVA-CLIP": [model.eva],
        _CLIP: [glamm.clip, glamm.projector],
        "DINOv2": [model.dino],
        "SAM encoder": [model.sam_encoder, *(decoder.fine or ())],
        "CEM": [model.cem],
        "Q-Former": [
            model.qformer if model.config.ablation.use_qformer else None,
            model.image_projection,
        ],
    }
    for layer, cam in zip(model.config.cam_layers, model.cams, strict=False):
        stages[f"CAM {layer}"] = [cam]
    stages[PREFILL] = [*model.language.model.layers, model.language.lm_head]
    stages[MASKS] = [model.segmentation_projection, decoder]
    return {stage: [m for m in modules if m is not None] for stage, modules in stages.items()}
