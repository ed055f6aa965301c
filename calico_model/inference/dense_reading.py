"""What the dense head sees in a group: names, where they are, and how sure it is.

Legend: M images, L logit side of the dense head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.inference.images import whole_shares, whole_to_padded
from calico_model.inference.sharpening import Guide
from calico_model.modeling.dense_head import DenseHead, pooled
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, RegionKind, RgbImage

_LEAST_SHARE = 6 / 96**2  # of an image's cells: fewer are noise
_SMALL_SHARE = 0.005  # of an image's cells: a thing of that size is half as certain
_LEAST_PAIRS, _USUAL_SHARE, _LEAST_PLAUSIBLE = 4, 0.2, 0.02
_SHARPNESS = 8.0
"""Of the object classifier: scores times this are log chances."""


_PART_ODDS, _OBJECT_ODDS = (1.97, 0.55, 0.48, -5.9), (1.12, 1.5, 0.63, -7.07)
"""Log odds that a region is right, with its name and an IoU of 0.5 or more: weights of the log odds
of its overlap, of those of its certainty and of the log of the images learned from, and a shift.
Fitted on what heads that learned for 30 s said of six sets of photographs after 5 and after 20
corrected pairs, every set alike; `DenseRows.shift` holds what differs for others."""
_USUAL_IMAGES = 20  # learned from, where no part tells how many
LEAST_SHOWN = 0.35
"""Chance of being right from which a region is shown on pictures the weights know nothing of."""


def odds_right(certainty: float, overlap: float, images: int, *, is_object: bool) -> float:
    """Returns the log odds that what the dense head sees is right, before the version's shift.

    Args:
        certainty, overlap: see `Seen`.
        images: that the head has learned from.
        is_object: whether it is an object or a part.
    """
    by_overlap, by_certainty, by_images, shift = _OBJECT_ODDS if is_object else _PART_ODDS
    odds = by_overlap * log_odds(overlap) + by_certainty * log_odds(certainty)
    return odds + by_images * math.log(max(1, images)) + shift


def log_odds(chance: float) -> float:
    """Log odds of a chance in [0, 1], bounded."""
    kept = min(max(chance, 1e-3), 0.995)
    return math.log(kept / (1 - kept))


@dataclass(frozen=True, eq=False)
class Seen:
    """A name that the dense head gives to some cells of an image.

    Attributes:
        image: which of the group.
        label: one of the names that are worn.
        is_object: whether it is an object's or a part's.
        certainty: mean probability of these cells, in [0, 1].
        overlap: expected IoU of its cells with the truth, in [0, 1], by the chance of every cell.
        logits: (2L, 2L) in the padded square frame, above zero where no other name is likelier.
        chance: (L, L) of each cell of the whole image to be of it.
        right: chance in [0, 1] that an annotator would take it, see `odds_right`.
        mask: (H, W) bool sharpened on the pixels of the image, None where nobody gave them.
    """

    image: int
    label: str
    is_object: bool
    certainty: float
    overlap: float
    logits: Tensor
    chance: Tensor
    right: float = 0.0
    mask: BoolMask | None = None


@dataclass(frozen=True, eq=False)
class DenseReading:
    """Detections of the dense head for one image group.

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
def read_dense(
    model: Calico,
    features: ImageFeatures,
    sizes_hw: Sequence[tuple[int, int]],
    images: Sequence[RgbImage] | None = None,
) -> DenseReading:
    """Asks the dense head; an empty reading where the model has none, or none to trust.

    Args:
        model: wearing an adapter or none.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        images: their pixels, to sharpen masks on; None sharpens nothing.
    """
    head = model.dense_head
    if head is None or not head.active.trust or not features.photo:
        return DenseReading()
    names = head.active.names
    parts, objects = head.class_logits(features)
    if names.parts:
        pairs = head.active.pairs.to(parts)
        parts[:, 1:] += _plausible(parts.softmax(1)[:, 1:], pairs)[..., None, None]
    seen: tuple[Seen, ...] = (
        *_objects(head, features, objects, sizes_hw),
        *_parts(parts, names.parts, sizes_hw),
    )
    learned = images_learned(head)
    seen = tuple(replace(one, right=_chance(one, learned, head.active.shift)) for one in seen)
    if images is not None:
        seen = _sharpened(seen, parts.softmax(1)[:, 0], images)
    return DenseReading(seen, frozenset(names.parts), frozenset(names.objects), head.active.trust)


def images_learned(head: DenseHead) -> int:
    """How many corrected images taught the head what it wears."""
    pairs = head.active.pairs
    return int(pairs.diagonal().max()) if len(pairs) else _USUAL_IMAGES


def _chance(seen: Seen, images: int, shift: tuple[float, float]) -> float:
    odds = odds_right(seen.certainty, seen.overlap, images, is_object=seen.is_object)
    return 1 / (1 + math.exp(-odds - shift[seen.is_object]))


def _sharpened(
    seen: Sequence[Seen], nothing: Tensor, images: Sequence[RgbImage]
) -> tuple[Seen, ...]:
    """Draws the masks of what was seen on the pixels of the images.

    Args:
        seen: in a group.
        nothing: (M, L, L) chance that a cell is of no part.
        images: (H, W, 3) uint8 each.
    """
    masks: dict[int, BoolMask] = {}
    for image in sorted({one.image for one in seen}):
        guide = Guide(images[image])
        for one in seen:
            if one.image == image and one.is_object:
                masks[id(one)] = guide.mask(guide.sharpen(one.chance[None])[0] - 0.5)
        parts = [one for one in seen if one.image == image and not one.is_object]
        chances = guide.sharpen(torch.stack([nothing[image], *(one.chance for one in parts)]))
        for place, one in enumerate(parts, start=1):
            others = torch.cat((chances[:place], chances[place + 1 :])).amax(0)
            masks[id(one)] = guide.mask(chances[place] - others)
    return tuple(replace(one, mask=masks[id(one)]) for one in seen)


@torch.inference_mode()
def part_at(
    model: Calico, features: ImageFeatures, size_hw: tuple[int, int], row: int, column: int
) -> BoolMask | None:
    """Asks the dense head which part a pixel is of.

    Args:
        model: wearing an adapter or none.
        features: of one image.
        size_hw: its height and width in pixels.
        row, column: of the pixel.

    Returns:
        (H, W) bool, what touches the pixel and has its name; None where it is of no known part.
    """
    head = model.dense_head
    if head is None or not head.active.trust or not features.photo or not head.active.names.parts:
        return None
    logits = head.class_logits(features)[0][0]
    height, width = size_hw
    cells = logits.shape[-1]
    at = min(row * cells // height, cells - 1), min(column * cells // width, cells - 1)
    best = int(logits[:, at[0], at[1]].argmax())
    if best == 0:
        return None
    others = logits.clone()
    others[best] = -torch.inf
    margin = (logits[best] - others.amax(0)).cpu().numpy()
    level = cv2.resize(margin, (width, height), interpolation=cv2.INTER_LINEAR)
    _, pieces = cv2.connectedComponents((np.asarray(level) > 0).astype(np.uint8))
    piece = int(pieces[min(row, height - 1), min(column, width - 1)])
    return np.asarray(pieces == piece) if piece else None


@torch.inference_mode()
def name_cells(
    model: Calico,
    features: ImageFeatures,
    image: Sequence[int],
    masks: Sequence[BoolMask],
    kinds: Sequence[RegionKind | None],
) -> dict[str, Tensor]:
    """Asks the dense head what outlined regions are called.

    Args:
        model, features: as in `read_dense`.
        image: which image each of R regions is in.
        masks: (H, W) bool of each, in its image.
        kinds: what each is to its group, None where nobody said.

    Returns:
        Normal form of a name -> (R,) chance in [0, 1]; nothing where nothing can be told.
    """
    head = model.dense_head
    if head is None or not head.active.trust or not features.photo:
        return {}
    told = head.class_logits(features)
    cells = told[0].shape[-1]
    shares = torch.stack([whole_shares(mask, cells) for mask in masks]).to(told[0])
    inside = shares / shares.sum((1, 2), keepdim=True).clamp(min=1e-6)
    is_object = torch.tensor([kind is RegionKind.COMMON_OBJECT for kind in kinds])
    is_open = torch.tensor([kind is None for kind in kinds])
    doubt = 1 + is_open.float()
    fits = (~is_object / doubt, (is_object | is_open) / doubt)
    found: dict[str, Tensor] = {}
    layers = zip(told, (head.active.names.parts, head.active.names.objects), fits, strict=True)
    for logits, names, fit in layers:
        chance = torch.einsum("rnij,rij->rn", logits.softmax(1)[list(image)], inside).cpu()
        for row, name in enumerate(names, start=1):
            found[name] = found.get(name, 0.0) + chance[:, row] * fit
    return found


@dataclass(frozen=True, eq=False)
class _Thing:
    """What touches in one image and is of some object: cell by cell it may look like several."""

    image: int
    inside: Tensor  # (L, L) bool
    cells: Tensor  # (objects,) log mean chance of its cells
    classified: Tensor  # (objects,) log chance of the whole


def _objects(
    head: DenseHead,
    features: ImageFeatures,
    logits: Tensor,
    sizes_hw: Sequence[tuple[int, int]],
) -> list[Seen]:
    """Reads (M, 1 + names, L, L) logits: all of a thing has one name.

    The whole thing and the images beside it say which: what is compared is mostly of one kind.
    """
    names = head.active.names.objects
    if not names:
        return []
    things = [
        _Thing(image, inside, *_naming(head, features, image, own, inside))
        for image, own in enumerate(logits)
        for inside in _touching(torch.logsumexp(own[1:], 0) > own[0])
    ]
    found: dict[tuple[int, int], Seen] = {}
    together = _together(things, len(logits), len(names))
    for thing in things:
        own = logits[thing.image]
        level = torch.logsumexp(own[1:], 0) - own[0]
        area = int(thing.inside.sum())
        chance = (thing.cells + thing.classified + together.to(own)).softmax(0)
        best = int(chance.argmax())
        certainty = float(chance[best] * level[thing.inside].sigmoid().mean())
        certainty *= area / (area + _SMALL_SHARE * thing.inside.numel())
        alone = torch.where(thing.inside, level, level.clamp(max=-1e-3))
        mask = whole_to_padded(alone, sizes_hw[thing.image])
        known = found.get((thing.image, best))
        if known is not None:
            certainty = max(certainty, known.certainty)
            mask = torch.maximum(mask, known.logits)
        shown = level.sigmoid() * thing.inside
        if known is not None:
            shown = torch.maximum(shown, known.chance)
        overlap = expected_overlap(level.sigmoid(), shown > 0.5)
        found[thing.image, best] = Seen(
            thing.image, names[best], True, certainty, overlap, mask, shown
        )
    return list(found.values())


def expected_overlap(chance: Tensor, inside: Tensor) -> float:
    """Expected IoU of some cells with the truth: sure cells inside, doubtful ones on either side.

    Args:
        chance: (L, L) of each cell to be of it.
        inside: (L, L) bool.
    """
    shared = float(chance[inside].sum())
    return shared / max(1e-6, float(inside.sum()) + float(chance[~inside].sum()))


def _touching(inside: Tensor) -> list[Tensor]:
    """The connected parts of (L, L) bool cells that are large enough."""
    count, labels = cv2.connectedComponents(inside.cpu().numpy().astype(np.uint8))
    places = torch.from_numpy(labels).to(inside.device)
    parts = [places == number for number in range(1, count)]
    return [one for one in parts if int(one.sum()) >= _LEAST_SHARE * inside.numel()]


def _naming(
    head: DenseHead, features: ImageFeatures, image: int, logits: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    """(objects,) log chances of a thing's names: by its cells, and by the whole of it."""
    cells = logits[1:].softmax(0)[:, inside].mean(1).clamp(min=1e-6).log()
    classifier = head.active.classifier
    if classifier is None:
        return cells, torch.zeros_like(cells)
    vector = pooled(features.photo[-1][image : image + 1], inside[None]).cpu()
    scores = classifier.scores(vector)[0].to(cells)
    return cells, (_SHARPNESS * scores).log_softmax(0)


def _together(things: Sequence[_Thing], images: int, names: int) -> Tensor:
    """(objects,) how well each name fits something in every image: mean log chance."""
    found = torch.zeros(names)
    for image in range(images):
        here = [one.classified.cpu() for one in things if one.image == image]
        if here:
            found += torch.stack(here).amax(0) / images
    return found


def _plausible(chance: Tensor, pairs: Tensor) -> Tensor:
    """How plausible every part is beside the others an image shows: (M, parts), at most 0.

    Args:
        chance: (M, parts, L, L) of every cell.
        pairs: (parts, parts), see `DenseRows.pairs`.
    """
    shown = chance.flatten(2).sum(-1)
    images = pairs.diagonal()
    often = pairs / (_USUAL_SHARE * images).clamp(min=1.0)  # of a part, where another is seen
    often[:, images < _LEAST_PAIRS] = 1.0  # too little is known of that other
    told = often.clamp(_LEAST_PLAUSIBLE, 1.0).log().fill_diagonal_(0.0)
    return shown @ told.T / shown.sum(1, keepdim=True).clamp(min=1e-6)


def _parts(logits: Tensor, names: Sequence[str], sizes_hw: Sequence[tuple[int, int]]) -> list[Seen]:
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
            mask = whole_to_padded(margin, sizes_hw[image])
            overlap = expected_overlap(chance[image, row], inside)
            found.append(Seen(image, name, False, certainty, overlap, mask, chance[image, row]))
    return found
