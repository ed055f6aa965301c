"""The table of sources: name, public repository, licence and size of each.

Repository, licence and parameters are as their owners state them; none was downloaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from calico_model.sources.source import Ability


class SourceKind(StrEnum):
    """The class of `transformers` that reads a source."""

    SAM = "sam"
    SAM_HQ = "sam_hq"
    SAM2 = "sam2"
    EDGETAM = "edgetam"
    SAM3_TRACKER = "sam3_tracker"
    SAM3 = "sam3"
    GROUNDING_DINO = "grounding_dino"
    OWLV2 = "owlv2"
    CASS = "cass"

    @property
    def is_detector(self) -> bool:
        """Whether it finds boxes, and another source must outline what is in them."""
        return self in (SourceKind.GROUNDING_DINO, SourceKind.OWLV2)


@dataclass(frozen=True)
class KnownSource:
    """A source with public weights.

    Attributes:
        name: of the source, in settings and commands.
        repository: owner/name on the hub.
        kind: which class reads it.
        abilities: what it can be asked.
        licence: of the weights, as their owners state it.
        parameters: in millions; of CLIP with those of DINO ViT-B/8.
        is_gated: whether its owners must grant access first.
        encode_tflop: arithmetic of encoding one image, in 10^12 operations, counted on the class
            in its public size; of Grounding DINO that of asking one name, for which it encodes the
            image each time; of CLIP with DINO ViT-B/8, on a square image.
        encoding_mib: memory of one encoded image in MiB; None where it depends on the image.
    """

    name: str
    repository: str
    kind: SourceKind
    abilities: frozenset[Ability]
    licence: str
    parameters: float
    is_gated: bool = False
    encode_tflop: float | None = None
    encoding_mib: float | None = None


_PROMPTS = frozenset({Ability.CLICK, Ability.BOX})
_SERIES = _PROMPTS | {Ability.SERIES}  # its memory is in the same folder
_APACHE = "Apache-2.0"

_SAM3_LICENCE = "SAM License of Meta: own terms, uses named in it are excluded"


def _row(
    name: str,
    repository: str,
    kind: SourceKind,
    parameters: float,
    cost: tuple[float, float],
    licence: str = _APACHE,
) -> KnownSource:
    is_gated = licence == _SAM3_LICENCE
    abilities = _SERIES if kind is SourceKind.SAM2 else _PROMPTS
    return KnownSource(name, repository, kind, abilities, licence, parameters, is_gated, *cost)


_ROWS = (
    _row("sam-base", "facebook/sam-vit-base", SourceKind.SAM, 93.7, (0.972, 4)),
    _row("sam-large", "facebook/sam-vit-large", SourceKind.SAM, 312.3, (2.986, 4)),
    _row("sam-huge", "facebook/sam-vit-huge", SourceKind.SAM, 641.1, (5.961, 4)),
    _row("sam-hq-base", "syscv-community/sam-hq-vit-base", SourceKind.SAM_HQ, 94.8, (0.972, 52)),
    _row("sam-hq-large", "syscv-community/sam-hq-vit-large", SourceKind.SAM_HQ, 313.7, (2.986, 68)),
    _row("sam-hq-huge", "syscv-community/sam-hq-vit-huge", SourceKind.SAM_HQ, 642.7, (5.961, 84)),
    _row("sam2-tiny", "facebook/sam2-hiera-tiny", SourceKind.SAM2, 31.4, (0.293, 16)),
    _row("sam2-small", "facebook/sam2-hiera-small", SourceKind.SAM2, 38.5, (0.36, 16)),
    _row("sam2-base", "facebook/sam2-hiera-base-plus", SourceKind.SAM2, 73.3, (0.648, 16)),
    _row("sam2-large", "facebook/sam2-hiera-large", SourceKind.SAM2, 216.9, (1.825, 16)),
    _row("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", SourceKind.SAM2, 31.4, (0.293, 16)),
    _row("sam2.1-small", "facebook/sam2.1-hiera-small", SourceKind.SAM2, 38.5, (0.36, 16)),
    _row("sam2.1-base", "facebook/sam2.1-hiera-base-plus", SourceKind.SAM2, 73.3, (0.648, 16)),
    _row("sam2.1-large", "facebook/sam2.1-hiera-large", SourceKind.SAM2, 216.9, (1.825, 16)),
    _row("edgetam", "yonigozlan/EdgeTAM-hf", SourceKind.EDGETAM, 9.1, (0.039, 16)),
    _row(
        "sam3-tracker",
        "facebook/sam3",
        SourceKind.SAM3_TRACKER,
        458.3,
        (5.615, 20.2),
        _SAM3_LICENCE,
    ),
)
_WORDS = frozenset({Ability.TEXT})
_EXEMPLARS = frozenset({Ability.TEXT, Ability.EXEMPLAR})
_DINO, _OWL = SourceKind.GROUNDING_DINO, SourceKind.OWLV2


def _detector(
    name: str, repository: str, kind: SourceKind, parameters: float, cost: tuple[float, float]
) -> KnownSource:
    abilities = _EXEMPLARS if kind is _OWL else _WORDS
    return KnownSource(name, repository, kind, abilities, _APACHE, parameters, False, *cost)


_NAMED_ROWS = (
    KnownSource(
        "sam3",
        "facebook/sam3",
        SourceKind.SAM3,
        _EXEMPLARS,
        _SAM3_LICENCE,
        840.4,
        is_gated=True,
        encode_tflop=5.613,
    ),
    KnownSource(
        "sam3-litetext",
        "yonigozlan/sam3-litetext-s0",
        SourceKind.SAM3,
        _EXEMPLARS,
        _SAM3_LICENCE,
        548.1,
        encode_tflop=5.613,
    ),
    _detector(
        "grounding-dino-tiny", "IDEA-Research/grounding-dino-tiny", _DINO, 172.3, (0.638, 16)
    ),
    _detector(
        "grounding-dino-base", "IDEA-Research/grounding-dino-base", _DINO, 232.3, (1.048, 16)
    ),
    _detector("owlv2-base", "google/owlv2-base-patch16-ensemble", _OWL, 155.0, (1.094, 10.6)),
    _detector("owlv2-large", "google/owlv2-large-patch14-ensemble", _OWL, 437.6, (5.781, 20.4)),
)
_CLIP_ROW = KnownSource(
    "clip-base",
    "openai/clip-vit-base-patch16",
    SourceKind.CASS,
    _WORDS,
    "MIT",
    149.6 + 85.8,
    encode_tflop=0.801,
)
KNOWN_SOURCES: Mapping[str, KnownSource] = {
    row.name: row for row in (*_ROWS, *_NAMED_ROWS, _CLIP_ROW)
}
