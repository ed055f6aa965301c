"""Detections of the dense head in a group: names, their cells and masks, and how sure they are.

Legend: M images, L logit side of the dense head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from calico_model.inference.detection_odds import DetectionEvidence
from calico_model.inference.images import whole_shares, whole_to_padded
from calico_model.inference.sharpening import Guide
from calico_model.modeling.dense_head import DenseHead, pooled
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.types import BoolMask, RegionKind, RgbImage

_LEAST_SHARE = 6 / 96**2
"""Share of an image's cells; a detection of fewer cells is noise."""
_SMALL_SHARE = 0.005
"""Share of an image's cells; an object of that size is half as certain as a large one."""
_LEAST_PAIRS, _USUAL_SHARE, _LEAST_PLAUSIBLE = 4, 0.2, 0.02
_SHARPNESS = 8.0
"""Scores of the object classifier times this are log chances."""


_USUAL_IMAGES = 20
"""Number of images learned from, for a head without parts, which tell the number."""


@dataclass(frozen=True, eq=False)
class Detection:
    """A name that the dense head gives to some cells of an image.

    Attributes:
        image: 0-based position in the group.
        label: one of the names of the active adapter.
        is_object: whether it is the name of an object or of a part.
        certainty: mean probability of the name in these cells, in [0, 1].
        overlap: expected IoU of the cells with the truth, in [0, 1], by the chance of every cell.
        logits: (2L, 2L) in the padded square frame, above zero where no other name is likelier.
        cell_chances: (L, L) chance of each cell of the whole image to have the name.
        chance_right: chance in [0, 1] that an annotator would keep the region, see
            `DetectionEvidence`.
        mask: (H, W) bool sharpened on the pixels of the image; None without pixels.
    """

    image: int
    label: str
    is_object: bool
    certainty: float
    overlap: float
    logits: Tensor
    cell_chances: Tensor
    chance_right: float = 0.0
    mask: BoolMask | None = None


@dataclass(frozen=True, eq=False)
class DenseDetections:
    """Detections of the dense head for one image group.

    Attributes:
        detections: objects of all images, then their parts.
        known_parts, known_objects: names that the head has learned: it would detect them if they
            were there.
        trust: in all detections, in [0, 1].
    """

    detections: tuple[Detection, ...] = ()
    known_parts: frozenset[str] = frozenset()
    known_objects: frozenset[str] = frozenset()
    trust: float = 1.0


@torch.inference_mode()
def detect_regions(
    model: Calico,
    features: ImageFeatures,
    sizes_hw: Sequence[tuple[int, int]],
    images: Sequence[RgbImage] | None = None,
    *,
    is_alone: bool = False,
) -> DenseDetections:
    """Runs the dense head; detects nothing without a head, or with a head of no trust.

    Args:
        model: with its active adapter.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        images: pixels of the images, on which masks are sharpened; None sharpens nothing.
        is_alone: whether nothing else is asked about the images. There is nothing to weigh the
            head against then: it is trusted, and the chance of every detection says what is shown.
    """
    head = model.dense_head
    if head is None or not features.photo:
        return DenseDetections()
    names = head.active.names
    trust = 1.0 if is_alone and names else head.active.trust
    if not trust:
        return DenseDetections()
    parts, objects = head.class_logits(features)
    if names.parts:
        pairs = head.active.pairs.to(parts)
        parts[:, 1:] += _plausible(parts.softmax(1)[:, 1:], pairs)[..., None, None]
    detections: tuple[Detection, ...] = (
        *_detect_objects(head, features, objects, sizes_hw),
        *_detect_parts(parts, names.parts, sizes_hw),
    )
    detections = tuple(
        replace(detection, chance_right=_chance_right(evidence, head.active.shift))
        for detection, evidence in zip(
            detections, weigh_detections(detections, head, len(features.photo[0])), strict=True
        )
    )
    if images is not None:
        detections = _sharpen_masks(detections, parts.softmax(1)[:, 0], images)
    return DenseDetections(detections, frozenset(names.parts), frozenset(names.objects), trust)


def weigh_detections(
    detections: Sequence[Detection], head: DenseHead, images: int
) -> tuple[DetectionEvidence, ...]:
    """Collects what speaks for each detection of a group.

    Args:
        detections: of all images of the group.
        head: that detected them, with its active rows.
        images: in the group.
    """
    names = head.active.names
    counts = head.active.pairs.diagonal().tolist() if names.parts else []
    seen = dict(zip(names.parts, (int(count) for count in counts), strict=True))
    learned = max(seen.values()) if seen else _USUAL_IMAGES
    surest: dict[tuple[str, bool, int], float] = {}
    for one in detections:
        place = one.label, one.is_object, one.image
        surest[place] = max(surest.get(place, 0.0), one.certainty)

    def evidence_of(detection: Detection) -> DetectionEvidence:
        elsewhere = [
            surest.get((detection.label, detection.is_object, other), 0.0)
            for other in range(images)
            if other != detection.image
        ]
        return DetectionEvidence(
            is_object=detection.is_object,
            overlap=detection.overlap,
            certainty=detection.certainty,
            peak=float(detection.cell_chances.max()),
            elsewhere=max(elsewhere, default=None),
            images=learned,
            seen=learned if detection.is_object else seen[detection.label],
            names=len(names.objects if detection.is_object else names.parts),
        )

    return tuple(evidence_of(detection) for detection in detections)


def _chance_right(evidence: DetectionEvidence, shift: tuple[float, float]) -> float:
    return 1 / (1 + math.exp(-evidence.log_odds_right() - shift[evidence.is_object]))


def _sharpen_masks(
    detections: Sequence[Detection], no_part: Tensor, images: Sequence[RgbImage]
) -> tuple[Detection, ...]:
    """Draws the masks of detections on the pixels of the images.

    Args:
        detections: of a group.
        no_part: (M, L, L) chance that a cell is of no part.
        images: (H, W, 3) uint8 each.
    """
    masks: dict[int, BoolMask] = {}
    for image in sorted({detection.image for detection in detections}):
        guide = Guide(images[image])
        here = [detection for detection in detections if detection.image == image]
        for thing in here:
            if thing.is_object:
                masks[id(thing)] = guide.mask(guide.sharpen(thing.cell_chances[None])[0] - 0.5)
        parts = [detection for detection in here if not detection.is_object]
        chances = guide.sharpen(
            torch.stack([no_part[image], *(part.cell_chances for part in parts)])
        )
        for place, part in enumerate(parts, start=1):
            others = torch.cat((chances[:place], chances[place + 1 :])).amax(0)
            masks[id(part)] = guide.mask(chances[place] - others)
    return tuple(replace(detection, mask=masks[id(detection)]) for detection in detections)


@torch.inference_mode()
def chances_of_names(
    model: Calico,
    features: ImageFeatures,
    image: Sequence[int],
    masks: Sequence[BoolMask],
    kinds: Sequence[RegionKind | None],
) -> dict[str, Tensor]:
    """Returns how likely the dense head finds each of its names for outlined regions.

    Args:
        model, features: as in `detect_regions`.
        image: of R regions, 0-based positions in the group.
        masks: (H, W) bool of each region, in its image.
        kinds: of each region, None where unknown.

    Returns:
        Normal form of a name -> (R,) chance in [0, 1]; empty without a head to trust.
    """
    head = model.dense_head
    if head is None or not head.active.trust or not features.photo:
        return {}
    part_logits, object_logits = head.class_logits(features)
    side = part_logits.shape[-1]
    shares = torch.stack([whole_shares(mask, side) for mask in masks]).to(part_logits)
    inside = shares / shares.sum((1, 2), keepdim=True).clamp(min=1e-6)
    is_object = torch.tensor([kind is RegionKind.COMMON_OBJECT for kind in kinds])
    is_unknown = torch.tensor([kind is None for kind in kinds])
    kinds_left = 1 + is_unknown.float()  # a region of unknown kind is as likely a part as an object
    chances: dict[str, Tensor] = {}
    for logits, names, share in (
        (part_logits, head.active.names.parts, ~is_object / kinds_left),
        (object_logits, head.active.names.objects, (is_object | is_unknown) / kinds_left),
    ):
        chance = torch.einsum("rnij,rij->rn", logits.softmax(1)[list(image)], inside).cpu()
        for row, name in enumerate(names, start=1):
            chances[name] = chances.get(name, 0.0) + chance[:, row] * share
    return chances


@dataclass(frozen=True, eq=False)
class _ObjectRegion:
    """Connected cells of one image that are of some object; single cells may differ in the name.

    Attributes:
        image: 0-based position in the group.
        inside: (L, L) bool.
        by_cells: (objects,) log mean chance of the cells.
        by_whole: (objects,) log chance of the whole region by the object classifier.
    """

    image: int
    inside: Tensor
    by_cells: Tensor
    by_whole: Tensor


def _detect_objects(
    head: DenseHead,
    features: ImageFeatures,
    logits: Tensor,
    sizes_hw: Sequence[tuple[int, int]],
) -> list[Detection]:
    """Detects objects in (M, 1 + names, L, L) logits: all cells of a region get one name.

    The whole region and the other images decide the name: compared objects are mostly of one kind.
    """
    names = head.active.names.objects
    if not names:
        return []
    regions = [
        _ObjectRegion(image, inside, *_score_names(head, features, image, image_logits, inside))
        for image, image_logits in enumerate(logits)
        for inside in _connected(torch.logsumexp(image_logits[1:], 0) > image_logits[0])
    ]
    detections: dict[tuple[int, int], Detection] = {}
    by_group = _score_by_group(regions, len(logits), len(names))
    for region in regions:
        image_logits = logits[region.image]
        level = torch.logsumexp(image_logits[1:], 0) - image_logits[0]
        area = int(region.inside.sum())
        chance = (region.by_cells + region.by_whole + by_group.to(image_logits)).softmax(0)
        best = int(chance.argmax())
        certainty = float(chance[best] * level[region.inside].sigmoid().mean())
        certainty *= area / (area + _SMALL_SHARE * region.inside.numel())
        alone = torch.where(region.inside, level, level.clamp(max=-1e-3))
        mask = whole_to_padded(alone, sizes_hw[region.image])
        cell_chances = level.sigmoid() * region.inside
        other = detections.get((region.image, best))
        if other is not None:  # another region of that name in the image: both are one detection
            certainty = max(certainty, other.certainty)
            mask = torch.maximum(mask, other.logits)
            cell_chances = torch.maximum(cell_chances, other.cell_chances)
        overlap = expected_iou(level.sigmoid(), cell_chances > 0.5)
        detections[region.image, best] = Detection(
            region.image, names[best], True, certainty, overlap, mask, cell_chances
        )
    return list(detections.values())


def expected_iou(chance: Tensor, inside: Tensor) -> float:
    """Returns the expected IoU of some cells with the truth.

    Doubtful cells lower it, inside and outside.

    Args:
        chance: (L, L) chance of each cell to belong to the thing.
        inside: (L, L) bool, the cells.
    """
    shared = float(chance[inside].sum())
    return shared / max(1e-6, float(inside.sum()) + float(chance[~inside].sum()))


def _connected(inside: Tensor) -> list[Tensor]:
    """The connected regions of (L, L) bool cells that are large enough."""
    count, labels = cv2.connectedComponents(inside.cpu().numpy().astype(np.uint8))
    numbers = torch.from_numpy(labels).to(inside.device)
    regions = [numbers == number for number in range(1, count)]
    return [region for region in regions if int(region.sum()) >= _LEAST_SHARE * inside.numel()]


def _score_names(
    head: DenseHead, features: ImageFeatures, image: int, logits: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    """(objects,) log chances of a region's names: by its cells, and by the whole region."""
    by_cells = logits[1:].softmax(0)[:, inside].mean(1).clamp(min=1e-6).log()
    classifier = head.active.classifier
    if classifier is None:
        return by_cells, torch.zeros_like(by_cells)
    vector = pooled(features.photo[-1][image : image + 1], inside[None]).cpu()
    scores = classifier.scores(vector)[0].to(by_cells)
    return by_cells, (_SHARPNESS * scores).log_softmax(0)


def _score_by_group(regions: Sequence[_ObjectRegion], images: int, names: int) -> Tensor:
    """(objects,) mean over images of the log chance of the region that a name fits best."""
    scores = torch.zeros(names)
    for image in range(images):
        here = [region.by_whole.cpu() for region in regions if region.image == image]
        if here:
            scores += torch.stack(here).amax(0) / images
    return scores


def _plausible(chance: Tensor, pairs: Tensor) -> Tensor:
    """Log plausibility of every part beside the other parts of its image: (M, parts), at most 0.

    Args:
        chance: (M, parts, L, L) of every cell.
        pairs: (parts, parts), see `DenseRows.pairs`.
    """
    shown = chance.flatten(2).sum(-1)
    images = pairs.diagonal()
    # How often a part (row) is in an image that shows another part (column).
    often = pairs / (_USUAL_SHARE * images).clamp(min=1.0)
    often[:, images < _LEAST_PAIRS] = 1.0  # too few images show the other part
    log_often = often.clamp(_LEAST_PLAUSIBLE, 1.0).log().fill_diagonal_(0.0)
    return shown @ log_often.T / shown.sum(1, keepdim=True).clamp(min=1e-6)


def _detect_parts(
    logits: Tensor, names: Sequence[str], sizes_hw: Sequence[tuple[int, int]]
) -> list[Detection]:
    """Detects parts in (M, 1 + names, L, L) logits: every cell has its likeliest name."""
    chance, best = logits.softmax(1), logits.argmax(1)
    least = _LEAST_SHARE * best[0].numel()
    detections = []
    for image in range(len(logits)):
        for row, name in enumerate(names, start=1):
            inside = best[image] == row
            if inside.sum() < least:
                continue
            certainty = float(chance[image, row][inside].mean())
            others = logits[image].clone()
            others[row] = -torch.inf
            margin = logits[image, row] - others.amax(0)
            mask = whole_to_padded(margin, sizes_hw[image])
            overlap = expected_iou(chance[image, row], inside)
            detections.append(
                Detection(image, name, False, certainty, overlap, mask, chance[image, row])
            )
    return detections
