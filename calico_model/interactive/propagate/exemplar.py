"""One outlined part on the other images of its group, from cached features.

Up to two estimates draw the part on every image: one from the exemplar prompt (trained, or else
SAM's mask and point prompts from the cosine of cells to the outlined cells), and, for a part with a
name, one from the model's [SEG] prompt of the name. The outlined image is drawn, too: there the
truth is known, and the IoU with the outline is the trust in the estimate on the other images.
Legend: n images, L logit side, C prompt width, T prompt tokens, G embedding grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.interactive.propagate.repeated import PartPrompt
from calico_model.modeling.exemplar_prompt import ExemplarPrototypes, prototypes, similarities
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import hard_iou
from calico_model.modeling.mask_decoder import PointKind, clamped_logits
from calico_model.modeling.model import Calico

_SHARPNESS, _LIMIT = 20.0, 20.0  # of mask logits made from cosines
_POINTS = 3
_TRUST_EXPONENT = 2.0
"""The weight of an estimate is its trust to that power."""
_OWN_IMAGE = 0.8
"""Factor of the trust in an exemplar: an outline explains its own image better than any other."""
_LEAST_PRESENCE = 0.5
_NEAR = 2
"""Cells around an outline that count as the outline."""
_MORE_SHARE = 0.5
"""Share of the outline's area that must be drawn beyond these cells, to show further parts."""


@dataclass(frozen=True, eq=False)
class LogitProposal:
    """The proposed part in one image of the group, as logits.

    Attributes:
        image: 0-based position in the group.
        logits: (L, L); nowhere above zero if absent.
        score: chance in [0, 1] that the image shows the part and the mask is right.
        is_absent: whether the image does not show the part.
        single: if the outline is one of several alike parts, the prompt for one of them, else None.
    """

    image: int
    logits: Tensor
    score: float
    is_absent: bool
    single: PartPrompt | None = None


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Masks of the part in every image, from one kind of prompt.

    Attributes:
        sparse, dense: (n, T, C) and (n, C, G, G) or None, prompts of the mask decoder.
        logits: (n, L, L).
        quality: (n,) predicted IoU in [0, 1].
        presence: (n,) chance in [0, 1] that the image shows the part, or None if unknown.
        trust: IoU with the outline on the outlined image.
    """

    sparse: Tensor
    dense: Tensor | None
    logits: Tensor
    quality: Tensor
    presence: Tensor | None
    trust: float


@torch.inference_mode()
def find_in_images(
    model: Calico,
    features: ImageFeatures,
    source: int,
    shares: Tensor,
    *,
    named: Tensor | None = None,
    uses_exemplar: bool = True,
) -> tuple[LogitProposal, ...]:
    """Proposes an outlined part on the other images of its group.

    If the model has a mask memory and the outline is one of several alike parts of its object,
    single parts are proposed, also on the outlined image.

    Args:
        model: with or without add-ons.
        features: of the group's images.
        source: the outlined image.
        shares: (L, L) in [0, 1], share of each cell inside the outline; not all zero.
        named: (n, C) [SEG] prompts of the part's name on every image, or None.
        uses_exemplar: False takes the estimate of the name alone.

    Returns:
        One proposal per other image, in order; that of the outlined image comes first if the image
        shows further parts of that kind.
    """
    images = torch.arange(len(features), device=shares.device)
    estimates = []
    if uses_exemplar or named is None:
        outlined = images[source : source + 1]
        wanted = _repeated(prototypes(features, outlined, shares[None]), len(features))
        estimate = _by_exemplar if model.exemplar is not None else _by_similarity
        estimates.append(estimate(model, features, images, wanted, source, shares))
    if named is not None:
        estimates.append(_by_name(model, features, images, named, shares[None], source))
    logits, quality, presence = _fuse(estimates)
    is_absent = (presence < _LEAST_PRESENCE) | ~(logits > 0).flatten(1).any(1)
    shown = logits.masked_fill(is_absent[:, None, None] & (logits > 0), -1e-3)
    trusted = max(estimates, key=lambda estimate: estimate.trust)
    is_single = model.mask_memory is not None and _has_more(logits[source], shares)
    proposals = [
        LogitProposal(
            k,
            shown[k],
            float(quality[k] * presence[k]),
            bool(is_absent[k]),
            _prompt_of(trusted, k) if is_single and not is_absent[k] else None,
        )
        for k in range(len(features))
        if k != source or (is_single and not is_absent[k])
    ]
    return tuple(sorted(proposals, key=lambda proposal: proposal.image != source))


def _prompt_of(estimate: _Estimate, image: int) -> PartPrompt:
    dense = None if estimate.dense is None else estimate.dense[image]
    return PartPrompt(image, estimate.sparse[image], dense)


def _has_more(drawn: Tensor, shares: Tensor) -> bool:
    """Whether (L, L) drawn logits show more parts of that kind beside the (L, L) outline."""
    near = functional.max_pool2d(shares[None, None], 2 * _NEAR + 1, 1, _NEAR)[0, 0] > 0
    return bool(((drawn > 0) & ~near).sum() > _MORE_SHARE * shares.sum())


def _by_exemplar(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    wanted: ExemplarPrototypes,
    source: int,
    shares: Tensor,
) -> _Estimate:
    """The estimate of the trained exemplar prompt."""
    assert model.exemplar is not None
    sparse, added, presence = model.exemplar(features, image, wanted)
    dense = model.mask_decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1) + added
    logits, iou = model.mask_decoder(features.mask, image, sparse, dense)
    estimate = _estimate(sparse, dense, (logits, iou), presence.sigmoid(), source, shares[None])
    return replace(estimate, trust=_OWN_IMAGE * estimate.trust)


def _by_similarity(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    wanted: ExemplarPrototypes,
    source: int,
    shares: Tensor,
) -> _Estimate:
    """The estimate without training: cosines as mask prompt, their peaks as point prompts."""
    decoder, side = model.mask_decoder, model.config.mask_side
    alike = similarities(features, image, wanted)
    nearer = alike[:, :1] - alike[:, 1:2]  # more like the part than like what is around it
    nearer = functional.interpolate(nearer, (side, side), mode="bilinear", align_corners=False)
    at_source = nearer[source, 0]
    inside = (at_source * shares).sum() / shares.sum()
    outside = (at_source * (1 - shares)).sum() / (1 - shares).sum().clamp(min=1e-6)
    like = (_SHARPNESS * (nearer[:, 0] - (inside + outside) / 2)).clamp(-_LIMIT, _LIMIT)
    points, kinds = _peaks(like, model.config.image_size / side)
    sparse, dense = decoder.embed(points, kinds, clamped_logits(like))
    decoded = decoder(features.mask, image, sparse, dense)
    # The presence is the similarity of the best cell, as a share of the outline's mean similarity.
    usual = (at_source * shares).sum() / shares.sum() - (inside + outside) / 2
    peak = nearer[:, 0].flatten(1).amax(1) - (inside + outside) / 2
    presence = (peak / usual.clamp(min=1e-6)).clamp(0.0, 1.0)
    estimate = _estimate(sparse, dense, decoded, presence, source, shares[None])
    return replace(estimate, trust=_OWN_IMAGE * estimate.trust)


def _by_name(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    named: Tensor,
    shares: Tensor,
    source: int,
) -> _Estimate:
    """The estimate of the model's own prompt for the part's name."""
    sparse = named[:, None]
    decoded = model.mask_decoder(features.mask, image, sparse)
    return _estimate(sparse, None, decoded, None, source, shares)


def _estimate(
    sparse: Tensor,
    dense: Tensor | None,
    decoded: tuple[Tensor, Tensor],
    presence: Tensor | None,
    source: int,
    shares: Tensor,
) -> _Estimate:
    """Puts decoded logits and predicted IoU together with the trust in them."""
    logits, quality = decoded[0][:, 0], decoded[1][:, 0].clamp(0, 1)
    trust = float(hard_iou(logits[source : source + 1], shares)[0])
    return _Estimate(sparse, dense, logits, quality, presence, trust)


def _peaks(like: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The highest and lowest cells of (n, L, L), apart from each other, as SAM points."""
    side = like.shape[-1]
    points: list[Tensor] = []
    for signed in (like, -like):
        remaining = signed.clone()
        for _ in range(_POINTS):
            highest = remaining.flatten(1).argmax(1)
            row, column = highest // side, highest % side
            points.append(torch.stack((column + 0.5, row + 0.5), -1) * scale)
            axis = torch.arange(side, device=like.device)
            near = ((axis[None, :, None] - row[:, None, None]).abs() <= side // 16) & (
                (axis[None, None] - column[:, None, None]).abs() <= side // 16
            )
            remaining = remaining.masked_fill(near, -torch.inf)
    kinds = [int(PointKind.POSITIVE)] * _POINTS + [int(PointKind.NEGATIVE)] * _POINTS
    return torch.stack(points, 1), torch.tensor([kinds] * len(like), device=like.device)


def _fuse(estimates: Sequence[_Estimate]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, L, L), quality (n,) and presence (n,) of estimates, weighed by their trust."""
    trust = torch.tensor([max(e.trust, 1e-3) for e in estimates]) ** _TRUST_EXPONENT
    weight = (trust / trust.sum()).to(estimates[0].logits)
    logits = torch.einsum("w,wnij->nij", weight, torch.stack([e.logits for e in estimates]))
    quality = torch.einsum("w,wn->n", weight, torch.stack([e.quality for e in estimates]))
    known = [e.presence for e in estimates if e.presence is not None]
    return logits, quality, torch.stack(known).mean(0) if known else torch.ones_like(quality)


def _repeated(wanted: ExemplarPrototypes, times: int) -> ExemplarPrototypes:
    return ExemplarPrototypes(
        tuple(vectors.expand(times, -1) for vectors in wanted.inside),
        tuple(vectors.expand(times, -1) for vectors in wanted.around),
    )
