"""The released checkpoints CALICO can be put together from, by their names.

Knows names. Does not know files or shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from calico_model.loading.released.naming import (
    LLAMA_CLAIMS,
    LLAMA_RULES,
    PEFT,
    WB,
    NamingScheme,
    Rule,
    TensorTarget,
    dino_hf,
    dino_hub,
    drop,
    eva,
    grounding,
    qformer,
    rename,
    sam,
)

_MODEL = PEFT + r"model\."
_CEM = _MODEL + r"extraction_layer\."

CALICO = NamingScheme(
    title="PLAN-Lab/CALICO",
    signature=(_MODEL + r"(?:extraction_layer|adaptive_layers|visual_encoder)\.",),
    rules=(
        *LLAMA_RULES,
        *eva(_MODEL),
        *qformer(_MODEL + r"Qformer\.bert\.", "LayerNorm", "self"),
        *dino_hub(_MODEL + r"dino_model\."),
        *dino_hf(_MODEL + r"dino_model\."),
        *grounding(_MODEL),
        *rename(
            _MODEL,
            (r"query_tokens", "query_tokens"),
            (rf"mm_projector(?:\.0)?{WB}", r"image_projection.\1"),
            (rf"adaptive_layers\.(\d+){WB}", r"cams.\1.adaptation.\2"),
            (rf"reintegration_layers\.(\d+){WB}", r"cams.\1.reintegration.\2"),
        ),
        # The paper does not describe the inside of this module; these are the likely forms.
        *rename(
            _CEM,
            (r"(?:\w+\.)*(in_proj_(?:weight|bias)|[qkv]_proj_weight)", r"attention.\1"),
            (rf"(?:\w+\.)*out_proj{WB}", r"attention.out_proj.\1"),
            (rf"(?:query_norm|norm_q|norm1){WB}", r"query_norm.\1"),
            (rf"(?:semantic_norm|norm_kv|norm2){WB}", r"semantic_norm.\1"),
            (rf"(?:\w*proj\w*|linear)(?<!out_proj){WB}", r"projection.\1"),
            into="cem.",
        ),
        *drop(
            _MODEL + r"(?:vision_tower|region_encoder)\..+",
            _MODEL + r"Qformer\.cls\..+",
        ),
    ),
    claims=rf"{LLAMA_CLAIMS}|{_MODEL}(?:visual_encoder|ln_vision|Qformer|query_tokens|"
    r"mm_projector|dino_model|adaptive_layers|reintegration_layers|extraction_layer|"
    r"grounding_encoder|text_hidden_fcs)\b",
)

LAVIS = NamingScheme(
    title="InstructBLIP of LAVIS",
    signature=(r"visual_encoder\.blocks\.", r"Qformer\.bert\."),
    rules=(
        *eva(""),
        *qformer(r"Qformer\.bert\.", "LayerNorm", "self"),
        *rename(
            "",
            (r"query_tokens", "query_tokens"),
            (rf"llm_proj{WB}", r"image_projection.\1"),
        ),
        *drop(r"Qformer\.cls\..+", r"llm_model\..+"),
    ),
    claims=r"visual_encoder|ln_vision|Qformer|query_tokens|llm_proj",
)

GLAMM = NamingScheme(
    title="GLaMM",
    signature=(_MODEL + r"grounding_encoder\.",),
    rules=(
        *LLAMA_RULES,
        *grounding(_MODEL),
        *drop(_MODEL + r"(?:vision_tower|mm_projector|region_encoder)\..+"),
    ),
    claims=rf"{LLAMA_CLAIMS}|{_MODEL}(?:grounding_encoder|text_hidden_fcs)\b",
)

_BLIP = r"(?:model\.)?"
INSTRUCTBLIP = NamingScheme(
    title="InstructBLIP",
    signature=(_BLIP + r"qformer\.encoder\.", _BLIP + r"vision_model\.encoder\."),
    rules=(
        *rename(
            _BLIP,
            (r"vision_model\.(.+)", r"eva.\1"),
            (r"query_tokens", "query_tokens"),
            (rf"language_projection{WB}", r"image_projection.\1"),
        ),
        *qformer(_BLIP + r"qformer\.", "layernorm", "attention"),
        *drop(_BLIP + r"language_model\..+", r"lm_head\.weight"),
    ),
    claims=_BLIP + r"(?:vision_model|qformer|query_tokens|language_projection)\b",
)

DINO_HF = NamingScheme(
    title="DINOv2 with registers",
    signature=(r"(?:dinov2_with_registers\.)?embeddings\.register_tokens",),
    rules=(
        *dino_hf(r"(?:dinov2_with_registers\.)?"),
        *drop(r"classifier\..+"),
    ),
    claims="",
)

DINO_HUB = NamingScheme(
    title="DINOv2 with registers, from its repository",
    signature=(r"register_tokens$", r"blocks\."),
    rules=dino_hub(""),
    claims="",
)

SAM = NamingScheme(
    title="SAM",
    signature=(r"image_encoder\.", r"mask_decoder\."),
    rules=sam(""),
    claims="",
)

_GAUSSIAN = "mask_decoder.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_DECODER = "mask_decoder.mask_decoder."
SAM_HF = NamingScheme(
    title="SAM of transformers",
    signature=(r"vision_encoder\.", r"mask_decoder\."),
    rules=(
        Rule(
            re.compile(r"shared_image_embedding\.positional_embedding"), (TensorTarget(_GAUSSIAN),)
        ),
        Rule(
            re.compile(r"prompt_encoder\.shared_embedding\.positional_embedding"),
            (TensorTarget(_GAUSSIAN, is_copy=True),),
        ),
        *rename(
            r"vision_encoder\.",
            (r"pos_embed", "pos_embed"),
            (rf"patch_embed\.projection{WB}", r"patch_embed.proj.\1"),
            (rf"layers\.(\d+)\.layer_norm([12]){WB}", r"blocks.\1.norm\2.\3"),
            (r"layers\.(\d+)\.((?:attn|mlp)\..+)", r"blocks.\1.\2"),
            (r"neck\.conv1\.weight", "neck.0.weight"),
            (rf"neck\.layer_norm1{WB}", r"neck.1.\1"),
            (r"neck\.conv2\.weight", "neck.2.weight"),
            (rf"neck\.layer_norm2{WB}", r"neck.3.\1"),
            into="sam_encoder.",
        ),
        *rename(
            r"prompt_encoder\.",
            (r"((?:no_mask|not_a_point)_embed\.weight)", r"\1"),
            (r"point_embed\.(\d)\.weight", r"point_embeddings.\1.weight"),
            (rf"mask_embed\.conv1{WB}", r"mask_downscaling.0.\1"),
            (rf"mask_embed\.layer_norm1{WB}", r"mask_downscaling.1.\1"),
            (rf"mask_embed\.conv2{WB}", r"mask_downscaling.3.\1"),
            (rf"mask_embed\.layer_norm2{WB}", r"mask_downscaling.4.\1"),
            (rf"mask_embed\.conv3{WB}", r"mask_downscaling.6.\1"),
            into="mask_decoder.prompt_encoder.",
        ),
        *rename(
            r"mask_decoder\.",
            (r"((?:iou_token|mask_tokens)\.weight)", r"\1"),
            (rf"upscale_conv1{WB}", r"output_upscaling.0.\1"),
            (rf"upscale_layer_norm{WB}", r"output_upscaling.1.\1"),
            (rf"upscale_conv2{WB}", r"output_upscaling.3.\1"),
            (rf"transformer\.layer_norm_final_attn{WB}", r"transformer.norm_final_attn.\1"),
            (
                rf"transformer\.layers\.(\d+)\.layer_norm([1-4]){WB}",
                r"transformer.layers.\1.norm\2.\3",
            ),
            (r"(transformer\..+)", r"\1"),
            # Heads of three layers: the outer two have names of their own.
            (
                rf"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_in{WB}",
                r"\1.layers.0.\2",
            ),
            (
                rf"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0{WB}",
                r"\1.layers.1.\2",
            ),
            (
                rf"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_out{WB}",
                r"\1.layers.2.\2",
            ),
            into=_DECODER,
        ),
    ),
    claims="",
)

LLAMA = NamingScheme(
    title="Vicuna",
    signature=(PEFT + r"model\.layers\.\d+\.",),
    rules=LLAMA_RULES,
    claims=LLAMA_CLAIMS,
)

# If two sources offer a part, the earlier scheme wins; so it does if names match two schemes.
# GLaMM's mask decoder is trained for [SEG] prompts, SAM's own is not.
NAMING_SCHEMES = (CALICO, GLAMM, INSTRUCTBLIP, LAVIS, DINO_HF, DINO_HUB, SAM, SAM_HF, LLAMA)


def recognise(keys: Iterable[str]) -> NamingScheme | None:
    """Returns the naming scheme of these names, or None."""
    names = tuple(keys)
    return next((scheme for scheme in NAMING_SCHEMES if scheme.recognises(names)), None)
