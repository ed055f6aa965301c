"""The tensors of one released checkpoint under the names of Calico, grouped by part.

Knows one source at a time; plan.py chooses the source of each part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calico_model.errors import CheckpointError
from calico_model.loading.released.layouts import recognise
from calico_model.loading.released.naming import NamingScheme, TensorTarget
from calico_model.loading.released.shards import ReleasedTensors

LORA = "lora"


@dataclass(frozen=True)
class TensorPiece:
    """One released tensor, or a block of it, and the tensor of Calico that it fills."""

    source: ReleasedTensors
    key: str
    target: TensorTarget

    @property
    def where(self) -> str:
        """File and key, for messages."""
        return self.source.where(self.key)


Recipe = tuple[TensorPiece, ...]


def part_of(name: str) -> str:
    """Part of a canonical name: a child module of `Calico`, or `lora`."""
    return LORA if ".lora_" in name else name.split(".", 1)[0]


def recipe_shape(name: str, recipe: Recipe) -> tuple[int, ...]:
    """PaintedShape of the tensor that a recipe makes.

    Raises:
        CheckpointError: a stacked tensor that cannot be cut, or a damaged file.
    """
    piece = recipe[0]
    shape = piece.source.shape(piece.key)
    if piece.target.take is not None:
        blocks = piece.target.take[1]
        if not shape or shape[0] % blocks:
            raise CheckpointError(
                f"{piece.where}: expected {blocks} stacked blocks, got shape {shape}"
            )
        return (shape[0] // blocks, *shape[1:])
    if piece.target.slot is not None:
        return (shape[0] * piece.target.slot[1], *shape[1:])
    # The queries are released with a batch dimension of one.
    return shape[1:] if name == "query_tokens" and len(shape) == 3 else shape


@dataclass(frozen=True)
class Offer:
    """The parts that one source holds.

    Attributes:
        source: the released tensors.
        scheme: how they are named.
        parts: part -> canonical name -> recipe.
        cam_layers: LLM layers by which the release numbers its CAMs; None if it counts from 0.
        unexpected: file and key of names that the scheme does not know.
    """

    source: ReleasedTensors
    scheme: NamingScheme
    parts: Mapping[str, Mapping[str, Recipe]]
    cam_layers: tuple[int, ...] | None
    unexpected: tuple[str, ...]


def read_offer(source: ReleasedTensors) -> Offer | None:
    """Renames a source's tensors; None when its names are of no known scheme.

    Raises:
        CheckpointError: an unknown name in a part that is used, or one tensor twice.
    """
    scheme = recognise(source.keys)
    if scheme is None:
        return None
    pieces_of: dict[str, list[TensorPiece]] = defaultdict(list)
    unexpected: list[str] = []
    for key in source.keys:
        targets = scheme.targets(key)
        if targets is None:
            if scheme.claims_name(key):
                raise CheckpointError(
                    f"{source.where(key)}: unknown name in a part of {scheme.title} that is used"
                )
            unexpected.append(source.where(key))
        for target in targets or ():
            pieces_of[target.name].append(TensorPiece(source, key, target))
    recipes = {name: _settle(pieces) for name, pieces in pieces_of.items()}
    recipes, cam_layers = _number_cams(recipes)
    parts: dict[str, dict[str, Recipe]] = defaultdict(dict)
    for name, recipe in recipes.items():
        parts[part_of(name)][name] = recipe
    return Offer(source, scheme, parts, cam_layers, tuple(unexpected))


def _settle(pieces: Sequence[TensorPiece]) -> Recipe:
    """Checks the pieces of one tensor: one whole, or distinct blocks; drops second copies."""
    originals = [p for p in pieces if not p.target.is_copy] or list(pieces[:1])
    slots = [p.target.slot for p in originals]
    if len(set(slots)) < len(slots) or (len(originals) > 1 and None in slots):
        raise CheckpointError(f"{originals[0].where}: the same tensor as {originals[1].key}")
    return tuple(originals)


def _number_cams(recipes: dict[str, Recipe]) -> tuple[dict[str, Recipe], tuple[int, ...] | None]:
    """Renumbers CAMs from 0 where a release numbers them by their LLM layer."""
    layers = sorted({int(n.split(".")[1]) for n in recipes if n.startswith("cams.")})
    if layers == list(range(len(layers))):
        return recipes, None
    place = {str(layer): str(k) for k, layer in enumerate(layers)}
    renamed = {
        re.sub(r"^cams\.(\d+)", lambda m: f"cams.{place[m[1]]}", name): recipe
        for name, recipe in recipes.items()
    }
    return renamed, tuple(layers)
