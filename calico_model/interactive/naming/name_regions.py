"""The label of a closed set that each region has: classifiers, fused, or no label.

The classifiers:

- language: the label that the language model would write in its own answers (label_trie.py);
- prototypes: the accepted regions that look most like the region (prototypes.py), as CALICO's own
  encoders see drawings, or as the photo trunk sees photographs (`describe_outlines`);
- head: the region head of the weights, which knows the names of training (modeling/region_head.py);
- cells: the names that the dense head gives to the region's cells (dense_detection.py).

A classifier that knows nothing is uniform and changes nothing. Only labels of the set can come out.
A region that has none of the set's labels gets no label (rejection.py).
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
from calico_model.inference.dense_detection import chances_of_names
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline, fuse
from calico_model.interactive.naming.descriptors import descriptors_of, frames_of, in_space
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

_UNANSWERED = 0.2  # chance that no answer names a region
_LEAST_CELL_CHANCE = 0.01  # of a name that the cells seem to exclude


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
        tokenizer: of the model with its active adapter.
        features: of the group's images.
        outlines: R regions.
        closed: the labels.
        group_prediction: of the same weights for the group; None leaves the language model out,
            which then costs nothing.

    Raises:
        InvalidMaskError: an empty mask.
    """
    if not outlines:
        return ()
    vocabulary = closed.vocabulary
    blocks = describe_regions(features, *frames_of(model, outlines))
    head = score_by_head(model, tokenizer, blocks, vocabulary)
    descriptors = descriptors_of(model, features, outlines, blocks)
    closed = in_space(model, features, closed, descriptors.shape[1])
    language = _score_by_language(
        model, tokenizer, features, outlines, vocabulary, group_prediction
    )
    prototypes = closed.accepted.log_chances(
        descriptors,
        [identity(label) for label in vocabulary.labels],
        temperature=closed.weights.temperature,
        familiar=closed.weights.familiar,
    )
    cell_names = chances_of_names(
        model,
        features,
        [outline.image_index for outline in outlines],
        [outline.mask for outline in outlines],
        [outline.kind for outline in outlines],
    )
    cells = None
    if cell_names and model.dense_head is not None:
        trust = model.dense_head.active.trust
        cells = trust * _score_by_cells(cell_names, vocabulary, len(outlines))
    same = [outline.same for outline in outlines]
    inside = None
    if closed.rejects:
        evidence = _set_evidence(
            model, tokenizer, blocks, outlines, closed, descriptors, cell_names
        )
        inside = chance_inside(closed, evidence, same)
    return fuse(
        closed,
        head=head.double().numpy(),
        prototypes=prototypes,
        language=language,
        cells=cells,
        same=same,
        inside=inside,
    )


def _score_by_language(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    outlines: Sequence[Outline],
    vocabulary: Vocabulary,
    group_prediction: GroupPrediction | None,
) -> Chances:
    """(R, C) log chances of the language model; uniform for a region that no slot can name."""
    slots = () if group_prediction is None else find_slots(group_prediction)
    picks = [pick_slots(slots, outline) for outline in outlines]
    used = sorted({slot for picked in picks for slot in picked})
    if not used:
        count = len(vocabulary.labels)
        return np.full((len(outlines), count), -math.log(count))
    trie = build_trie(vocabulary, tokenizer)
    rows = score_slots(model, tokenizer, features, [slots[slot] for slot in used], trie)
    return _spread(rows, [[used.index(slot) for slot in picked] for picked in picks])


def _set_evidence(
    model: Calico,
    tokenizer: Tokenizer,
    blocks: list[Tensor],
    outlines: Sequence[Outline],
    closed: ClosedSet,
    descriptors: NDArray[np.float32],
    cell_names: Mapping[str, Tensor],
) -> SetEvidence:
    """The evidence of all classifiers that regions have a label of the set."""
    vocabulary, own_word = closed.vocabulary, np.zeros(len(outlines))
    for row, outline in enumerate(outlines):
        if outline.predicted_label:
            label = match(outline.predicted_label, vocabulary)
            own_word[row] = 1.0 if label is not None else -1.0
    odds, known = _head_odds(model, tokenizer, blocks, vocabulary)
    cells = None
    if cell_names:
        names = {name for label in vocabulary.labels for name in vocabulary.spellings(label)}
        labeled = [chances.numpy() for name, chances in cell_names.items() if name in names]
        cells = np.sum(labeled, axis=0) if labeled else np.zeros(len(outlines))
        # The chances of a region of unknown kind are halved for either kind.
        cells *= [2.0 if outline.kind is None else 1.0 for outline in outlines]
    return SetEvidence(
        own_word,
        odds,
        known,
        closed.accepted.likeness(descriptors, [identity(label) for label in vocabulary.labels]),
        cells,
        0.0 if model.dense_head is None else model.dense_head.active.trust,
        np.array([outline.kind is RegionKind.COMMON_OBJECT for outline in outlines]),
    )


def _head_odds(
    model: Calico, tokenizer: Tokenizer, blocks: list[Tensor], vocabulary: Vocabulary
) -> tuple[Chances, float]:
    """(R,) log odds of the set's names against all other names of training, by the region head.

    Also the share of the set's labels that the head knows; zeros for a head that knows none.
    """
    nothing = np.zeros(len(blocks[0]))
    head: RegionHead | None = model.region_head
    if head is None:
        return nothing, 0.0
    set_words, owners = head_words(model, tokenizer, vocabulary)
    others = [name for name in _trained_names() if vocabulary.find(name) is None]
    other_words, _ = head_words(model, tokenizer, Vocabulary(tuple(others)))
    if not len(owners) or not len(other_words):
        return nothing, 0.0
    logits = head(head.standardise(blocks), torch.cat((set_words, other_words))).double()
    odds = logits[:, : len(owners)].logsumexp(1) - logits[:, len(owners) :].logsumexp(1)
    return odds.cpu().numpy(), len(set(owners)) / len(vocabulary.labels)


@lru_cache(maxsize=1)
def _trained_names() -> tuple[str, ...]:
    """Names that the region head was fitted on: drawn categories and their parts."""
    parts = (part for name in TRAINED_CATEGORIES for part in parts_of(name))
    return tuple(sorted({*TRAINED_CATEGORIES, *parts}))


def _score_by_cells(
    cell_names: Mapping[str, Tensor], vocabulary: Vocabulary, regions: int
) -> Chances:
    """(R, C) log chances of the dense head; labels that it does not know share the rest."""
    chances = np.zeros((regions, len(vocabulary.labels)))
    unknown = []
    for column, label in enumerate(vocabulary.labels):
        spellings = vocabulary.spellings(label)
        known = [cell_names[name].numpy() for name in spellings if name in cell_names]
        if known:
            chances[:, column] = np.sum(known, axis=0)
        else:
            unknown.append(column)
    rest = np.clip(1 - chances.sum(1, keepdims=True), _UNANSWERED, None)
    chances[:, unknown] = rest / max(1, len(unknown))
    chances = np.clip(chances, _LEAST_CELL_CHANCE, None)
    log_chances: Chances = np.log(chances / chances.sum(1, keepdims=True))
    return log_chances


@torch.inference_mode()
def score_by_head(
    model: Calico,
    tokenizer: Tokenizer,
    blocks: list[Tensor],
    vocabulary: Vocabulary,
) -> Tensor:
    """Scores labels by the region head; labels that it does not know get an even share.

    Args:
        model: with or without a region head.
        tokenizer: of the model with its active adapter.
        blocks: of R regions, from `describe_regions`.
        vocabulary: C labels.

    Returns:
        (R, C) float32 log chances on the CPU; uniform without a head.
    """
    count, regions = len(vocabulary.labels), len(blocks[0])
    chances = torch.full((regions, count), 1 / count)
    if model.region_head is not None:
        words, owners = head_words(model, tokenizer, vocabulary)
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


def head_words(
    model: Calico, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[Tensor, list[int]]:
    """Returns the (W, D) vectors of names that the region head can know, and the label of each.

    Training of the head had no name that is spelled out of pieces, and no name with a row of its
    own in an adapter.
    """
    vectors: list[Tensor] = []
    owners: list[int] = []
    for owner, label in enumerate(vocabulary.labels):
        for name in vocabulary.spellings(label):
            ids = name_tokens(name, tokenizer)
            if len(ids) <= len(name.split()) and name not in tokenizer.labels:
                vectors.append(_mean_row(model, ids))
                owners.append(owner)
    return (torch.stack(vectors) if vectors else torch.zeros(0)), owners


def words_of(model: Calico, tokenizer: Tokenizer, name: str) -> Tensor:
    """Returns the (D,) unit-length mean of the output rows of a name's tokens."""
    return _mean_row(model, name_tokens(name, tokenizer))


def _mean_row(model: Calico, ids: Sequence[int]) -> Tensor:
    rows = functional.normalize(model.language.lm_head.weight[list(ids)].float(), dim=1)
    return functional.normalize(rows.mean(0), dim=0)


def pick_slots(slots: Sequence[Slot], outline: Outline) -> list[int]:
    """Returns the slots that may name a region: those of its predicted label.

    If there are none, all slots of its image and kind.
    """
    here = [n for n, slot in enumerate(slots) if outline.image_index in slot.images]
    fitting = [n for n in here if outline.kind is None or _is_of_kind(slots[n], outline.kind)]
    of_label = [
        n
        for n in fitting
        if outline.predicted_label is not None and slots[n].label == outline.predicted_label
    ]
    return of_label or fitting


def _is_of_kind(slot: Slot, kind: RegionKind) -> bool:
    if kind is RegionKind.COMMON_OBJECT:
        return slot.is_object
    return not slot.is_object and slot.kind is kind


def _spread(rows: Tensor, picks: Sequence[Sequence[int]]) -> Chances:
    """(R, C) log of the mean chances of the slots of each region; uniform for no slot.

    An answer may leave a region out, so no label gets the chance 0.

    Args:
        rows: (S, C) log chances of slots.
        picks: per region, rows of the slots that may name it.
    """
    count = rows.shape[1]
    log_chances = np.full((len(picks), count), -math.log(count))
    for row, picked in enumerate(picks):
        if picked:
            chances = rows[list(picked)].double().exp().mean(0).numpy()
            log_chances[row] = np.log((1 - _UNANSWERED) * chances + _UNANSWERED / count)
    return log_chances
