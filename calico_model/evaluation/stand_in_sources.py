"""Sources made from the truth of labeled groups, with known faults: what trust must find out.

One is exact, one is shifted, one is random, and one outlines exactly under wrong names. They stand
in for real sources where the learning of trust is measured, because there the right order is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import numpy as np

from calico_model.errors import InvalidImageError
from calico_model.evaluation.regions import Crop, cut
from calico_model.inference.prompt import MaskPrompt
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.types import BoolMask, LabeledGroup, RgbImage, image_key

_SHIFTED_IOU = 0.65  # of a shifted region with the true one: useful, but to be corrected
_RANDOM_SHARE = (0.005, 0.25)  # of the image that a random mask covers


class Fault(StrEnum):
    """What is wrong with a stand-in; the value is its name."""

    EXACT = "exact"
    SHIFTED = "shifted"
    RENAMES = "renames"
    RANDOM = "random"


@dataclass(frozen=True, eq=False)
class TrueRegion:
    """A region of an image as it is labeled.

    Attributes:
        label: its name.
        mask: (H, W) bool.
    """

    label: str
    mask: BoolMask


@dataclass(frozen=True)
class Truth:
    """The labeled regions of a whole set, cropped.

    Attributes:
        regions: name and mask of the regions of each image, by the hash of its content.
        labels: all names, in alphabetical order.
    """

    regions: Mapping[str, Mapping[str, Crop]]
    labels: tuple[str, ...]


def true_regions(group: LabeledGroup, image_index: int) -> tuple[TrueRegion, ...]:
    """Returns the labeled regions of one image, those of equal name once."""
    regions: dict[str, TrueRegion] = {}
    for part in group.parts:
        if part.image_index == image_index and part.mask.any():
            regions.setdefault(part.label, TrueRegion(part.label, part.mask))
    return tuple(regions.values())


class StandInSource:
    """A source with the abilities CLICK and TEXT that knows the truth and spoils it.

    Args:
        fault: how.
        truth: of all images that it will see. The one that renames calls each label by the next.
        seed: of what is drawn at random.
    """

    def __init__(self, fault: Fault, truth: Truth, seed: int = 0) -> None:
        self._fault, self._truth, self._seed = fault, truth, seed
        labels = truth.labels
        self._next = dict(zip(labels, [*labels[1:], *labels[:1]], strict=True))

    def describe(self) -> SourceDescription:
        """Returns its name and abilities; it has no weights."""
        abilities = frozenset({Ability.CLICK, Ability.TEXT})
        return SourceDescription(self._fault, abilities, f"stand-in {self._seed}", "none", 0)

    def encode(self, image: RgbImage) -> Encoding:
        """Finds the truth of an image.

        Raises:
            InvalidImageError: the image is in no labeled group.
        """
        key = image_key(image)
        if key not in self._truth.regions:
            raise InvalidImageError("image: expected one of the labeled groups")
        return Encoding((image.shape[0], image.shape[1]), key, len(key))

    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        """Returns the true regions of the asked names, spoiled; as many at random as are true."""
        truth = self._truth.regions[encoding.state]
        rng = self._rng(encoding.state)
        if self._fault is Fault.RANDOM:
            drawn = rng.choice(len(names), min(len(truth), len(names)), replace=False)
            return [
                SourceMask(_ellipse(rng, encoding.size_hw), float(rng.random()), names[place])
                for place in sorted(drawn.tolist())
            ]
        masks = []
        for name, crop in truth.items():
            label = self._next[name] if self._fault is Fault.RENAMES else name
            if label in names:
                masks.append(SourceMask(self._spoiled(_whole(crop), rng), 0.9, label))
        return masks

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Returns the true regions under the last click, smallest first, spoiled.

        Without a true region there, and without a click, it returns a random one.
        """
        height, width = encoding.size_hw
        rng = self._rng(f"{encoding.state} {prompt.clicks} {prompt.box}")
        click = prompt.clicks[-1] if prompt.clicks else None
        if click is None:
            return [SourceMask(_ellipse(rng, encoding.size_hw), 0.5)]
        row = min(max(int(click.y), 0), height - 1)
        column = min(max(int(click.x), 0), width - 1)
        crops = self._truth.regions[encoding.state].values()
        under = [mask for crop in crops if (mask := _whole(crop))[row, column]]
        if self._fault is Fault.RANDOM or not under:
            return [SourceMask(_ellipse(rng, encoding.size_hw, (row, column)), 0.5)]
        under.sort(key=np.count_nonzero)
        return [SourceMask(self._spoiled(mask, rng), 0.9) for mask in under]

    def _rng(self, words: str) -> np.random.Generator:
        digest = sha256(f"{self._seed} {self._fault} {words}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def _spoiled(self, mask: BoolMask, rng: np.random.Generator) -> BoolMask:
        return _shifted(mask, rng) if self._fault is Fault.SHIFTED else mask


def read_truth(groups: Iterable[LabeledGroup]) -> Truth:
    """Reads the regions of labeled groups once; images that stand in several groups are joined."""
    regions: dict[str, dict[str, Crop]] = {}
    for group in groups:
        for index, key in enumerate(group.group.keys):
            crops = {one.label: cut(one.mask) for one in true_regions(group, index)}
            regions.setdefault(key, {}).update(crops)
    labels = {label for crops in regions.values() for label in crops}
    return Truth(regions, tuple(sorted(labels)))


def _whole(crop: Crop) -> BoolMask:
    """The mask of a crop, in the pixels of its image."""
    height, width = crop.size_hw
    return crop.window((0, height, 0, width))


def _ellipse(
    rng: np.random.Generator, size_hw: tuple[int, int], around: tuple[int, int] | None = None
) -> BoolMask:
    """A random ellipse: anywhere, or around a pixel (row, column)."""
    height, width = size_hw
    low, high = np.log(_RANDOM_SHARE)
    area = float(np.exp(rng.uniform(low, high))) * height * width
    stretch = float(np.exp(rng.uniform(-0.7, 0.7)))
    half = np.sqrt(area / np.pi) * np.array([stretch, 1.0 / stretch])
    centre = rng.uniform((0.0, 0.0), (height, width))
    if around is not None:
        centre = np.asarray(around) + rng.uniform(-0.6, 0.6, 2) * half
    rows, columns = np.ogrid[:height, :width]
    inside = ((rows - centre[0]) / half[0]) ** 2 + ((columns - centre[1]) / half[1]) ** 2 <= 1.0
    if around is not None:
        inside[around] = True
    mask: BoolMask = inside
    return mask


def _shifted(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Moves a mask in a random direction, so far that its IoU with itself is about 0.65."""
    angle = float(rng.uniform(0.0, 2.0 * np.pi))
    step = np.array([np.sin(angle), np.cos(angle)])
    area = int(np.count_nonzero(mask))
    best, best_miss = mask, np.inf
    for pixels in range(1, max(mask.shape)):
        row, column = np.rint(pixels * step).astype(int)
        moved = _moved(mask, int(row), int(column))
        shared = int(np.count_nonzero(moved & mask))
        iou = shared / max(1, area + int(np.count_nonzero(moved)) - shared)
        if abs(iou - _SHIFTED_IOU) < best_miss:
            best, best_miss = moved, abs(iou - _SHIFTED_IOU)
        if iou < _SHIFTED_IOU:
            break
    return best


def _moved(mask: BoolMask, down: int, right: int) -> BoolMask:
    """The mask moved by whole pixels; what leaves the image is lost."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    if abs(down) < height and abs(right) < width:
        moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = mask[
            max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
        ]
    return moved
