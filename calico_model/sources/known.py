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
    SAM3 = "sam3"
    GROUNDING_DINO = "grounding_dino"
    OWLV2 = "owlv2"

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
        parameters: in millions.
        is_gated: whether its owners must grant access first.
    """

    name: str
    repository: str
    kind: SourceKind
    abilities: frozenset[Ability]
    licence: str
    parameters: float
    is_gated: bool = False


_PROMPTS = frozenset({Ability.CLICK, Ability.BOX})
_APACHE = "Apache-2.0"

_ROWS = (
    KnownSource("sam-base", "facebook/sam-vit-base", SourceKind.SAM, _PROMPTS, _APACHE, 93.7),
    KnownSource("sam-large", "facebook/sam-vit-large", SourceKind.SAM, _PROMPTS, _APACHE, 312.3),
    KnownSource("sam-huge", "facebook/sam-vit-huge", SourceKind.SAM, _PROMPTS, _APACHE, 641.1),
    KnownSource(
        "sam-hq-base",
        "syscv-community/sam-hq-vit-base",
        SourceKind.SAM_HQ,
        _PROMPTS,
        _APACHE,
        94.9,
    ),
    KnownSource(
        "sam-hq-large",
        "syscv-community/sam-hq-vit-large",
        SourceKind.SAM_HQ,
        _PROMPTS,
        _APACHE,
        313.7,
    ),
    KnownSource(
        "sam-hq-huge",
        "syscv-community/sam-hq-vit-huge",
        SourceKind.SAM_HQ,
        _PROMPTS,
        _APACHE,
        642.7,
    ),
)
_WORDS = frozenset({Ability.TEXT})
_EXEMPLARS = frozenset({Ability.TEXT, Ability.EXEMPLAR})
_SAM3_LICENCE = "SAM License of Meta: own terms, uses named in it are excluded"
_DINO, _OWL = SourceKind.GROUNDING_DINO, SourceKind.OWLV2

_NAMED_ROWS = (
    KnownSource(
        "sam3", "facebook/sam3", SourceKind.SAM3, _EXEMPLARS, _SAM3_LICENCE, 840.4, is_gated=True
    ),
    KnownSource(
        "sam3-litetext",
        "yonigozlan/sam3-litetext-s0",
        SourceKind.SAM3,
        _EXEMPLARS,
        _SAM3_LICENCE,
        548.1,
    ),
    KnownSource(
        "grounding-dino-tiny", "IDEA-Research/grounding-dino-tiny", _DINO, _WORDS, _APACHE, 172.3
    ),
    KnownSource(
        "grounding-dino-base", "IDEA-Research/grounding-dino-base", _DINO, _WORDS, _APACHE, 232.3
    ),
    KnownSource(
        "owlv2-base", "google/owlv2-base-patch16-ensemble", _OWL, _EXEMPLARS, _APACHE, 155.0
    ),
    KnownSource(
        "owlv2-large", "google/owlv2-large-patch14-ensemble", _OWL, _EXEMPLARS, _APACHE, 437.6
    ),
)
KNOWN_SOURCES: Mapping[str, KnownSource] = {row.name: row for row in (*_ROWS, *_NAMED_ROWS)}
