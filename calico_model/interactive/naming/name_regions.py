"""Which label of a closed set a region is: classifiers, fused, or "unsure".

V1, the language model at the places of its own answers (label_trie.py). V2, prototypes of what the
project's annotators accepted (prototypes.py). The head of the weights, where they have one, knows
what training named (modeling/region_head.py). The dense head, where an adapter has its rows, says
what the region's cells are called (dense_detection.py). A classifier that knows nothing is uniform
and changes nothing; nothing outside the set can come out. A region that is none of the set gets no
label (rejection.py).
Legend: R regions, C labels, S slots, L logit side, d width of a descriptor, D the LLM's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calico_model.data.catalogue import TRAINED_CATEGORIES, parts_of
from calico_model.errors import InvalidMaskError
from calico_model.inference.dense_detection import chances_of_names
from calico_model.inference.images import mask_shares
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline, fuse
from calico_model.interactive.naming.label_trie import Slot, build_trie, find_slots, score_slots
from calico_model.interactive.naming.rejection import SetEvidence, chance_inside
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.label_rows import name_tokens
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import RegionHead, describe_regions
from calico_model.tokenizer import Tokenizer
from calico_model.types import GroupPrediction, RegionKind
from calico_model.vocabulary import Vocabulary, identity, match

Chances = NDArray[np.float64]

_UNSAID = 0.2  # chance that the answer does not speak of a region
_LEAST_TOLD = 0.01  # chance of a name that cells seem to rule out


@torch.inference_mode()
def name_regions(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    outlines: Sequence[Outline],
    closed: ClosedSet,
    group_prediction: GroupPrediction | None = None,
) -> tuple[Named, ...]:
    """Names regions of a group.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the group's images.
        outlines: R regions.
        closed: what they may be called.
        group_prediction: what the same weights predicted for the group; None leaves the language
            model out,
            which then costs nothing.

    Raises:
        InvalidMaskError: an empty mask.
    """
    if not outlines:
        return ()
    count = len(closed.vocabulary.labels)
    image, shares = _frames(model, outlines)
    blocks = describe_regions(features, image, shares)
    head = read_head(model, tokenizer, blocks, closed.vocabulary)
    looks = unit_rows(blocks, model.region_head).cpu().numpy()
    told = np.full((len(outlines), count), -math.log(count))
    slots = () if group_prediction is None else find_slots(group_prediction)
    picks = [pick_slots(slots, one) for one in outlines]
    if asked := sorted({n for places in picks for n in places}):
        trie = build_trie(closed.vocabulary, tokenizer)
        rows = score_slots(model, tokenizer, features, [slots[n] for n in asked], trie)
        told = _spread(rows, [[asked.index(n) for n in places] for places in picks])
    remembered = closed.accepted.log_chances(
        looks,
        [identity(label) for label in closed.vocabulary.labels],
        temperature=closed.weights.temperature,
        familiar=closed.weights.familiar,
    )
    seen = chances_of_names(
        model,
        features,
        [one.image_index for one in outlines],
        [one.mask for one in outlines],
        [one.kind for one in outlines],
    )
    cells = None
    if seen and model.dense_head is not None:
        cells = model.dense_head.active.trust * _told_by(seen, closed.vocabulary, len(outlines))
    same = [one.same for one in outlines]
    inside = None
    if closed.rejects:
        evidence = _set_evidence(model, tokenizer, blocks, outlines, closed, looks, seen)
        inside = chance_inside(closed, evidence, same)
    return fuse(closed, head.double().numpy(), remembered, told, cells, same=same, inside=inside)


def _set_evidence(
    model: Calico,
    tokenizer: Tokenizer,
    blocks: list[Tensor],
    outlines: Sequence[Outline],
    closed: ClosedSet,
    looks: NDArray[np.float32],
    seen: Mapping[str, Tensor],
) -> SetEvidence:
    vocabulary, own_word = closed.vocabulary, np.zeros(len(outlines))
    for row, one in enumerate(outlines):
        if one.predicted_label:
            own_word[row] = 1.0 if match(one.predicted_label, vocabulary) is not None else -1.0
    odds, known = _head_odds(model, tokenizer, blocks, vocabulary)
    cells = None
    if seen:
        names = {name for label in vocabulary.labels for name in vocabulary.spellings(label)}
        called = [chances.numpy() for name, chances in seen.items() if name in names]
        cells = np.sum(called, axis=0) if called else np.zeros(len(outlines))
        cells *= [2.0 if one.kind is None else 1.0 for one in outlines]  # either kind has half
    return SetEvidence(
        own_word,
        odds,
        known,
        closed.accepted.likeness(looks, [identity(label) for label in vocabulary.labels]),
        cells,
        0.0 if model.dense_head is None else model.dense_head.active.trust,
        np.array([one.kind is RegionKind.COMMON_OBJECT for one in outlines]),
    )


def _head_odds(
    model: Calico, tokenizer: Tokenizer, blocks: list[Tensor], vocabulary: Vocabulary
) -> tuple[Chances, float]:
    """(R,) log odds of the set's words beside all others of training; share of it that is known."""
    nothing = np.zeros(len(blocks[0]))
    head: RegionHead | None = model.region_head
    if head is None:
        return nothing, 0.0
    own, owners = known_words(model, tokenizer, vocabulary)
    others = [name for name in _trained_names() if vocabulary.find(name) is None]
    rest, _ = known_words(model, tokenizer, Vocabulary(tuple(others)))
    if not len(owners) or not len(rest):
        return nothing, 0.0
    logits = head(head.standardise(blocks), torch.cat((own, rest))).double()
    odds = logits[:, : len(owners)].logsumexp(1) - logits[:, len(owners) :].logsumexp(1)
    return odds.cpu().numpy(), len(set(owners)) / len(vocabulary.labels)


@lru_cache(maxsize=1)
def _trained_names() -> tuple[str, ...]:
    """What the head was fitted on: drawn categories and their parts."""
    parts = (part for name in TRAINED_CATEGORIES for part in parts_of(name))
    return tuple(sorted({*TRAINED_CATEGORIES, *parts}))


def _told_by(cells: Mapping[str, Tensor], vocabulary: Vocabulary, regions: int) -> Chances:
    """(R, C) log chances of what the dense head says; what it does not know shares the rest."""
    chances = np.zeros((regions, len(vocabulary.labels)))
    unknown = []
    for column, label in enumerate(vocabulary.labels):
        known = [cells[name].numpy() for name in vocabulary.spellings(label) if name in cells]
        if known:
            chances[:, column] = np.sum(known, axis=0)
        else:
            unknown.append(column)
    rest = np.clip(1 - chances.sum(1, keepdims=True), _UNSAID, None)
    chances[:, unknown] = rest / max(1, len(unknown))
    chances = np.clip(chances, _LEAST_TOLD, None)
    told: Chances = np.log(chances / chances.sum(1, keepdims=True))
    return told


@torch.inference_mode()
def describe_outlines(
    model: Calico, features: ImageFeatures, outlines: Sequence[Outline]
) -> NDArray[np.float32]:
    """Returns the (R, d) descriptors of regions, to be remembered under their labels.

    They are unit rows of frozen features alone, so they hold for every adapter of one base.

    Raises:
        InvalidMaskError: an empty mask.
    """
    blocks = describe_regions(features, *_frames(model, outlines))
    described: NDArray[np.float32] = unit_rows(blocks, model.region_head).cpu().numpy()
    return described


def _frames(model: Calico, outlines: Sequence[Outline]) -> tuple[Tensor, Tensor]:
    """Images (R,) and shares (R, L, L) of regions, on the model's device."""
    for number, one in enumerate(outlines):
        if not one.mask.any():
            raise InvalidMaskError(f"outlines[{number}].mask: expected a region, got an empty mask")
    side, logit_side = model.config.image_size, model.config.mask_side
    device = model.mask_decoder.mask_decoder.iou_token.weight.device
    shares = torch.stack([mask_shares(one.mask, side, logit_side) for one in outlines])
    image = torch.tensor([one.image_index for one in outlines])
    return image.to(device), shares.to(device)


def unit_rows(blocks: list[Tensor], head: RegionHead | None) -> Tensor:
    """Puts blocks of descriptors (R, d_b) side by side, each of the same weight: (R, d) unit rows.

    The head, where there is one, knows how much each number varies.
    """
    if head is not None:
        blocks = list(torch.split(head.standardise(blocks), list(head.widths), 1))
    even = [functional.normalize(block, dim=1) for block in blocks]
    return functional.normalize(torch.cat(even, 1), dim=1).float()


@torch.inference_mode()
def read_head(
    model: Calico,
    tokenizer: Tokenizer,
    blocks: list[Tensor],
    vocabulary: Vocabulary,
) -> Tensor:
    """Asks the head of the weights; labels it cannot know get an even share.

    Args:
        model: with or without a head.
        tokenizer: of the model, and of the adapter it wears.
        blocks: of R regions, from `describe_regions`.
        vocabulary: C labels.

    Returns:
        (R, C) float32 log chances on the CPU; uniform without a head.
    """
    count, regions = len(vocabulary.labels), len(blocks[0])
    chances = torch.full((regions, count), 1 / count)
    if model.region_head is not None:
        words, owners = known_words(model, tokenizer, vocabulary)
        if len(owners):
            head: RegionHead = model.region_head
            logits = head(head.standardise(blocks), words)
            known = sorted(set(owners))
            place = {owner: column for column, owner in enumerate(known)}
            columns = torch.tensor([place[owner] for owner in owners])
            shared = torch.zeros(regions, len(known))
            shared.index_add_(1, columns, logits.float().softmax(1).cpu())
            chances[:, known] = shared * (len(known) / count)
    return chances.clamp(min=1e-30).log()


def known_words(
    model: Calico, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[Tensor, list[int]]:
    """Returns the (W, D) words of spellings the base can write, and the label of each.

    A name that has to be spelled, or that has a row of its own in an adapter, was in no training
    of the head.
    """
    found: list[Tensor] = []
    owners: list[int] = []
    for owner, label in enumerate(vocabulary.labels):
        for name in vocabulary.spellings(label):
            ids = name_tokens(name, tokenizer)
            if len(ids) <= len(name.split()) and name not in tokenizer.labels:
                found.append(_words(model, ids))
                owners.append(owner)
    return (torch.stack(found) if found else torch.zeros(0)), owners


def words_of(model: Calico, tokenizer: Tokenizer, name: str) -> Tensor:
    """Returns the (D,) unit-length mean of the output rows of a name's tokens."""
    return _words(model, name_tokens(name, tokenizer))


def _words(model: Calico, ids: Sequence[int]) -> Tensor:
    rows = functional.normalize(model.language.lm_head.weight[list(ids)].float(), dim=1)
    return functional.normalize(rows.mean(0), dim=0)


def pick_slots(slots: Sequence[Slot], outline: Outline) -> list[int]:
    """Returns the places that may speak of a region: its own, else all of its image and kind."""
    here = [n for n, slot in enumerate(slots) if outline.image_index in slot.images]
    fits = [n for n in here if outline.kind is None or _says(slots[n], outline.kind)]
    own = [
        n
        for n in fits
        if outline.predicted_label is not None and slots[n].label == outline.predicted_label
    ]
    return own or fits


def _says(slot: Slot, kind: RegionKind) -> bool:
    if kind is RegionKind.COMMON_OBJECT:
        return slot.is_object
    return not slot.is_object and slot.kind is kind


def _spread(rows: Tensor, picks: Sequence[Sequence[int]]) -> Chances:
    """Gives each region the mean chances of the places that may speak of it; uniform for none.

    An answer may leave a region out, so no label is ever ruled out by what it says elsewhere.
    """
    count = rows.shape[1]
    found = np.full((len(picks), count), -math.log(count))
    for row, places in enumerate(picks):
        if places:
            chances = rows[list(places)].double().exp().mean(0).numpy()
            found[row] = np.log((1 - _UNSAID) * chances + _UNSAID / count)
    return found
