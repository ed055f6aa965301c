"""Linear discriminants that tell kinds of pictures apart by their style.

`Domain` limits an adapter to pictures like those it learned from: groups on the base's side are
answered by the base, so the base forgets nothing about them (expert gates, Aljundi et al. 2017).
`Familiarity` limits the language model and the mask decoder to pictures like those of their own
training: they learned from drawings in the shipped weights and name photographs wrongly, with high
confidence. The style of an image is the mean and deviation of the channels of a feature map (style
statistics, Huang and Belongie 2017).
Legend: M images, C channels of a map, P style statistics of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.errors import InvalidConfigError
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.photo_trunk import widths_of

_DOMAIN_SHRINKAGE = 0.3  # share of the identity in the covariance
_FOLDS = 4
_LEAST_RIGHT = 0.95  # share of left-out groups that must fall on their own side
_FAMILIARITY_SHRINKAGE = 0.1
_LEVEL = 2  # of the photo trunk, stride 16: textures and simple shapes


@dataclass(frozen=True, eq=False)
class Domain:
    """A linear discriminant; positive on the side of the corrected pictures.

    Attributes:
        weight: (P,) float32.
        bias: (1,) float32.
    """

    weight: Tensor
    bias: Tensor

    def covers(self, features: ImageFeatures) -> bool:
        """Whether the images of a group are, on average, on the side of the corrected ones."""
        style = style_of(features)
        return bool((style @ self.weight.to(style) + self.bias.to(style)).mean() > 0)


def style_width(config: CalicoConfig) -> int:
    """Returns P, the length of a vector of `style_of`."""
    width = config.mask.prompt_width
    has_fine = config.mask.high_resolution and config.trunk is not None
    return 2 * (width // 4 + width // 8 if has_fine else width)


def style_of(features: ImageFeatures) -> Tensor:
    """Returns the style of each image: mean and deviation of the channels of its finest maps.

    Args:
        features: of M images.

    Returns:
        (M, P) float32.
    """
    maps = features.mask.fine or (features.mask.embedding,)
    return torch.cat([_style(values) for values in maps], dim=1)


def find_domain(corrected: Sequence[ImageFeatures], base: Sequence[ImageFeatures]) -> Domain | None:
    """Fits a discriminant between corrected groups and groups of the base's training.

    The fit counts only if it also tells apart groups that were left out of it (cross-validation).

    Args:
        corrected: features of each corrected group.
        base: features of groups the base was trained on.

    Returns:
        None with fewer than two groups of either kind, or where the styles are too alike.
    """
    folds = min(_FOLDS, len(corrected), len(base))
    if folds < 2:
        return None
    inside = outside = 0
    for fold in range(folds):
        rest = [_without(groups, fold, folds) for groups in (corrected, base)]
        discriminant = _discriminant(*rest)
        inside += sum(discriminant.covers(group) for group in corrected[fold::folds])
        outside += sum(not discriminant.covers(group) for group in base[fold::folds])
    if inside < _LEAST_RIGHT * len(corrected) or outside < _LEAST_RIGHT * len(base):
        return None
    return _discriminant(corrected, base)


def _without(groups: Sequence[ImageFeatures], fold: int, folds: int) -> list[ImageFeatures]:
    return [group for number, group in enumerate(groups) if number % folds != fold]


def _discriminant(corrected: Sequence[ImageFeatures], base: Sequence[ImageFeatures]) -> Domain:
    """Fisher's discriminant, in units of the base's deviation, with a shrunk covariance."""
    inside = torch.cat([style_of(group) for group in corrected]).double()
    outside = torch.cat([style_of(group) for group in base]).double()
    centre, scale = outside.mean(0), outside.std(0) + 1e-6
    inside, outside = (inside - centre) / scale, (outside - centre) / scale
    apart = inside.mean(0)
    covariance = _shrunk_covariance(torch.cat([outside, inside - apart]), _DOMAIN_SHRINKAGE)
    direction = torch.linalg.solve(covariance, apart)
    weight = direction / scale
    bias = -(direction @ apart) / 2 - weight @ centre
    return Domain(weight.float(), bias.float().reshape(1))


def _shrunk_covariance(deviations: Tensor, shrinkage: float) -> Tensor:
    """Covariance (P, P) of (n, P) deviations from the mean, shrunk towards the identity."""
    covariance = (1 - shrinkage) * deviations.T @ deviations / len(deviations)
    size = deviations.shape[1]
    covariance += shrinkage * torch.eye(size, dtype=covariance.dtype, device=deviations.device)
    return covariance


class Familiarity(nn.Module):
    """A linear discriminant between known and unknown pictures; untrained, all are familiar.

    Attributes:
        weight: (2 C,) of an image's style, from `photo_style`.
        bias: (1,); the discriminant is positive where pictures are familiar.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        if config.photo_trunk is None:
            raise InvalidConfigError("photo_trunk: familiarity needs one, got none")
        width = 2 * widths_of(config.photo_trunk)[_LEVEL]
        self.register_buffer("weight", torch.zeros(width))
        self.register_buffer("bias", torch.ones(1))

    def covers(self, features: ImageFeatures) -> bool:
        """Whether the images of a group are familiar, on average."""
        if not features.photo:
            return True
        style = photo_style(features.photo)
        return bool((style @ self.weight.to(style) + self.bias.to(style)).mean() > 0)

    @torch.no_grad()
    def fit(self, known: Tensor, unknown: Tensor, *, known_share: float) -> None:
        """Fits the discriminant to styles of known and of unknown pictures.

        Args:
            known: (n, 2 C) from `photo_style`.
            unknown: (m, 2 C) likewise.
            known_share: position of the boundary on the way from the mean of the known styles to
                the mean of the unknown ones, in (0, 1).
        """
        both = torch.cat((known, unknown)).double()
        centre, scale = both.mean(0), both.std(0) + 1e-4
        ours, theirs = ((styles.double() - centre) / scale for styles in (known, unknown))
        deviations = torch.cat((ours - ours.mean(0), theirs - theirs.mean(0)))
        covariance = _shrunk_covariance(deviations, _FAMILIARITY_SHRINKAGE)
        direction = torch.linalg.solve(covariance, ours.mean(0) - theirs.mean(0))
        weight = direction / scale
        boundary = ours.mean(0) + known_share * (theirs.mean(0) - ours.mean(0))
        self.weight.copy_(weight)
        self.bias.copy_(-(direction @ boundary) - weight @ centre)


def photo_style(photo: Sequence[Tensor]) -> Tensor:
    """Returns the style of each image, (M, 2 C): mean and deviation of a map's channels.

    Args:
        photo: see `ImageFeatures.photo`.
    """
    return _style(photo[_LEVEL])


def _style(values: Tensor) -> Tensor:
    """Mean and deviation (M, 2 C) of the channels of an (M, C, H, W) map."""
    cells = values.float().flatten(2)
    return torch.cat((cells.mean(-1), cells.std(-1)), dim=1)
