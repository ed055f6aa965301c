"""Rules that rename released tensors, and the names of CALICO's parts in each family of releases.

A rule is a regular expression over a released name, and the canonical name it becomes. Knows names;
not files or shapes. Sources: the state dicts of transformers 5 (Llama, Q-Former, DINOv2), of
`segment_anything`, of the repositories of DINOv2 and LAVIS, and of GLaMM at e74865f.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorTarget:
    """The tensor of Calico that a released tensor fills.

    Attributes:
        name: its canonical name.
        take: (k, n): use the k-th of n equal blocks of the released rows; None uses all rows.
        slot: (k, n): fill the k-th of n blocks, the others with zeros; None fills everything.
        is_copy: whether the release holds the same tensor under another name, too.
    """

    name: str
    take: tuple[int, int] | None = None
    slot: tuple[int, int] | None = None
    is_copy: bool = False


@dataclass(frozen=True)
class Rule:
    """One regular expression over a whole released name.

    Attributes:
        pattern: matches the whole released name.
        targets: their names are templates of `re.Match.expand`; no targets: the tensor is dropped.
    """

    pattern: re.Pattern[str]
    targets: tuple[TensorTarget, ...] = ()


@dataclass(frozen=True)
class NamingScheme:
    """The tensor names of one family of releases, as rules.

    Attributes:
        title: name of the family, for messages.
        signature: a checkpoint is of this family if each pattern matches the start of a name.
        rules: the first rule that matches a name applies.
        claims: a name whose start matches belongs to a used part, so a rule must match it.
    """

    title: str
    signature: tuple[str, ...]
    rules: tuple[Rule, ...]
    claims: str

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a checkpoint with these names is of this family."""
        names = list(keys)
        return all(any(re.match(s, name) for name in names) for s in self.signature)

    def targets(self, key: str) -> tuple[TensorTarget, ...] | None:
        """Targets of a tensor: empty if the tensor is dropped, None if no rule matches its name."""
        for rule in self.rules:
            if match := rule.pattern.fullmatch(key):
                return tuple(
                    TensorTarget(match.expand(t.name), t.take, t.slot, t.is_copy)
                    for t in rule.targets
                )
        return None

    def claims_name(self, key: str) -> bool:
        """Whether a name belongs to a used part, of which no tensor may stay unmatched."""
        return re.match(self.claims, key) is not None


def rename(prefix: str, *pairs: tuple[str, str], into: str = "") -> tuple[Rule, ...]:
    """Rules from (pattern, canonical name) pairs, prefixed with `prefix` and `into`."""
    return tuple(Rule(re.compile(prefix + p), (TensorTarget(into + t),)) for p, t in pairs)


def drop(*patterns: str) -> tuple[Rule, ...]:
    """Rules for tensors of parts CALICO does not have."""
    return tuple(Rule(re.compile(pattern)) for pattern in patterns)


def unstack(pattern: str, *names: str) -> Rule:
    """A rule for a released tensor that stacks several tensors of Calico by rows."""
    targets = (TensorTarget(name, take=(k, len(names))) for k, name in enumerate(names))
    return Rule(re.compile(pattern), tuple(targets))


WB = r"\.(weight|bias)"
PEFT = r"(?:base_model\.model\.)?"
_PROJECTION = r"(self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"

LLAMA_RULES = (
    *rename(
        PEFT,
        (r"model\.(embed_tokens|norm)\.weight", r"model.\1.weight"),
        (r"lm_head\.weight", "lm_head.weight"),
        (r"model\.layers\.(\d+)\.(\w+_layernorm)\.weight", r"model.layers.\1.\2.weight"),
        (
            rf"model\.layers\.(\d+)\.{_PROJECTION}(?:\.base_layer)?\.weight",
            r"model.layers.\1.\2.weight",
        ),
        (
            rf"model\.layers\.(\d+)\.{_PROJECTION}\.lora_([AB])(?:\.default)?\.weight",
            r"model.layers.\1.\2.lora_\3.default.weight",
        ),
        into="language.",
    ),
    *drop(r".*rotary_emb\.inv_freq"),
)
LLAMA_CLAIMS = rf"{PEFT}(?:lm_head|model\.(?:layers|embed_tokens|norm))\."


def sam(prefix: str) -> tuple[Rule, ...]:
    """SAM by the names of `segment_anything`, which Calico keeps."""
    return (
        *rename(
            prefix,
            (r"image_encoder\.(.+)", r"sam_encoder.\1"),
            (r"(prompt_encoder|mask_decoder)\.(.+)", r"mask_decoder.\1.\2"),
        ),
        *drop(prefix + r"pixel_(?:mean|std)"),
    )


def eva(prefix: str) -> tuple[Rule, ...]:
    """LAVIS's EVA-CLIP: the query and value biases are apart, the key has none."""
    block, layer = rf"{prefix}visual_encoder\.blocks\.(\d+)\.", r"eva.encoder.layers.\1."
    bias = layer + "self_attn.qkv.bias"
    return (
        *rename(
            prefix,
            (r"visual_encoder\.cls_token", "embeddings.class_embedding"),
            (r"visual_encoder\.pos_embed", "embeddings.position_embedding"),
            (rf"visual_encoder\.patch_embed\.proj{WB}", r"embeddings.patch_embedding.\1"),
            (rf"ln_vision{WB}", r"post_layernorm.\1"),
            into="eva.",
        ),
        *rename(
            block,
            (rf"norm([12]){WB}", r"layer_norm\2.\3"),
            (r"attn\.qkv\.weight", "self_attn.qkv.weight"),
            (rf"attn\.proj{WB}", r"self_attn.projection.\2"),
            (rf"mlp\.(fc[12]){WB}", r"mlp.\2.\3"),
            into=layer,
        ),
        Rule(re.compile(block + r"attn\.q_bias"), (TensorTarget(bias, slot=(0, 3)),)),
        Rule(re.compile(block + r"attn\.v_bias"), (TensorTarget(bias, slot=(2, 3)),)),
    )


def qformer(prefix: str, norm: str, own: str) -> tuple[Rule, ...]:
    """The query path of a Q-Former; its text path is dropped.

    Args:
        prefix: of the names.
        norm: name of the norm of its embeddings.
        own: name of an attention's projections, `self` in BERT, `attention` in transformers.
    """
    layer = r"encoder\.layer\.(\d+)\."
    attention = r"(attention|crossattention)\."
    return (
        *rename(
            prefix,
            (rf"embeddings\.{norm}{WB}", r"layernorm.\1"),
            (
                rf"{layer}{attention}{own}\.(query|key|value){WB}",
                r"encoder.layer.\1.\2.attention.\3.\4",
            ),
            (
                rf"{layer}{attention}output\.(dense|LayerNorm){WB}",
                r"encoder.layer.\1.\2.output.\3.\4",
            ),
            (
                rf"{layer}(intermediate|output)_query\.(dense|LayerNorm){WB}",
                r"encoder.layer.\1.\2_query.\3.\4",
            ),
            into="qformer.",
        ),
        *drop(
            prefix + r"embeddings\.(?:word_embeddings|position_embeddings)\.weight",
            prefix + r"embeddings\.position_ids",
            prefix + layer + r"(?:intermediate|output)\.(?:dense|LayerNorm)\.(?:weight|bias)",
        ),
    )


def dino_hub(prefix: str) -> tuple[Rule, ...]:
    """DINOv2 by the names of its own repository."""
    block, layer = rf"{prefix}blocks\.(?:\d+\.)?(\d+)\.", r"dino.encoder.layer.\1."
    return (
        *rename(
            prefix,
            (r"(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
            (r"pos_embed", "embeddings.position_embeddings"),
            (rf"patch_embed\.proj{WB}", r"embeddings.patch_embeddings.projection.\1"),
            (rf"norm{WB}", r"layernorm.\1"),
            into="dino.",
        ),
        *rename(
            block,
            (rf"(norm[12]|mlp\.fc[12]){WB}", r"\2.\3"),
            (r"ls([12])\.gamma", r"layer_scale\2.lambda1"),
            (rf"attn\.proj{WB}", r"attention.o_proj.\2"),
            (rf"mlp\.w3{WB}", r"mlp.down_proj.\2"),
            into=layer,
        ),
        unstack(block + rf"attn\.qkv{WB}", *(rf"{layer}attention.{x}_proj.\2" for x in "qkv")),
        unstack(block + rf"mlp\.w12{WB}", *(rf"{layer}mlp.{x}_proj.\2" for x in ("gate", "up"))),
    )


def dino_hf(prefix: str) -> tuple[Rule, ...]:
    """DINOv2 of transformers, by the names on disk and by those of transformers 5 in memory."""
    block, layer = rf"{prefix}encoder\.layer\.(\d+)\.", r"dino.encoder.layer.\1."
    return (
        *rename(prefix, (r"(embeddings\..+|layernorm\..+)", r"dino.\1")),
        *rename(
            block,
            (rf"attention\.attention\.query{WB}", r"attention.q_proj.\2"),
            (rf"attention\.attention\.key{WB}", r"attention.k_proj.\2"),
            (rf"attention\.attention\.value{WB}", r"attention.v_proj.\2"),
            (rf"attention\.output\.dense{WB}", r"attention.o_proj.\2"),
            (rf"mlp\.weights_out{WB}", r"mlp.down_proj.\2"),
            (r"(layer_scale[12]\.lambda1)", r"\2"),
            (rf"(norm[12]|attention\.[qkvo]_proj|mlp\.\w+(?<!weights_in)){WB}", r"\2.\3"),
            into=layer,
        ),
        unstack(
            block + rf"mlp\.weights_in{WB}",
            *(rf"{layer}mlp.{x}_proj.\2" for x in ("gate", "up")),
        ),
    )


def grounding(prefix: str) -> tuple[Rule, ...]:
    """SAM and the [SEG] projection as GLaMM and its descendants name them."""
    return (
        *sam(prefix + r"grounding_encoder\."),
        *rename(prefix, (rf"text_hidden_fcs\.0\.([02]){WB}", r"segmentation_projection.\1.\2")),
    )
