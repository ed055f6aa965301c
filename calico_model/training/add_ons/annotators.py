"""Simulated annotators for the mask refiner: the mask each wants, and each one's next action.

They work on the images as they are, as annotators of the product do: a click is answered by the
decoder and the refiner, and the answer is the earlier mask of the next click (SAM, appendix A;
RITM, section 3.3).
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
from calico_model.masks import extent_of
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.training.add_ons.encoded_groups import EncodedGroups
from calico_model.training.add_ons.recipes import RefinerRecipe
from calico_model.types import BoolMask

MIN_PIECE_SHARE = 0.001
"""Smallest share of the image at which one of several alike parts counts."""
_OBJECT_SHARE, _PIECE_SHARE = 0.3, 0.15  # of the wanted masks; the others are parts of one name
_AGAIN_SHARE = 0.4  # of first answers, which are refined twice
_CENTRED_SHARE = 0.7  # of the clicks; the others are anywhere in the error
_CORNER_NOISE = 0.05  # of the box's side
_MOVED, _GROWN = 0.06, 0.08  # of the extent of a spoiled mask


@dataclass
class Annotator:
    """A simulated annotator of one mask, with the actions so far.

    Attributes:
        picture: of (S, S) pixels.
        features: of that image.
        truth: (S, S) bool, the wanted mask; not empty.
        proposed: the model's first mask, which annotators without a prompt take.
        clicks, box, previous: see `MaskPrompt`.
        is_asking: False for annotators that give no prompt and take the model's mask.
        refined: the first answer, while it is refined once more; else None.
    """

    picture: Picture
    features: ImageFeatures
    truth: BoolMask
    proposed: Decoded | None = None
    clicks: list[Click] = field(default_factory=list)
    box: Box | None = None
    previous: BoolMask | None = None
    is_asking: bool = True
    refined: BoolMask | None = None

    @property
    def prompt(self) -> MaskPrompt | None:
        """The prompt of clicks, box and earlier mask; None without a request."""
        if not self.is_asking:
            return None
        return MaskPrompt(tuple(self.clicks), self.box, self.previous)

    def coarse(self, model: Calico) -> Coarse:
        """Returns the (S, S) mask that the refiner is to sharpen after the actions so far."""
        if self.refined is not None:
            return self.refined
        if self.proposed is not None and not self.is_asking:
            return self.proposed
        if self.previous is not None:
            return self.previous
        size_hw = self.truth.shape[0], self.truth.shape[1]
        assert self.prompt is not None
        _, _, logits = decode(model, self.features, size_hw, self.prompt)
        return Decoded.of(logits, size_hw, model.config.image_size)

    def see(self, mask: BoolMask, rng: np.random.Generator) -> bool:
        """Takes an answer and clicks in its error; returns False if there is none.

        An annotator who has just begun may have the answer refined once more, instead.
        """
        is_first = self.refined is None and self.previous is None and self.is_asking
        if is_first and mask.any() and rng.random() < _AGAIN_SHARE:
            self.refined = mask
            return True
        self.is_asking, self.refined = True, None
        self.previous = mask if mask.any() else None
        return self.click(mask, rng)

    def click(self, mask: BoolMask, rng: np.random.Generator) -> bool:
        """Clicks in the largest error of a mask; returns False if there is none."""
        click = click_in_error(mask, self.truth, rng, centred=_CENTRED_SHARE)
        self.clicks += [click] if click is not None else []
        return click is not None


def draw_annotators(
    model: Calico, groups: EncodedGroups, rng: np.random.Generator, recipe: RefinerRecipe
) -> list[Annotator]:
    """Draws annotators, each after the first action.

    Args:
        model: frozen; decodes proposals.
        groups: images to work on.
        rng: source of everything that is drawn.
        recipe: number of annotators, and shares of first actions.
    """
    annotators: list[Annotator] = []
    while len(annotators) < recipe.masks:
        annotator = _draw_annotator(model, groups, rng)
        if annotator is None:
            continue
        start = rng.random()
        if start < recipe.box_share:
            annotator.box = true_box(annotator.truth, rng, noise=_CORNER_NOISE)
        elif start < recipe.box_share + recipe.corrected_share:
            _correct(annotator, rng)
        elif start < recipe.box_share + recipe.corrected_share + recipe.unasked_share:
            _give_no_prompt(annotator, rng)
        else:
            annotator.click(np.zeros_like(annotator.truth), rng)
        annotators.append(annotator)
    return annotators


def _draw_annotator(
    model: Calico, groups: EncodedGroups, rng: np.random.Generator
) -> Annotator | None:
    """An annotator of an object, of a part with the model's proposal, or of one of many pieces.

    Returns None where the drawn mask is too small.
    """
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


def _correct(annotator: Annotator, rng: np.random.Generator) -> None:
    """Begins with the proposal, or with the spoiled truth, and clicks in its error."""
    proposed, truth = annotator.proposed, annotator.truth
    takes_proposal = proposed is not None and rng.random() < 0.6
    start = proposed.mask() if takes_proposal and proposed is not None else spoiled(truth, rng)
    annotator.previous = start if start.any() else None
    if not annotator.click(start, rng):
        annotator.click(np.zeros_like(truth), rng)


def _give_no_prompt(annotator: Annotator, rng: np.random.Generator) -> None:
    """Takes the proposal, or logits of the spoiled truth, as it is."""
    annotator.is_asking = False
    if annotator.proposed is None or rng.random() < 0.2:
        truth = annotator.truth
        blur = 1.5 * max(truth.shape) / 64
        soft = cv2.GaussianBlur(spoiled(truth, rng).astype(np.float32), (0, 0), blur)
        level = torch.from_numpy((soft - 0.5) * float(rng.uniform(6, 16)))
        height, width = level.shape
        # The image is its own square frame: the longer side is the frame's.
        annotator.proposed = Decoded.of(level, (height, width), max(level.shape))


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
    """Returns the mask moved, grown or shrunk, with parts cut out of it or added to it."""
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
        rng: source of everything that is drawn.
        centred: share of the clicks in the middle of the error; the others are anywhere in it.
    """
    click = next_click(mask, truth)
    if click is None:
        return None
    row, column = click.row, click.column
    if rng.random() >= centred:
        inside = np.argwhere(click.error)
        row, column = (int(at) for at in inside[int(rng.integers(len(inside)))])
    return Click(column + 0.5, row + 0.5, click.is_positive)


def true_box(truth: BoolMask, rng: np.random.Generator, *, noise: float) -> Box:
    """Returns the box of a mask; its corners are off by about `noise` of its sides."""
    extent = extent_of(truth)
    assert extent is not None  # true regions are not empty
    x0, y0, x1, y1 = extent
    across, down = rng.normal(0, noise, (2, 2)) * ((x1 - x0,), (y1 - y0,))
    return float(x0 + across[0]), float(y0 + down[0]), float(x1 + across[1]), float(y1 + down[1])
