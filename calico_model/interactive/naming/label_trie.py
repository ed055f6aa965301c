"""The label of a closed set that the language model would write at a place of its answer.

Labels are scored along a trie of their tokens and normalised exactly over the set: the chance of a
label is the product of the chances of its tokens among their siblings, so that a long name or a
name spelled out of pieces is not less likely. The text before the places is computed once.
Legend: S slots, N nodes, E ends, C labels, T positions, D the LLM's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from calico_model import prompts
from calico_model.data.collate import Turn, collate_turns
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import run_layers
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import GroupPrediction, RegionKind
from calico_model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Slot:
    """A place in an answer where a phrase begins.

    Attributes:
        kind: the question that is answered.
        before: the answer's text up to the phrase.
        label, images, is_object: of the phrase; see `AnswerPhrase`.
    """

    kind: RegionKind
    before: str
    label: str
    images: tuple[int, ...]
    is_object: bool


@dataclass(frozen=True, eq=False)
class LabelTrie:
    """The phrases of a closed set as a trie of tokens; phrases share equal beginnings.

    Attributes:
        tokens: (N,) int64, token of each node.
        parents: (N,) int64, parent of each node, -1 for the first nodes.
        ancestors: (N, N) bool, True where a node (first axis) descends from another or is the same.
        ends: (E,) int64, nodes where a phrase is complete.
        owners: (E,) int64, index of the label that each end names.
        labels: number of labels.
    """

    tokens: Tensor
    parents: Tensor
    ancestors: Tensor
    ends: Tensor
    owners: Tensor
    labels: int


def build_trie(vocabulary: Vocabulary, tokenizer: Tokenizer) -> LabelTrie:
    """Builds the trie of every label and alias, written as a phrase from `<p>` to `</p>`."""
    known: dict[tuple[int, int], int] = {}
    ends: dict[int, int] = {}
    for owner, label in enumerate(vocabulary.labels):
        for name in _written(label, vocabulary):
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


def _written(label: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The texts by which the model may write a label: its names, and the label itself.

    The label itself is left out if it is the name of another label, or could be parsed as a tag.
    """
    text, names = prompts.clean_label(label), vocabulary.spellings(label)
    is_plain = not set(text) & set("<>[]()")
    return (*names, text) if is_plain and vocabulary.find(text) == label else names


def find_slots(group_prediction: GroupPrediction) -> tuple[Slot, ...]:
    """Returns the places where phrases begin in the answers that the model generated."""
    return tuple(
        Slot(
            phrase.kind,
            # A space before a tag is no token of its own.
            group_prediction.answers[phrase.kind.value][: phrase.start].rstrip(),
            phrase.label,
            phrase.images,
            phrase.is_object,
        )
        for phrase in group_prediction.phrases
    )


@torch.inference_mode()
def score_slots(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    slots: Sequence[Slot],
    trie: LabelTrie,
) -> Tensor:
    """Returns how likely the language model finds each label of a set at slots of its answers.

    The text before the slots is computed once, then all nodes of the trie at all slots in one
    forward: every node attends to the text before its slot and to its ancestors.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the images of the group.
        slots: S slots, at least one.
        trie: of the closed set.

    Returns:
        (S, C) float32 log chances on the CPU; each row sums to one after exp.
    """
    images, config = tuple(range(len(features))), model.config
    device = features.global_tokens.device
    # The texts before the slots of one answer are prefixes of the longest of them.
    longest = {slot.kind: slot.before for slot in sorted(slots, key=lambda slot: len(slot.before))}
    kinds = list(longest)
    conversations = collate_turns(
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
    hidden, cache = model.prefill_packed(features, conversations)
    rows = torch.tensor([kinds.index(slot.kind) for slot in slots], device=device)
    prefixes = [len(tokenizer.encode(slot.before)) for slot in slots]
    lengths = conversations.guidance[rows] + 1 + torch.tensor(prefixes, device=device)  # (S,)
    cache.batch_select_indices(rows)
    is_before = (
        torch.arange(conversations.input_ids.shape[1], device=device) < lengths[:, None]
    )  # (S, T)
    last = hidden[rows, lengths - 1][:, None]  # (S, 1, D)
    nodes = _read_trie(model, trie, is_before, cache)
    parents = trie.parents.to(device) + 1
    logits = model.language.lm_head(torch.cat((last, nodes), 1)).float()  # (S, 1 + N, V)
    steps = logits[:, parents, trie.tokens.to(device)]  # (S, N)
    # Normalised among siblings, so that the chances of the leaves sum to one.
    top = torch.full_like(logits[:, :, 0], -torch.inf)
    top = top.scatter_reduce(1, parents.expand_as(steps), steps, "amax")
    mass = torch.zeros_like(top).index_add(1, parents, (steps - top[:, parents]).exp())
    steps = steps - top[:, parents] - mass[:, parents].log()
    paths = steps @ trie.ancestors.to(steps).T
    ends = paths[:, trie.ends.to(device)].cpu().exp()
    chances = torch.zeros(len(slots), trie.labels).index_add(1, trie.owners, ends)
    return chances.clamp(min=1e-30).log()


def _read_trie(model: Calico, trie: LabelTrie, is_before: Tensor, cache: DynamicCache) -> Tensor:
    """Final hidden states (S, N, D) of every node after the text before every slot."""
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
