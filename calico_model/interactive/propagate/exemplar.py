"""The same part in the other images of a group: one outline proposes itself everywhere (B3).

Up to two witnesses draw it, from cached features: the exemplar prompt (learned, or the cosine of
cells to the outlined ones with SAM's mask and point prompts) and, where the part has a name, the
model's own [SEG] prompt. Each first draws the part on the outlined image, where the truth is
known; how well it does there is how much it is believed elsewhere.
Legend: n images, L logit side, C prompt width, T prompt tokens, G embedding grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.interactive.propagate.repeated import Prompted
from calico_model.modeling.exemplar_prompt import ExemplarPrototypes, prototypes, similarities
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import hard_iou
from calico_model.modeling.mask_decoder import PointKind, clamped_logits
from calico_model.modeling.model import Calico

_SHARPNESS, _LIMIT = 20.0, 20.0  # of B3's mask logits
_POINTS = 3
_DOUBT = 2.0  # how much faster than its quality a witness loses weight
_OWN_IMAGE = 0.8  # an outline explains its own image better than any other
_LEAST_PRESENCE = 0.5
_NEAR, _MORE_SHARE = 2, 0.5  # cells around an outline, and how much more there must be beyond


@dataclass(frozen=True, eq=False)
class Sighting:
    """The part in one image, or that it is not there.

    Attributes:
        image: 0-based position in the group.
        logits: (L, L); nowhere above zero if absent.
        score: chance in [0, 1] that it is there and drawn well.
        is_absent: whether nothing should be proposed.
        single: where the outline is one of several alike parts, what asks for one of them.
    """

    image: int
    logits: Tensor
    score: float
    is_absent: bool
    single: Prompted | None = None


@dataclass(frozen=True, eq=False)
class _Witness:
    """What one mechanism draws for the part in every image.

    Attributes:
        sparse, dense: (n, T, C) and (n, C, G, G) or None, what it asks the decoder.
        logits: (n, L, L).
        quality: (n,) predicted IoU in [0, 1].
        presence: (n,) chance in [0, 1] that the part is there, or None if it cannot tell.
        trust: IoU with the outline on the outlined image.
    """

    sparse: Tensor
    dense: Tensor | None
    logits: Tensor
    quality: Tensor
    presence: Tensor | None
    trust: float


@torch.inference_mode()
def find_elsewhere(
    model: Calico,
    features: ImageFeatures,
    source: int,
    shares: Tensor,
    *,
    named: Tensor | None = None,
    uses_exemplar: bool = True,
) -> tuple[Sighting, ...]:
    """Proposes an outlined part on the other images of its group.

    If the model has a mask memory and the outline is one of several alike parts of its object,
    single parts are to be proposed, on the outlined image those that it still lacks.

    Args:
        model: with or without add-ons.
        features: of the group's images.
        source: the outlined image.
        shares: (L, L) in [0, 1], share of each cell inside the outline; not all zero.
        named: (n, C) [SEG] prompts of the part's name on every image, or None.
        uses_exemplar: False asks by name alone.

    Returns:
        One entry per other image, in order; the outlined one comes first if it may lack some.
    """
    everywhere = torch.arange(len(features), device=shares.device)
    witnesses = []
    if uses_exemplar or named is None:
        one = everywhere[source : source + 1]
        wanted = _repeated(prototypes(features, one, shares[None]), len(features))
        look = _learned if model.exemplar is not None else _measured
        witnesses.append(look(model, features, everywhere, wanted, source, shares))
    if named is not None:
        witnesses.append(_told(model, features, everywhere, named, shares[None], source))
    logits, quality, presence = _fused(witnesses)
    is_absent = (presence < _LEAST_PRESENCE) | ~(logits > 0).flatten(1).any(1)
    shown = logits.masked_fill(is_absent[:, None, None] & (logits > 0), -1e-3)
    ask = max(witnesses, key=lambda one: one.trust)
    is_single = model.mask_memory is not None and _has_more(logits[source], shares)
    sightings = [
        Sighting(
            k,
            shown[k],
            float(quality[k] * presence[k]),
            bool(is_absent[k]),
            _single(ask, k) if is_single and not is_absent[k] else None,
        )
        for k in range(len(features))
        if k != source or (is_single and not is_absent[k])
    ]
    return tuple(sorted(sightings, key=lambda one: one.image != source))


def _single(ask: _Witness, image: int) -> Prompted:
    return Prompted(image, ask.sparse[image], None if ask.dense is None else ask.dense[image])


def _has_more(drawn: Tensor, shares: Tensor) -> bool:
    """Whether the model sees more parts of that kind beside the (L, L) outline."""
    near = functional.max_pool2d(shares[None, None], 2 * _NEAR + 1, 1, _NEAR)[0, 0] > 0
    return bool(((drawn > 0) & ~near).sum() > _MORE_SHARE * shares.sum())


def _learned(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    wanted: ExemplarPrototypes,
    source: int,
    shares: Tensor,
) -> _Witness:
    """The trained exemplar prompt."""
    assert model.exemplar is not None
    sparse, added, presence = model.exemplar(features, image, wanted)
    dense = model.mask_decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1) + added
    logits, iou = model.mask_decoder(features.mask, image, sparse, dense)
    seen = _judged(sparse, dense, (logits, iou), presence.sigmoid(), source, shares[None])
    return replace(seen, trust=_OWN_IMAGE * seen.trust)


def _measured(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    wanted: ExemplarPrototypes,
    source: int,
    shares: Tensor,
) -> _Witness:
    """B3 without training: cosines as mask logits, their peaks as points."""
    decoder, side = model.mask_decoder, model.config.mask_side
    alike = similarities(features, image, wanted)
    nearer = alike[:, :1] - alike[:, 1:2]  # more like the part than like what is around it
    nearer = functional.interpolate(nearer, (side, side), mode="bilinear", align_corners=False)
    own = nearer[source, 0]
    inside = (own * shares).sum() / shares.sum()
    outside = (own * (1 - shares)).sum() / (1 - shares).sum().clamp(min=1e-6)
    like = (_SHARPNESS * (nearer[:, 0] - (inside + outside) / 2)).clamp(-_LIMIT, _LIMIT)
    points, kinds = _peaks(like, model.config.image_size / side)
    sparse, dense = decoder.embed(points, kinds, clamped_logits(like))
    decoded = decoder(features.mask, image, sparse, dense)
    # As sure that it is there as its best place is like the part's usual one.
    usual = (own * shares).sum() / shares.sum() - (inside + outside) / 2
    peak = nearer[:, 0].flatten(1).amax(1) - (inside + outside) / 2
    presence = (peak / usual.clamp(min=1e-6)).clamp(0.0, 1.0)
    seen = _judged(sparse, dense, decoded, presence, source, shares[None])
    return replace(seen, trust=_OWN_IMAGE * seen.trust)


def _told(
    model: Calico,
    features: ImageFeatures,
    image: Tensor,
    named: Tensor,
    shares: Tensor,
    source: int,
) -> _Witness:
    """The model's own prompt for the part's name."""
    sparse = named[:, None]
    decoded = model.mask_decoder(features.mask, image, sparse)
    return _judged(sparse, None, decoded, None, source, shares)


def _judged(
    sparse: Tensor,
    dense: Tensor | None,
    decoded: tuple[Tensor, Tensor],
    presence: Tensor | None,
    source: int,
    shares: Tensor,
) -> _Witness:
    logits, quality = decoded[0][:, 0], decoded[1][:, 0].clamp(0, 1)
    trust = float(hard_iou(logits[source : source + 1], shares)[0])
    return _Witness(sparse, dense, logits, quality, presence, trust)


def _peaks(like: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The highest and lowest places of (n, L, L), apart from each other, as SAM points."""
    side = like.shape[-1]
    found: list[Tensor] = []
    for signed in (like, -like):
        left = signed.clone()
        for _ in range(_POINTS):
            at = left.flatten(1).argmax(1)
            row, column = at // side, at % side
            found.append(torch.stack((column + 0.5, row + 0.5), -1) * scale)
            axis = torch.arange(side, device=like.device)
            near = ((axis[None, :, None] - row[:, None, None]).abs() <= side // 16) & (
                (axis[None, None] - column[:, None, None]).abs() <= side // 16
            )
            left = left.masked_fill(near, -torch.inf)
    kinds = [int(PointKind.POSITIVE)] * _POINTS + [int(PointKind.NEGATIVE)] * _POINTS
    return torch.stack(found, 1), torch.tensor([kinds] * len(like), device=like.device)


def _fused(witnesses: Sequence[_Witness]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, L, L), quality (n,) and presence (n,), each witness weighed by its trust."""
    trust = torch.tensor([max(one.trust, 1e-3) for one in witnesses]) ** _DOUBT
    weight = (trust / trust.sum()).to(witnesses[0].logits)
    logits = torch.einsum("w,wnij->nij", weight, torch.stack([w.logits for w in witnesses]))
    quality = torch.einsum("w,wn->n", weight, torch.stack([w.quality for w in witnesses]))
    told = [one.presence for one in witnesses if one.presence is not None]
    return logits, quality, torch.stack(told).mean(0) if told else torch.ones_like(quality)


def _repeated(wanted: ExemplarPrototypes, times: int) -> ExemplarPrototypes:
    return ExemplarPrototypes(
        tuple(one.expand(times, -1) for one in wanted.inside),
        tuple(one.expand(times, -1) for one in wanted.around),
    )
