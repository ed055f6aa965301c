"""Which label of a closed set a region is: three witnesses, fused, or "unsure".

V1, the language model: candidates are scored at the place of a phrase along a trie of their
tokens, exactly normalised over the set, so that a long or spelled name costs nothing (seed system
6.5). V2, prototypes of what the project's annotators accepted (prototypes.py). The head of the
weights, where they have one, knows what training named (modeling/region_head.py). A witness that
knows nothing is uniform and changes nothing; nothing outside the set can come out.
Legend: S slots, N nodes, C labels, R regions, T positions, D the LLM's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from calico_model import prompts
from calico_model.data.collate import Turn, collate_turns
from calico_model.features import ImageFeatures
from calico_model.modeling.label_rows import needs_row
from calico_model.modeling.language import run_layers
from calico_model.modeling.layout import packed
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import RegionHead, describe_regions
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind
from calico_model.vocabulary import Vocabulary

UNSURE_BELOW = 0.3
"""Smallest chance at which a region is given a label; below it the annotator decides."""

LeastChance = float


@dataclass(frozen=True)
class Fusion:
    """Exponents of the witnesses: log p = sum of weight * log p_i, normalised over the set.

    The defaults are fitted on drawn groups of other seeds than any test; `calico fit-names` prints
    them for new weights.

    Attributes:
        language, head, prototypes: of the three witnesses.
        trusted_after: accepted regions at which the prototypes have half their exponent.
    """

    language: float = 0.5
    head: float = 1.0
    prototypes: float = 1.0
    trusted_after: float = 8.0


@dataclass(frozen=True)
class Named:
    """What a region is called.

    Attributes:
        label: of the closed set, or None when no label is likely enough.
        chance: of the likeliest label, in [0, 1], whether it is given or not.
        ranked: the likeliest labels with their chances, falling; the first is the likeliest.
    """

    label: str | None
    chance: float
    ranked: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Slot:
    """A place in an answer where a phrase begins.

    Attributes:
        kind: the question.
        before: the answer up to the phrase.
        label, images, is_object: what the model itself says there.
    """

    kind: RegionKind
    before: str
    label: str
    images: tuple[int, ...]
    is_object: bool


@dataclass(frozen=True, eq=False)
class LabelTrie:
    """The phrases of a closed set, token by token, equal beginnings once.

    Attributes:
        tokens: (N,) int64 of each node.
        parents: (N,) int64, -1 for the first.
        ancestors: (N, N) bool, True where a node (first axis) comes after another or is it.
        ends: (E,) int64 nodes where a phrase is complete.
        owners: (E,) int64 label each of them names.
        labels: how many labels.
    """

    tokens: Tensor
    parents: Tensor
    ancestors: Tensor
    ends: Tensor
    owners: Tensor
    labels: int


def build_trie(vocabulary: Vocabulary, tokenizer: Tokenizer) -> LabelTrie:
    """Spells every label and alias as the model writes a phrase, from `<p>` to `</p>`."""
    known: dict[tuple[int, int], int] = {}
    ends: dict[int, int] = {}
    for owner, label in enumerate(vocabulary.labels):
        for name in (*vocabulary.spellings(label), prompts.clean_label(label)):
            node = -1
            written = f"{prompts.PHRASE_START} the {name} {prompts.PHRASE_END}"
            for token in tokenizer.encode(written):
                node = known.setdefault((node, token), len(known))
            ends.setdefault(node, owner)
    parents = [parent for parent, _ in known]
    ancestors = torch.eye(len(known), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
    return LabelTrie(
        torch.tensor([token for _, token in known]),
        torch.tensor(parents),
        ancestors,
        torch.tensor(list(ends)),
        torch.tensor(list(ends.values())),
        len(vocabulary.labels),
    )


def find_slots(answers: Mapping[str, str]) -> tuple[Slot, ...]:
    """Finds the phrases of a model's own answers, by `RegionKind.value`."""
    found: list[Slot] = []
    for kind in RegionKind:
        text = answers.get(kind.value, "")
        parsed = prompts.parse_answer(kind, text)
        for phrase, start in zip(parsed.phrases, parsed.starts, strict=True):
            # A space before a tag is no token of its own.
            before = text[:start].rstrip()
            found.append(Slot(kind, before, phrase.label, phrase.images, phrase.is_object))
    return tuple(found)


@torch.inference_mode()
def score_slots(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    slots: Sequence[Slot],
    trie: LabelTrie,
) -> Tensor:
    """Asks the language model which label of a set comes at places of its answers (V1).

    What is before the places is computed once, then all candidates of all places in one forward:
    every node of the trie sees what is before it.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the images of the group.
        slots: S places, at least one.
        trie: of the closed set.

    Returns:
        (S, C) float32 log chances on the CPU; each row sums to one after exp.
    """
    images, config = tuple(range(len(features))), model.config
    device = features.global_tokens.device
    # The places of one answer are beginnings of each other: its longest one holds them all.
    longest = {slot.kind: slot.before for slot in sorted(slots, key=lambda slot: len(slot.before))}
    kinds = list(longest)
    asked = collate_turns(
        [
            Turn(
                prompts.conversation(prompts.QUESTIONS[kind][0], len(images), config.system_prompt),
                longest[kind],
                images,
            )
            for kind in kinds
        ],
        tokenizer,
        config.qformer.queries,
    ).conversations.to(device)
    cache = DynamicCache()
    hidden = model.prefill(
        model.embed(asked, model.image_rows(features)),
        asked,
        model.correspondence(features),
        (packed(asked, own_images=False), packed(asked, own_images=True)),
        cache,
    )
    rows = torch.tensor([kinds.index(slot.kind) for slot in slots], device=device)
    told = torch.tensor([len(tokenizer.encode(slot.before)) for slot in slots], device=device)
    lengths = asked.guidance[rows] + 1 + told  # (S,)
    cache.batch_select_indices(rows)
    is_before = torch.arange(asked.input_ids.shape[1], device=device) < lengths[:, None]  # (S, T)
    last = hidden[rows, lengths - 1][:, None]  # (S, 1, D)
    nodes = _read_trie(model, trie, is_before, cache)
    parents = trie.parents.to(device) + 1
    logits = model.language.lm_head(torch.cat((last, nodes), 1)).float()  # (S, 1 + N, V)
    steps = logits[:, parents, trie.tokens.to(device)]  # (S, N)
    # Normalised among siblings alone, so the leaves of the trie share all of the chance.
    top = torch.full_like(logits[:, :, 0], -torch.inf)
    top = top.scatter_reduce(1, parents.expand_as(steps), steps, "amax")
    mass = torch.zeros_like(top).index_add(1, parents, (steps - top[:, parents]).exp())
    steps = steps - top[:, parents] - mass[:, parents].log()
    paths = steps @ trie.ancestors.to(steps).T
    ends = paths[:, trie.ends.to(device)].cpu().exp()
    chances = torch.zeros(len(slots), trie.labels).index_add(1, trie.owners, ends)
    return chances.clamp(min=1e-30).log()


def _read_trie(model: Calico, trie: LabelTrie, is_before: Tensor, cache: DynamicCache) -> Tensor:
    """Final hidden states (S, N, D) of every node behind every prefix."""
    device, slots = is_before.device, len(is_before)
    embedded = model.language.model.embed_tokens(trie.tokens.to(device))
    ancestors = trie.ancestors.to(device)
    depth = is_before.sum(1, keepdim=True) + ancestors.sum(1)[None] - 1  # (S, N)
    behind = is_before[:, None].expand(-1, len(trie.tokens), -1)
    mask = torch.cat((behind, ancestors[None].expand(slots, -1, -1)), 2)[:, None]
    every = range(len(model.language.model.layers))
    hidden = embedded[None].expand(slots, -1, -1)
    hidden = run_layers(model.language, every, hidden, depth, mask, cache)
    normed: Tensor = model.language.model.norm(hidden)
    return normed


def pick_slots(
    slots: Sequence[Slot], image: int, kind: RegionKind | None, label: str | None
) -> list[int]:
    """Returns the places that may speak of a region: its own, else all of its image and kind."""
    here = [n for n, slot in enumerate(slots) if image in slot.images]
    fits = [n for n in here if kind is None or _says(slots[n], kind)]
    own = [n for n in fits if label is not None and slots[n].label == label]
    return own or fits


def _says(slot: Slot, kind: RegionKind) -> bool:
    if kind is RegionKind.COMMON_OBJECT:
        return slot.is_object
    return not slot.is_object and slot.kind is kind


@torch.inference_mode()
def descriptors(model: Calico, features: ImageFeatures, image: Tensor, shares: Tensor) -> Tensor:
    """Describes regions for prototypes, from frozen features alone.

    Args:
        model: of the features.
        features: of M images.
        image: (R,) int64.
        shares: (R, L, L) from `images.mask_shares`.

    Returns:
        (R, d) float32 unit rows on the CPU; every block of the descriptor weighs the same.
    """
    blocks = describe_regions(features, image, shares)
    head = model.region_head
    if head is not None:
        blocks = list(head.standardise(blocks).split(head.widths, 1))
    even = [functional.normalize(block, dim=1) for block in blocks]
    return functional.normalize(torch.cat(even, 1), dim=1).float().cpu()


@torch.inference_mode()
def read_head(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    image: Tensor,
    shares: Tensor,
    vocabulary: Vocabulary,
) -> Tensor:
    """Asks the head of the weights; labels it cannot know get an even share.

    Returns:
        (R, C) float32 log chances on the CPU; uniform without a head.
    """
    count = len(vocabulary.labels)
    chances = torch.full((len(image), count), 1 / count)
    if model.region_head is not None:
        words, owners = known_words(model, tokenizer, vocabulary)
        if len(owners):
            head: RegionHead = model.region_head
            logits = head(head.standardise(describe_regions(features, image, shares)), words)
            known = sorted(set(owners))
            place = {owner: column for column, owner in enumerate(known)}
            columns = torch.tensor([place[owner] for owner in owners])
            shared = torch.zeros(len(image), len(known))
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
            if not needs_row(name, tokenizer) and name not in tokenizer.labels:
                found.append(words_of(model, tokenizer, name))
                owners.append(owner)
    return (torch.stack(found) if found else torch.zeros(0)), owners


def words_of(model: Calico, tokenizer: Tokenizer, name: str) -> Tensor:
    """Returns the (D,) unit-length mean of the output rows of a name's tokens."""
    start = len(tokenizer.encode(f"{prompts.PHRASE_START} the"))
    written = f"{prompts.PHRASE_START} the {name} {prompts.PHRASE_END}"
    ids = tokenizer.encode(written)[start:-1]
    rows = model.language.lm_head.weight[ids].float()
    return functional.normalize(functional.normalize(rows, dim=1).mean(0), dim=0)


def fuse(
    vocabulary: Vocabulary,
    head: NDArray[np.float64],
    remembered: NDArray[np.float64],
    language: NDArray[np.float64],
    *,
    accepted: int,
    weights: Fusion | None = None,
    least: LeastChance = UNSURE_BELOW,
) -> tuple[Named, ...]:
    """Weighs the witnesses of R regions and names them.

    Args:
        vocabulary: the closed set of C labels.
        head, remembered, language: (R, C) log chances; uniform rows say nothing.
        accepted: regions the prototypes stand for.
        weights: exponents.
        least: smallest chance at which a label is given.
    """
    weights = weights or Fusion()
    trust = weights.prototypes * accepted / (accepted + weights.trusted_after)
    logits = weights.head * head + trust * remembered + weights.language * language
    logits = logits - logits.max(1, keepdims=True)
    chances = np.exp(logits)
    chances /= chances.sum(1, keepdims=True)
    return tuple(_name(vocabulary, row, least) for row in chances)


def _name(vocabulary: Vocabulary, chances: NDArray[np.float64], least: LeastChance) -> Named:
    order = np.argsort(-chances, kind="stable")[:3]
    ranked = tuple((vocabulary.labels[int(n)], float(chances[n])) for n in order)
    label, chance = ranked[0]
    return Named(label if chance >= least else None, chance, ranked)


def spread(rows: Tensor, picks: Sequence[Sequence[int]], count: int) -> NDArray[np.float64]:
    """Gives each region the mean chances of the places that may speak of it.

    Args:
        rows: (S, C) log chances of `score_slots`.
        picks: per region, from `pick_slots`; none is uniform.
        count: C.
    """
    found = np.full((len(picks), count), -math.log(count))
    for row, places in enumerate(picks):
        if places:
            found[row] = torch.logsumexp(rows[list(places)].double(), 0) - math.log(len(places))
    return found
