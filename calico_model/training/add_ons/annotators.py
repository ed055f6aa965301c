"""Simulated annotators for the mask refiner: what they want outlined, and what they do next.

They work on the images as they are, in the product's own way: a click is answered by the decoder
and the refiner, its answer is the next click's earlier mask (SAM, appendix A; RITM, section 3.3).
Legend: S scene side, L logit side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from calico_model.data.comparison import MIN_OBJECT_SHARE, MIN_PART_SHARE
from calico_model.evaluation.annotator import next_click
from calico_model.inference.low_res_mask import Coarse, Decoded
from calico_model.inference.mask_refinement import Picture, picture_of
from calico_model.inference.prompt import Box, Click, MaskPrompt
from calico_model.interactive.clicks import decode
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.training.add_ons.encoded_groups import EncodedGroups
from calico_model.training.add_ons.recipes import RefinerRecipe
from calico_model.types import BoolMask

MIN_PIECE_SHARE = 0.001
"""Smallest share of the image at which one of several alike parts counts."""
_OBJECT_SHARE, _PIECE_SHARE = 0.3, 0.15  # of what is wanted; the others are parts of one name
_AGAIN_SHARE = 0.4  # of first answers, which are looked at twice
_CENTRED_SHARE = 0.7  # of the clicks; the others are anywhere in what is wrong
_CORNER_NOISE = 0.05  # of the box's side
_MOVED, _GROWN = 0.06, 0.08  # of the extent of a mask that is not right


@dataclass
class Annotator:
    """Somebody who wants one mask, and what they have done so far.

    Attributes:
        picture: of (S, S) pixels.
        features: of that image.
        truth: (S, S) bool, what is wanted; not empty.
        proposed: what the model began with, for those who ask for nothing.
        clicks, box, previous: see `MaskPrompt`.
        is_asking: False for those who only take what the model has.
        found: what the first look led to, while the second is taken.
    """

    picture: Picture
    features: ImageFeatures
    truth: BoolMask
    proposed: Decoded | None = None
    clicks: list[Click] = field(default_factory=list)
    box: Box | None = None
    previous: BoolMask | None = None
    is_asking: bool = True
    found: BoolMask | None = None

    @property
    def prompt(self) -> MaskPrompt | None:
        """What the model is told."""
        if not self.is_asking:
            return None
        return MaskPrompt(tuple(self.clicks), self.box, self.previous)

    def coarse(self, model: Calico) -> Coarse:
        """Returns the (S, S) mask that what was done so far begins with."""
        if self.found is not None:
            return self.found
        if self.proposed is not None and not self.is_asking:
            return self.proposed
        if self.previous is not None:
            return self.previous
        size_hw = self.truth.shape[0], self.truth.shape[1]
        assert self.prompt is not None
        _, _, logits = decode(model, self.features, size_hw, self.prompt)
        return Decoded.of(logits, size_hw, model.config.image_size)

    def see(self, mask: BoolMask, rng: np.random.Generator) -> bool:
        """Looks at an answer and clicks in what is wrong; returns False if nothing is.

        Who has just begun may let the model look again where its answer is, instead.
        """
        is_first = self.found is None and self.previous is None and self.is_asking
        if is_first and mask.any() and rng.random() < _AGAIN_SHARE:
            self.found = mask
            return True
        self.is_asking, self.found = True, None
        self.previous = mask if mask.any() else None
        return self.click(mask, rng)

    def click(self, mask: BoolMask, rng: np.random.Generator) -> bool:
        """Clicks in the largest error of a mask; returns False if there is none."""
        found = click_in_error(mask, self.truth, rng, centred=_CENTRED_SHARE)
        self.clicks += [found] if found is not None else []
        return found is not None


def draw_annotators(
    model: Calico, groups: EncodedGroups, rng: np.random.Generator, recipe: RefinerRecipe
) -> list[Annotator]:
    """Draws annotators, each after what they do first.

    Args:
        model: frozen; answers for proposals.
        groups: images to work on.
        rng: source of all choices.
        recipe: how many, and how they begin.
    """
    found: list[Annotator] = []
    while len(found) < recipe.masks:
        one = _draw_wish(model, groups, rng)
        if one is None:
            continue
        start = rng.random()
        if start < recipe.box_share:
            one.box = true_box(one.truth, rng, noise=_CORNER_NOISE)
        elif start < recipe.box_share + recipe.corrected_share:
            _correct(one, rng)
        elif start < recipe.box_share + recipe.corrected_share + recipe.unasked_share:
            _ask_nothing(one, rng)
        else:
            one.click(np.zeros_like(one.truth), rng)
        found.append(one)
    return found


def _draw_wish(model: Calico, groups: EncodedGroups, rng: np.random.Generator) -> Annotator | None:
    """An object, a part with what the model proposes for it, or one of several alike pieces."""
    kind = rng.random()
    if kind < _OBJECT_SHARE:
        at = int(rng.integers(len(groups.objects)))
        objects = groups.objects[at].numpy()
        truth = objects == 1 + int(rng.integers(objects.max() or 1))
        if truth.mean() < MIN_OBJECT_SHARE:
            return None
        return Annotator(*_picture(model, groups, at), truth)
    index = int(rng.integers(len(groups.prompt)))
    at = int(groups.prompt_image[index])
    truth = groups.parts[at].numpy() == int(groups.prompt_part[index])
    if truth.mean() < MIN_PART_SHARE:
        return None
    if kind < _OBJECT_SHARE + _PIECE_SHARE:
        pieces = pieces_of(truth)
        if not pieces:
            return None
        return Annotator(*_picture(model, groups, at), pieces[int(rng.integers(len(pieces)))])
    picture, features = _picture(model, groups, at)
    with torch.no_grad():
        only = torch.zeros(1, dtype=torch.int64)
        logits, _ = model.mask_decoder(features.mask, only, groups.prompt[index][None, None])
    size_hw = truth.shape[0], truth.shape[1]
    proposed = Decoded.of(logits[0, 0], size_hw, model.config.image_size)
    return Annotator(picture, features, truth, proposed)


def _picture(model: Calico, groups: EncodedGroups, at: int) -> tuple[Picture, ImageFeatures]:
    features = groups.features.image(at)
    return picture_of(model, features, 0, groups.images[at].numpy()), features


def _correct(one: Annotator, rng: np.random.Generator) -> None:
    """Begins with the proposal, or with something like the truth, and clicks in what is wrong."""
    is_own = one.proposed is not None and rng.random() < 0.6
    start = one.proposed.mask() if is_own and one.proposed is not None else spoiled(one.truth, rng)
    one.previous = start if start.any() else None
    if not one.click(start, rng):
        one.click(np.zeros_like(one.truth), rng)


def _ask_nothing(one: Annotator, rng: np.random.Generator) -> None:
    """Takes the proposal, or something like it, as it is."""
    one.is_asking = False
    if one.proposed is None or rng.random() < 0.2:
        side = max(one.truth.shape) / 64
        soft = cv2.GaussianBlur(spoiled(one.truth, rng).astype(np.float32), (0, 0), 1.5 * side)
        level = torch.from_numpy((soft - 0.5) * float(rng.uniform(6, 16)))
        height, width = level.shape
        one.proposed = Decoded.of(level, (height, width), max(level.shape))  # a frame of its own


def pieces_of(mask: BoolMask) -> list[BoolMask]:
    """Returns the 8-connected pieces of a mask that are large enough to count, largest first.

    Args:
        mask: (S, S) bool.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    large = [k for k in np.argsort(-areas) if areas[k] >= MIN_PIECE_SHARE * mask.size]
    return [labels == k + 1 for k in large]


def spoiled(truth: BoolMask, rng: np.random.Generator) -> BoolMask:
    """The mask moved, grown or shrunk, with a bite out of it or a bump on it."""
    rows, columns = np.nonzero(truth)
    extent = max(4.0, float(max(np.ptp(rows), np.ptp(columns))))
    down, across = rng.normal(0, _MOVED * extent, 2)
    move = np.array([[1, 0, across], [0, 1, down]], np.float32)
    mask = cv2.warpAffine(truth.astype(np.uint8), move, truth.shape[::-1])
    size = 1 + 2 * round(abs(rng.normal(0, _GROWN * extent)) / 2)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    mask = (cv2.dilate if rng.random() < 0.5 else cv2.erode)(mask, kernel)
    for _ in range(int(rng.integers(3))):
        at = int(rng.integers(len(rows)))
        radius = int(extent * rng.uniform(0.1, 0.35))
        cv2.circle(mask, (int(columns[at]), int(rows[at])), radius, int(rng.integers(2)), -1)
    return mask.astype(np.bool_)


def click_in_error(
    mask: BoolMask, truth: BoolMask, rng: np.random.Generator, *, centred: float
) -> Click | None:
    """Clicks in the largest error of a mask, None if there is none.

    Args:
        mask, truth: (H, W) bool.
        rng: source of all choices.
        centred: share of the clicks in its middle; the others are anywhere in it.
    """
    found = next_click(mask, truth)
    if found is None:
        return None
    row, column = found.row, found.column
    if rng.random() >= centred:
        inside = np.argwhere(found.error)
        row, column = (int(at) for at in inside[int(rng.integers(len(inside)))])
    return Click(column + 0.5, row + 0.5, found.is_positive)


def true_box(truth: BoolMask, rng: np.random.Generator, *, noise: float) -> Box:
    """The true box, off by a share of its sides."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    across, down = rng.normal(0, noise, (2, 2)) * ((x1 - x0,), (y1 - y0,))
    return float(x0 + across[0]), float(y0 + down[0]), float(x1 + across[1]), float(y1 + down[1])
