"""Configuration of the network's shape and its input frames; not of its deployment.

The presets are in presets.py. Knows nothing of files but how to read and write itself as JSON.
Sizes follow calico: paper sections 3.2-3.4; the 7B column reproduces the released parts.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, cast, get_args, get_origin, get_type_hints

from calico_model.errors import InvalidConfigError

QUERY_SOURCES = ("seg", "span")


@dataclass(frozen=True)
class TrunkConfig:
    """A convolutional trunk the three encoders of a small model share; stages at stride 2, 4, ...

    Attributes:
        widths: channels per stage; the last two stages feed the encoders.
        depths: residual blocks per stage.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (1, 2, 3, 3)


@dataclass(frozen=True)
class PhotoTrunkConfig:
    """A published, frozen network whose maps feed the heads that learn a project's own names.

    Attributes:
        kind: name in `modeling.photo_trunk.KINDS`, or `BACKBONE` and the hash of a backbone.
        side: P, a multiple of 32; every image is scaled to about P * P pixels, aspect kept.
        widths: channels of a backbone's four maps.
        folder: of a backbone's files, inside the model folder where it is relative.
    """

    BACKBONE: ClassVar[str] = "backbone:"

    kind: str = "efficientnet-lite2"
    side: int = 384
    widths: tuple[int, ...] = field(default=(), repr=False)  # the kind says what features depend on
    folder: str = field(default="", repr=False)

    @property
    def is_backbone(self) -> bool:
        """Whether it is a backbone of transformers instead of a shipped network."""
        return self.kind.startswith(self.BACKBONE)

    def __post_init__(self) -> None:
        if self.is_backbone and (len(self.widths) != 4 or not self.folder):
            raise InvalidConfigError(
                f"photo_trunk: expected four widths and a folder of the backbone, got "
                f"{self.widths} and {self.folder!r}"
            )
        if self.side < 32 or self.side % 32:
            raise InvalidConfigError(
                f"photo_trunk: side: expected a multiple of 32, got {self.side}"
            )


@dataclass(frozen=True)
class EncoderConfig:
    """A ViT. Sizes are in its own input frame (pixels, or cells when a trunk feeds it).

    Attributes:
        image_size: side of the square input the position table is made for.
        input_size: side actually fed; position table is interpolated when they differ.
        patch_size: side of one token.
        channels: input channels (3, or the trunk's width).
        width, layers, heads, mlp: transformer sizes.
        registers: DINOv2 register tokens, dropped from the output.
        gated: SwiGLU of 2/3 `mlp` instead of a GELU layer of `mlp`, as in DINOv2-g.
    """

    image_size: int
    input_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp: int
    channels: int = 3
    registers: int = 0
    gated: bool = False


@dataclass(frozen=True)
class QFormerConfig:
    """Q-Former over image tokens, query path only.

    Attributes:
        queries: learned queries per image = LLM rows per image (S_I).
        width, layers, heads, mlp: transformer sizes (D_I = width).
        cross_attention_every: a cross-attention in every n-th layer.
    """

    queries: int
    width: int
    layers: int
    heads: int
    mlp: int
    cross_attention_every: int = 2


@dataclass(frozen=True)
class MaskConfig:
    """SAM's image encoder and mask decoder.

    Attributes:
        encoder: its ViT; `image_size // patch_size` is the side of the embedding grid.
        window: side of local attention windows in tokens; 0 = global everywhere.
        global_layers: encoder layers with global attention.
        relative_positions: decomposed relative position bias in the encoder.
        prompt_width: D_D, width of prompts and image embedding.
        decoder_heads, decoder_mlp: two-way transformer sizes.
        high_resolution: add trunk features at 2x and 4x the grid to the decoder's upscaling.
    """

    encoder: EncoderConfig
    window: int
    global_layers: tuple[int, ...]
    relative_positions: bool
    prompt_width: int
    decoder_heads: int
    decoder_mlp: int
    high_resolution: bool = False


@dataclass(frozen=True)
class LanguageConfig:
    """Llama.

    Attributes:
        vocab_size: embedding rows, including tags and reserved label rows.
        width, layers, heads, mlp: transformer sizes (D = width, N = layers).
        max_positions: longest sequence.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp: int
    max_positions: int = 2048


@dataclass(frozen=True)
class AblationConfig:
    """The paper's component switches (table 2); all on is CALICO.

    Attributes:
        use_qformer: off = pooled image tokens through a linear layer; disables injection.
        use_dino: off = CEM passes the global tokens through.
        use_cem: off = CAMs inject the adapted last hidden state alone.
        use_cam_guidance: off = the queries of a CAM are not shifted by the prompt (q' = q).
        inject: off = no CAM anywhere.
        cem_residual: CEM adds its output to the global tokens instead of replacing them.
    """

    use_qformer: bool = True
    use_dino: bool = True
    use_cem: bool = True
    use_cam_guidance: bool = True
    inject: bool = True
    cem_residual: bool = True


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of the LLM; rank 0 leaves the LLM bare."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True)
class CalicoConfig:
    """The whole network.

    Attributes:
        name: shown in versions and reports.
        image_size: side in pixels of the square frame the trunk or SAM encoder sees (longest side
            scaled, zero padded right and bottom).
        trunk: shared stem of small models; None = three encoders on pixels.
        photo_trunk: frozen network of photographs under the dense head; None = no dense head.
        eva, dino, qformer, mask, language, lora, ablation: the parts.
        cams: how many context-aware modules; their layers follow `cam_layers`.
        cem_heads: attention heads of the correspondence extraction module.
        cem_norms: it normalises both inputs first.
        cem_projection: it maps semantic tokens to the global width before attention.
        system_prompt: first words of every conversation; may be empty.
        max_answer_tokens: greedy decoding stops here.
        empty_margin: nats by which "nothing in common" must win; 0 is plain greedy decoding. An
            annotator drops a wrong suggestion faster than drawing a missing one.
        asks_in_pairs: groups are asked about two images at a time and compared by name
            (inference/pairwise.py); False asks about the whole group at once, as the paper does.
        query_source: what prompts the mask decoder: "seg", the state before each [SEG]; or "span",
            the words of each phrase (modeling/span_head.py), for which the weights need a span
            head.
    """

    name: str
    image_size: int
    trunk: TrunkConfig | None
    eva: EncoderConfig
    dino: EncoderConfig
    qformer: QFormerConfig
    mask: MaskConfig
    language: LanguageConfig
    lora: LoraConfig = field(default_factory=LoraConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    cams: int = 2
    cem_heads: int = 16
    cem_norms: bool = True
    cem_projection: bool = False
    system_prompt: str = ""
    max_answer_tokens: int = 256
    photo_trunk: PhotoTrunkConfig | None = None
    empty_margin: float = 0.0
    asks_in_pairs: bool = False
    query_source: str = "seg"

    def __post_init__(self) -> None:
        for label, width, heads in (
            ("eva", self.eva.width, self.eva.heads),
            ("eva (cem_heads)", self.eva.width, self.cem_heads),
            ("dino", self.dino.width, self.dino.heads),
            ("qformer", self.qformer.width, self.qformer.heads),
            ("language", self.language.width, self.language.heads),
        ):
            if width < 1 or heads < 1 or width % heads:
                raise InvalidConfigError(
                    f"{label}: width {width} is not divisible by {heads} heads"
                )
        if self.query_source not in QUERY_SOURCES:
            raise InvalidConfigError(
                f"query_source: expected one of {', '.join(QUERY_SOURCES)}, "
                f"got {self.query_source!r}"
            )
        if not 0 <= self.cams < self.language.layers:
            raise InvalidConfigError(
                f"cams: expected 0 to {self.language.layers - 1}, got {self.cams}"
            )

    @property
    def cam_layers(self) -> tuple[int, ...]:
        """0-based LLM layers whose input a CAM changes: ceil(i*N/(k+1)) (paper 3.4, figure 8)."""
        n, k = self.language.layers, self.cams
        return tuple(math.ceil(i * n / (k + 1)) for i in range(1, k + 1))

    @property
    def mask_side(self) -> int:
        """Side of the decoder's low-resolution logits."""
        return 4 * self.mask.encoder.image_size // self.mask.encoder.patch_size

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads `to_json` output.

        Raises:
            InvalidConfigError: unreadable file, unknown or missing field; the message names it.
        """
        try:
            raw = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidConfigError(f"{path.name}: expected a JSON object: {error}") from error
        built: Self = _build(cls, raw, path.name)
        return built


def _build(cls: type[Any], raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise InvalidConfigError(f"{where}: expected an object, got {type(raw).__name__}")
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(raw) - known):
        raise InvalidConfigError(f"{where}: unknown field {unknown[0]!r}")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in raw.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidConfigError(f"{where}: {error}") from error


def _value(hint: Any, value: object, where: str) -> object:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in options:
        return None
    kind = options[0]
    if is_dataclass(kind):
        return _build(cast(type[Any], kind), value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InvalidConfigError(f"{where}: expected a list, got {value!r}")
        item = get_args(kind)[0]
        return tuple(_value(item, v, f"{where}[{k}]") for k, v in enumerate(value))
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InvalidConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value
