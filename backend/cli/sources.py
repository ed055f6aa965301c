"""The files of public repositories from which a model is assembled.

They are chosen by each repository's list of files and by the index of its shards, never by fixed
shard names. Only names and sizes are read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backend.errors import FetchError
from calico_model.loading.released.layouts import recognise
from calico_model.sources.known import KnownSource

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


_BESIDE_SOURCE = (
    *_BESIDE,
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "README.md",  # states the licence
    "LICENSE",
    "LICENSE.txt",
)


@dataclass(frozen=True)
class WeightSource:
    """One public repository and the parts that are taken from it.

    Attributes:
        repository: owner/name.
        gives: the parts in words, for the user.
        parts: children of `Calico` that come from it.
        has_text: whether its tokenizer is taken too.
        terms: known terms of its licence beyond those that the hub states.
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
    """The files to fetch from one repository.

    Attributes:
        files: names, weights first.
        parts: wanted parts that the files hold.
    """

    files: tuple[str, ...]
    parts: frozenset[str]


def index_of(files: Iterable[str]) -> str | None:
    """Returns the name of the shards' index, safetensors first; None for a single file."""
    names = set(files)
    if _WHOLE[0] in names:
        return None
    return next((index for index in INDICES if index in names), None)


def select(source: WeightSource, files: Iterable[str], index: str | None) -> Selection:
    """Chooses the files that hold wanted parts, and the small files beside them.

    Args:
        source: the repository and the wanted parts.
        files: all names in the repository.
        index: text of the file `index_of` named, or None.

    Raises:
        FetchError: the repository has no weights of a known form.
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


def select_source(source: KnownSource, files: Iterable[str], index: str | None) -> Selection:
    """Chooses the files of a source of masks: safetensors, and the small files beside them.

    Args:
        source: the wanted source.
        files: all names in its repository.
        index: text of the index of its shards, or None for a single file.

    Raises:
        FetchError: the repository has no safetensors.
    """
    names = set(files)
    beside = [name for name in _BESIDE_SOURCE if name in names]
    if _WHOLE[0] in names:
        return Selection((_WHOLE[0], *beside), frozenset())
    if index is None or INDICES[0] not in names:
        raise FetchError(f"{source.repository}: expected {_WHOLE[0]} or an index of its shards")
    shards = sorted(set(_weight_map(source.repository, index).values()))
    if missing := [shard for shard in shards if shard not in names]:
        raise FetchError(f"{source.repository}/{missing[0]}: named in {INDICES[0]}, but not there")
    return Selection((*shards, INDICES[0], *beside), frozenset())


def still_needed(source: WeightSource, given: frozenset[str]) -> bool:
    """Whether a repository adds a part that the earlier repositories do not give."""
    return not source.parts <= given


def _parts(keys: Iterable[str]) -> dict[str, frozenset[str]] | None:
    """Returns the children of `Calico` for each released tensor; None for unknown names."""
    names = tuple(keys)
    layout = recognise(names)
    if layout is None:
        return None
    targets = {key: layout.targets(key) or () for key in names}
    return {
        key: frozenset(target.name.partition(".")[0] for target in tensors)
        for key, tensors in targets.items()
    }


def _weight_map(repository: str, index: str) -> dict[str, str]:
    try:
        shard_of = json.loads(index)["weight_map"]
        return {str(key): str(name) for key, name in shard_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{repository}: the index of its shards cannot be read") from error
