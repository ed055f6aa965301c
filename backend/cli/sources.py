"""Which files of which public repositories a model is put together from.

Decided from each repository's list of files and from the index of its shards, never from fixed
shard names. Knows names and sizes; opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backend.errors import FetchError
from calico_model.loading.released.layouts import recognise

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
# Small files beside the weights that loading or reading them needs.
_BESIDE = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class WeightSource:
    """One public repository and what is taken from it.

    Attributes:
        repository: owner/name.
        gives: in words, for people.
        parts: children of `Calico` that come from it.
        has_text: whether its tokenizer is taken too.
        terms: what its licence is known to ask for beyond what the hub states.
    """

    repository: str
    gives: str
    parts: frozenset[str]
    has_text: bool = False
    terms: str = ""


_SAM_PARTS = frozenset({"sam_encoder", "mask_decoder"})
_LLAMA_TERMS = "research only: LLaMA and Vicuna terms apply"
_PUBLIC_PARTS = (
    WeightSource(
        "MBZUAI/GLaMM-GranD-Pretrained",
        "LLM, mask decoder, [SEG] projection",
        frozenset({"language", "segmentation_projection"}) | _SAM_PARTS,
        has_text=True,
        terms=_LLAMA_TERMS,
    ),
    WeightSource(
        "Salesforce/instructblip-vicuna-7b",
        "EVA-CLIP, Q-Former, queries, image projection",
        frozenset({"eva", "qformer", "query_tokens", "image_projection"}),
        terms="research only: trained on CC BY-NC 4.0 data",
    ),
    WeightSource("facebook/dinov2-with-registers-base", "DINOv2", frozenset({"dino"})),
    WeightSource("facebook/sam-vit-huge", "SAM", _SAM_PARTS),
)
_RELEASE = (
    WeightSource(
        "PLAN-Lab/CALICO",
        "all parts, trained",
        frozenset({"language"}) | _SAM_PARTS,
        has_text=True,
        terms=_LLAMA_TERMS,
    ),
)
PRESETS: Mapping[str, tuple[WeightSource, ...]] = {"7b": _PUBLIC_PARTS}
RELEASES: Mapping[str, tuple[WeightSource, ...]] = {"calico": _RELEASE}


@dataclass(frozen=True)
class Selection:
    """What one repository is asked for.

    Attributes:
        files: names, weights first.
        parts: wanted parts it is known to give.
    """

    files: tuple[str, ...]
    parts: frozenset[str]


def index_of(files: Iterable[str]) -> str | None:
    """The index of a repository's shards, safetensors before pickles; None when it is one file."""
    names = set(files)
    if _WHOLE[0] in names:
        return None
    return next((index for index in INDICES if index in names), None)


def select(source: WeightSource, files: Iterable[str], index: str | None) -> Selection:
    """Chooses the files that hold wanted parts, and what belongs beside them.

    Args:
        source: what is wanted.
        files: all names in the repository.
        index: text of the file `index_of` named, or None.

    Raises:
        FetchError: the repository holds no weights of a known form.
    """
    names = set(files)
    beside = [name for name in _BESIDE if name in names and (source.has_text or name == _BESIDE[0])]
    if index is None:
        whole = next((name for name in _WHOLE if name in names), None)
        if whole is None:
            raise FetchError(f"{source.repository}: expected {_WHOLE[0]} or an index of shards")
        return Selection((whole, *beside), source.parts)
    shard_of = _weight_map(source.repository, index)
    listing = index_of(names)
    assert listing is not None
    parts_of = _parts(shard_of)
    if parts_of is None:
        raise FetchError(f"{source.repository}/{listing}: names of an unknown layout")
    is_release = source in _RELEASE
    wanted = {k: p for k, p in parts_of.items() if p and (is_release or p & source.parts)}
    shards = sorted({shard_of[key] for key in wanted})
    if missing := [shard for shard in shards if shard not in names]:
        raise FetchError(f"{source.repository}/{missing[0]}: named in {listing}, but not there")
    if not shards:
        raise FetchError(f"{source.repository}/{listing}: names none of {source.gives}")
    return Selection((*shards, listing, *beside), frozenset().union(*wanted.values()))


def still_needed(source: WeightSource, given: frozenset[str]) -> bool:
    """Whether a repository adds a part that those before it do not give."""
    return not source.parts <= given


def _parts(keys: Iterable[str]) -> dict[str, frozenset[str]] | None:
    """Children of `Calico` that each released tensor goes to; None if its names are unknown."""
    names = tuple(keys)
    layout = recognise(names)
    if layout is None:
        return None
    targets = {key: layout.targets(key) or () for key in names}
    return {
        key: frozenset(t.name.partition(".")[0] for t in found) for key, found in targets.items()
    }


def _weight_map(repository: str, index: str) -> dict[str, str]:
    try:
        shard_of = json.loads(index)["weight_map"]
        return {str(key): str(name) for key, name in shard_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{repository}: the index of its shards cannot be read") from error
