"""What the dense head sees in a group: names, where they are, and how sure it is.

Legend: L logit side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import RegionKind

_LEAST_SHARE = 3 / 64**2  # of an image's cells: fewer are noise
_SMALL_SHARE = 0.005  # of an image's cells: a thing of that size is half as certain
_LEAST_PAIRS, _USUAL_SHARE, _LEAST_PLAUSIBLE = 4, 0.2, 0.02


@dataclass(frozen=True, eq=False)
class Seen:
    """A name that the dense head gives to some cells of an image.

    Attributes:
        image: which of the group.
        label: one of the worn names.
        is_object: whether it is an object's or a part's.
        certainty: mean probability of these cells, in [0, 1].
        logits: (L, L), above zero where no other name is likelier.
    """

    image: int
    label: str
    is_object: bool
    certainty: float
    logits: Tensor


@dataclass(frozen=True, eq=False)
class DenseReading:
    """All of it.

    Attributes:
        seen: by image, objects first.
        parts, objects: names that would have been seen if they were there.
        trust: in all of it, in [0, 1].
    """

    seen: tuple[Seen, ...] = ()
    parts: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    trust: float = 1.0


@torch.inference_mode()
def read_dense(model: Calico, features: ImageFeatures) -> DenseReading:
    """Asks the dense head; an empty reading where the model has none, or none to trust."""
    head = model.dense_head
    if head is None or not head.trust:
        return DenseReading()
    names = head.names
    parts, objects = head.tell(features)
    if names.parts:
        parts[:, 1:] += _plausible(parts.softmax(1)[:, 1:], head.pairs.to(parts))[..., None, None]
    seen = (*_objects(objects, names.objects), *_parts(parts, names.parts))
    return DenseReading(seen, frozenset(names.parts), frozenset(names.objects), head.trust)


@torch.inference_mode()
def name_cells(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    shares: Tensor,
    kinds: Sequence[RegionKind | None],
) -> dict[str, Tensor]:
    """Asks the dense head what outlined regions are called.

    Args:
        model, features: as in `read_dense`.
        image: (R,) int64 which image each region is in.
        shares: (R, L, L) in [0, 1], share of each cell inside the region.
        kinds: what each is to its group, None where nobody said.

    Returns:
        Normal form of a name -> (R,) chance in [0, 1]; nothing where nothing can be told.
    """
    head = model.dense_head
    if head is None or not head.trust:
        return {}
    inside = shares / shares.sum((1, 2), keepdim=True).clamp(min=1e-6)
    is_object = torch.tensor([kind is RegionKind.COMMON_OBJECT for kind in kinds])
    is_open = torch.tensor([kind is None for kind in kinds])
    doubt = 1 + is_open.float()
    fits = (~is_object / doubt, (is_object | is_open) / doubt)
    found: dict[str, Tensor] = {}
    layers = zip(head.tell(features), (head.names.parts, head.names.objects), fits, strict=True)
    for logits, names, fit in layers:
        chance = torch.einsum("rnij,rij->rn", logits.softmax(1)[image], inside).cpu()
        for row, name in enumerate(names, start=1):
            found[name] = found.get(name, 0.0) + chance[:, row] * fit
    return found


def _objects(logits: Tensor, names: Sequence[str]) -> list[Seen]:
    """Reads (M, 1 + names, L, L) logits: all of a thing has the name that most of it has.

    What touches is one thing: cell by cell, a helicopter's tail may look like a crab's leg.
    """
    chance = logits.softmax(1)
    cells = chance[0, 0].numel()
    found: dict[tuple[int, int], Seen] = {}
    for image, own in enumerate(chance if names else ()):
        thing = -own[0].clamp(1e-6, 1 - 1e-6).logit()
        count, labels = cv2.connectedComponents((thing > 0).cpu().numpy().astype(np.uint8))
        places = torch.from_numpy(labels).to(own.device)
        for number in range(1, count):
            inside = places == number
            area = int(inside.sum())
            if area < _LEAST_SHARE * cells:
                continue
            named = own[1:, inside].sum(1)
            best = int(named.argmax())
            certainty = float(named[best] / named.sum()) * area / (area + _SMALL_SHARE * cells)
            mask = torch.where(inside, thing, thing.clamp(max=-1e-3))
            known = found.get((image, best))
            if known is not None:
                certainty = max(certainty, known.certainty)
                mask = torch.maximum(mask, known.logits)
            found[image, best] = Seen(image, names[best], True, certainty, mask)
    return list(found.values())


def _plausible(chance: Tensor, pairs: Tensor) -> Tensor:
    """How plausible every part is beside the others an image shows: (M, parts), at most 0.

    Args:
        chance: (M, parts, L, L) of every cell.
        pairs: (parts, parts), see `DenseHead.pairs`.
    """
    shown = chance.flatten(2).sum(-1)
    images = pairs.diagonal()
    often = pairs / (_USUAL_SHARE * images).clamp(min=1.0)  # of a part, where another is seen
    often[:, images < _LEAST_PAIRS] = 1.0  # too little is known of that other
    told = often.clamp(_LEAST_PLAUSIBLE, 1.0).log().fill_diagonal_(0.0)
    return shown @ told.T / shown.sum(1, keepdim=True).clamp(min=1e-6)


def _parts(logits: Tensor, names: Sequence[str]) -> list[Seen]:
    """Reads (M, 1 + names, L, L) logits: every cell has the name it is likeliest to have."""
    chance, best = logits.softmax(1), logits.argmax(1)
    least = _LEAST_SHARE * best[0].numel()
    found = []
    for image in range(len(logits)):
        for row, name in enumerate(names, start=1):
            inside = best[image] == row
            if inside.sum() < least:
                continue
            certainty = float(chance[image, row][inside].mean())
            others = logits[image].clone()
            others[row] = -torch.inf
            margin = logits[image, row] - others.amax(0)
            found.append(Seen(image, name, False, certainty, margin))
    return found
