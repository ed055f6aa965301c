"""Which pictures the language model may be asked about: those that look like what it learned from.

CALICO learned its words from one kind of pictures, drawings in the shipped weights; of photographs
it then says what is wrong, and says it with confidence. A linear discriminant between the look of
both says which kind a group is of. Legend: M images, C channels of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.errors import InvalidConfigError
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.photo_trunk import kind_of

_LEVEL = 2  # stride 16: textures and simple shapes
_SHRINKAGE = 0.1


class Familiarity(nn.Module):
    """A line between two kinds of pictures; at first everything is familiar.

    Attributes:
        weight: (2 C,) of the look of an image.
        bias: (1,) above zero where pictures are familiar.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        if config.photo_trunk is None:
            raise InvalidConfigError("photo_trunk: familiarity needs one, got none")
        width = 2 * kind_of(config.photo_trunk.kind).widths[_LEVEL]
        self.register_buffer("weight", torch.zeros(width))
        self.register_buffer("bias", torch.ones(1))

    def covers(self, features: ImageFeatures) -> bool:
        """Whether the images of a group are familiar, on average."""
        if not features.photo:
            return True
        look = describe_maps(features.photo)
        return bool((look @ self.weight.to(look) + self.bias.to(look)).mean() > 0)

    @torch.no_grad()
    def fit(self, known: Tensor, unknown: Tensor, *, known_share: float) -> None:
        """Draws the line between (n, 2 C) looks of known and (m, 2 C) of unknown pictures.

        Args:
            known, unknown: from `describe_maps`.
            known_share: where on the way from the mean of the known to that of the unknown ones
                the line is, in (0, 1).
        """
        both = torch.cat((known, unknown)).double()
        centre, scale = both.mean(0), both.std(0) + 1e-4
        ours, theirs = ((one.double() - centre) / scale for one in (known, unknown))
        spread = torch.cat((ours - ours.mean(0), theirs - theirs.mean(0)))
        covariance = (1 - _SHRINKAGE) * spread.T @ spread / len(spread)
        covariance += _SHRINKAGE * torch.eye(len(centre), dtype=covariance.dtype)
        direction = torch.linalg.solve(covariance, ours.mean(0) - theirs.mean(0))
        weight = direction / scale
        at = ours.mean(0) + known_share * (theirs.mean(0) - ours.mean(0))
        self.weight.copy_(weight)
        self.bias.copy_(-(direction @ at) - weight @ centre)


def describe_maps(photo: Sequence[Tensor]) -> Tensor:
    """Returns the look of each image, (M, 2 C): mean and deviation of a map's channels.

    Args:
        photo: see `ImageFeatures.photo`.
    """
    flat = photo[_LEVEL].float().flatten(2)
    return torch.cat((flat.mean(-1), flat.std(-1)), dim=1)
