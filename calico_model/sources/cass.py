"""CASS (Kim et al., CVPR 2025): DINO's attention distilled into CLIP's last block, untrained.

CLIP knows words, but its patches mix objects; DINO's keys hold an object together. Each head of
CLIP's last block takes over the low-rank structure of the DINO head that differs most from it, and
classes that the whole image does not show are held back. Written from the paper's equations. Knows
tensors; not models or files.
Legend: h heads, N patches, d width of a head, C classes, D width of CLIP's common space.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

_EIGENVALUES = 20  # of a graph, that heads are compared by
_ENERGY = 0.95  # of the eigenvalues' sum, that a low-rank graph keeps
_DISTANCE_WEIGHT = 10.0  # of a matched pair's distance, as weight of DINO's graph
_WINDOW = 5.0  # standard deviation of the neighbourhood, in patches
_NEAREST_PATCHES = 2


def key_graph(keys: Tensor) -> Tensor:
    """Maps (h, N, d) keys to graphs K K^T / sqrt(d), (h, N, N): symmetric, eigenvalues >= 0."""
    return keys @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])


def spectra(graphs: Tensor) -> Tensor:
    """Maps (h, N, N) graphs to their largest eigenvalues, (h, 20) falling, each row of sum 1."""
    values = torch.linalg.eigvalsh(graphs).flip(-1)[:, :_EIGENVALUES].clamp(min=0)
    unit = functional.normalize(values, dim=1)
    return unit / unit.sum(1, keepdim=True).clamp(min=1e-12)


def head_distances(dino: Tensor, clip: Tensor) -> Tensor:
    """Returns the (h, h') Wasserstein distances of two sets of spectra, each in [0, 2]."""
    return torch.cdist(dino, clip, p=1)


def match_heads(distances: Tensor) -> dict[int, int]:
    """Pairs every head of CLIP with the head of DINO that differs most, all pairs together.

    Args:
        distances: (h, h') from `head_distances`.

    Returns:
        Head of CLIP -> head of DINO (Hungarian assignment of the largest total distance). Where
        DINO has fewer heads, some of CLIP's have no partner.
    """
    rows, columns = linear_sum_assignment(-distances.numpy())
    return {int(clip): int(dino) for dino, clip in zip(rows, columns, strict=True)}


def rank_of(eigenvalues: Tensor, energy: float = _ENERGY) -> int:
    """Returns how many of the falling eigenvalues >= 0 hold a share of their sum."""
    shares = eigenvalues.cumsum(0) / eigenvalues.sum().clamp(min=1e-12)
    return min(len(eigenvalues), int((shares < energy - 1e-6).sum()) + 1)


def rescaled(eigenvalues: Tensor) -> Tensor:
    """Stretches eigenvalues from [min, max] to [min / 2, 3 max / 2]: strong structure is raised."""
    least, most = eigenvalues.min(), eigenvalues.max()
    if most == least:
        return eigenvalues
    return (eigenvalues - least) / (most - least) * (1.5 * most - 0.5 * least) + 0.5 * least


def low_rank(graph: Tensor) -> Tensor:
    """Returns the (N, N) graph of the dominant eigenvectors, rescaled, with an empty diagonal."""
    ascending, basis = torch.linalg.eigh(graph)
    values: Tensor = ascending.flip(0).clamp(min=0)
    vectors: Tensor = basis.flip(1)
    kept = rank_of(values)
    built = (vectors[:, :kept] * rescaled(values[:kept])) @ vectors[:, :kept].T
    return built - torch.diag(built.diagonal())


def onto_range(values: Tensor, like: Tensor) -> Tensor:
    """Maps values linearly, so that their least and largest are those of another tensor."""
    least, most = values.min(), values.max()
    unit = (values - least) / (most - least).clamp(min=1e-12)
    return unit * (like.max() - like.min()) + like.min()


def fuse(dino: Tensor, clip: Tensor, weight: float) -> Tensor:
    """Returns the weighted mean of two graphs; weight 0 is CLIP's, a large one DINO's."""
    return (weight * dino + clip) / (weight + 1)


def distil(clip_keys: Tensor, dino_keys: Tensor) -> Tensor:
    """Returns CLIP's (h, N, N) attention logits with DINO's structure in them.

    Args:
        clip_keys: (h, N, d) of CLIP's last block, without the class token.
        dino_keys: (h', N, d') of DINO's last block, on CLIP's grid.
    """
    clip = key_graph(clip_keys)
    dino = key_graph(onto_range(dino_keys, clip_keys))
    distances = head_distances(spectra(dino), spectra(clip))
    fused = clip.clone()
    for head, partner in match_heads(distances).items():
        structure = onto_range(low_rank(dino[partner]), clip[head])
        weight = _DISTANCE_WEIGHT * float(distances[partner, head])
        fused[head] = fuse(structure, clip[head], weight)
    return fused


def neighbourhood(height: int, width: int) -> Tensor:
    """Returns (N, N) in (0, 1]: how near the patches of a grid are (Gaussian window)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    return torch.exp(-(torch.cdist(places, places) ** 2) / (2 * _WINDOW**2))


def attend(logits: Tensor, values: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Attends with given logits.

    Args:
        logits: (h, N, N).
        values: (h, N, d).
        grid_hw: height and width of the grid, N together.

    Returns:
        (N, h * d): the heads side by side.
    """
    near = neighbourhood(*grid_hw).to(logits)
    mixed = (logits + near).softmax(-1) @ values
    return mixed.transpose(0, 1).flatten(1)


def similar_classes(text: Tensor, cut: float) -> list[int]:
    """Groups classes with similar names: Ward linkage of cosine distances, cut at a height.

    Args:
        text: (C, D) unit rows.
        cut: height, 0.06 to 0.10 in the paper.

    Returns:
        The number of the group of every class.
    """
    if len(text) < 2:
        return [1] * len(text)
    distances = (1 - text @ text.T).clamp(min=0).double().numpy()
    upper = distances[np.triu_indices(len(text), 1)]
    return [int(group) for group in fcluster(linkage(upper, "ward"), cut, "distance")]


def adjusted_text(
    text: Tensor, presence: Tensor, patches: Tensor, *, cut: float, alpha: float
) -> Tensor:
    """Moves the most present class of every group of similar names towards what the image shows.

    Args:
        text: (C, D) unit rows.
        presence: (C,) similarity of each class to the whole image.
        patches: (N, D) unit rows.
        cut: see `similar_classes`.
        alpha: share of the image in the new vector, 0.01 to 0.05 in the paper.

    Returns:
        (C, D) unit rows.
    """
    groups = similar_classes(text, cut)
    moved = text.clone()
    for group in set(groups):
        members = [number for number, one in enumerate(groups) if one == group]
        present = max(members, key=lambda number: float(presence[number]))
        nearest = (patches @ text[present]).topk(min(_NEAREST_PATCHES, len(patches))).indices
        shown = patches[nearest].mean(0)
        moved[present] = functional.normalize((1 - alpha) * text[present] + alpha * shown, dim=0)
    return moved


def class_scores(patches: Tensor, text: Tensor, presence: Tensor, gamma: float) -> Tensor:
    """Returns (N, C): similarity of patches and classes, with a share of the classes' presence."""
    return (1 - gamma) * patches @ text.T + gamma * presence
