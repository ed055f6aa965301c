"""Where the positions of conversations stand among the rows the LLM computes.

Training pads on the right and computes every position. Generation packs: positions of several
conversations that begin alike, token by token and image by image, are one node, and padding is
none. The first nodes of a group's three questions are the system prompt, the images and the
wording up to where the questions part.

Legend: B conversations, T positions, R image slots, N nodes, B' x T' computed rows (B x T when
padded, 1 x N when packed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model.modeling.inputs import Conversations


@dataclass(frozen=True)
class RowLayout:
    """A one-to-many map between computed rows and positions.

    Attributes:
        source: (B', T') int64, a position each row stands for, as flat index into B x T.
        node: (B, T) int64, the row that stands for each position, as flat index into B' x T';
            0 at the padding of packed conversations.
        depth: (B', T') int64, positions before the row in its conversation.
        mask: (1, 1, N, N) bool, True where a node (third axis) sees another (fourth); None when
            rows are the positions themselves, which is causal.
    """

    source: Tensor
    node: Tensor
    depth: Tensor
    mask: Tensor | None = None

    def rows(self, positions: Tensor) -> Tensor:
        """Picks what is computed: (B, T, D) -> (B', T', D)."""
        return positions if self.mask is None else positions.flatten(0, 1)[self.source]

    def positions(self, rows: Tensor) -> Tensor:
        """Gives every position what was computed for it: (B', T', D) -> (B, T, D)."""
        return rows if self.mask is None else rows.flatten(0, 1)[self.node]

    def to(self, device: str | torch.device) -> RowLayout:
        """Moves all tensors."""
        mask = None if self.mask is None else self.mask.to(device)
        return RowLayout(self.source.to(device), self.node.to(device), self.depth.to(device), mask)


def padded(conversations: Conversations) -> RowLayout:
    """Every position is a row of its own; causal, so padding must be on the right."""
    is_token = conversations.is_token
    # Padding before a token would be seen by it. On the meta device there is nothing to look at.
    assert is_token.is_meta or bool(is_token[:, 0].all()), "expected padding on the right"
    own = torch.arange(is_token.numel(), device=is_token.device).view(is_token.shape)
    return RowLayout(own, own, (is_token.cumsum(1) - 1).clamp(min=0))


def packed(conversations: Conversations, *, own_images: bool) -> RowLayout:
    """Positions with equal beginnings become one node; padding is left out.

    Args:
        conversations: padded on any side.
        own_images: each conversation keeps the rows of its images, and all behind them, to
            itself. This holds from the first CAM on, where image rows depend on the question.
    """
    ids, is_token = conversations.input_ids.tolist(), conversations.is_token.tolist()
    rows, columns, images = (
        tensor.tolist()
        for tensor in (
            conversations.image_row,
            conversations.image_column,
            conversations.image_feature,
        )
    )
    slots = {
        (row, column): (image, row if own_images else None)
        for row, column, image in zip(rows, columns, images, strict=True)
    }
    width = len(ids[0])
    known: dict[tuple[object, ...], int] = {}
    source: list[int] = []
    chains: list[list[int]] = []
    for row in range(len(ids)):
        chain: list[int] = []
        for column in range(width):
            if not is_token[row][column]:
                continue
            beginning = chain[-1] if chain else None
            node = known.setdefault(
                (beginning, ids[row][column], slots.get((row, column))), len(source)
            )
            if node == len(source):
                source.append(row * width + column)
            chain.append(node)
        chains.append(chain)
    return _from_chains(chains, source, conversations.is_token)


def _from_chains(chains: list[list[int]], source: list[int], is_token: Tensor) -> RowLayout:
    """Builds the tensors from each conversation's nodes in order."""
    device = is_token.device
    node = torch.zeros(is_token.shape, dtype=torch.int64)
    depth = torch.zeros(len(source), dtype=torch.int64)
    mask = torch.zeros(len(source), len(source), dtype=torch.bool)
    for row, nodes in enumerate(chains):
        chain = torch.tensor(nodes)
        node[row, is_token[row].cpu()] = chain
        depth[chain] = torch.arange(len(chain))
        mask[chain[:, None], chain] |= torch.ones(len(chain), len(chain), dtype=torch.bool).tril()
    return RowLayout(
        torch.tensor(source, device=device)[None],
        node.to(device),
        depth.to(device)[None],
        mask.to(device)[None, None],
    )
