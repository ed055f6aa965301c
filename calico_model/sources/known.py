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
KNOWN_SOURCES: Mapping[str, KnownSource] = {row.name: row for row in _ROWS}
