"""Online training of the dense head: a few steps at a time on kept maps of corrected images.

Cheap steps come first: on coarse cells, which cost a third, until most of the time is over, then on
fine cells. Knows tensors and images; not seconds, nor when to end.
Legend: n images, L logit side, W width of a cell.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.inference.dense_detection import expected_iou
from calico_model.inference.detection_odds import log_odds
from calico_model.loading.placement import is_fast_in_half
from calico_model.modeling.adapter import (
    DENSE_CLASSIFIER,
    DENSE_PAIRS,
    DENSE_ROWS,
    DENSE_SHIFT,
    DENSE_TRUST,
    Adapter,
    classifier_tensors,
)
from calico_model.modeling.dense_head import (
    DenseHead,
    DenseNames,
    ObjectClassifier,
    pooled,
    split,
)
from calico_model.training.engine import make_step
from calico_model.training.online.dense_batches import collate_dense, dense_loss
from calico_model.training.online.example import DenseImage
from calico_model.training.online.muon import Muon
from calico_model.training.online.plan import DensePlan

_CLIP_NORM = 1.0
_RECENT = 48  # last steps, by whose overlap the head's trust is set
_TRUSTED = (0.2, 0.45)  # overlap at which trust is 0, and at which it is 1
_RIDGE = 0.3
_MEASURED = 24  # learned images on which the head's confidence is measured
# Mean log odds of the expected overlap of parts, and of objects, of trained heads, and how much
# less often more confident heads are right: fitted together with the odds of detections, on the
# same heads. More confident heads are not more often wrong about objects.
_USUAL_CONFIDENCE, _CONFIDENCE_WEIGHT = (2.2, 3.4), (-0.7, 0.0)
_SHIFTS = (-2.5, 1.5)


@dataclass(frozen=True, eq=False)
class DenseViews:
    """One corrected image with its views.

    Attributes:
        views: the image as it is, then augmented views of it.
        weight: relative frequency at which it is drawn.
    """

    views: tuple[DenseImage, ...]
    weight: float = 1.0


class DenseHeadLearner:
    """The dense head and the rows of its names, with their optimiser.

    Attributes:
        names: of the rows: those of the start, then new ones.
        rows: (rows, W) that learn.
    """

    def __init__(
        self,
        head: DenseHead,
        plan: DensePlan,
        start: Adapter | None,
        images: Sequence[DenseViews],
        *,
        seed: int,
    ) -> None:
        """Begins with the head as it is.

        Args:
            head: of the model, with the start's parameters.
            plan: how to learn.
            start: adapter whose rows to go on from, None for none.
            images: to learn from.
            seed: of everything that is drawn.
        """
        self._head, self._plan = head, plan
        self._device = head.first.device
        self._half = is_fast_in_half(self._device)
        self._images = [
            image for image in images if image.views[0].knows_parts or image.views[0].knows_objects
        ]
        self.names = _names_of(self._images, start)
        if not self.names:  # without rows there is nothing to tell apart
            self._images = []
        self._weights = _weights_of(self._images, plan.balance)
        self.rows = _first_rows(head, self.names, start).to(self._device)
        self._start = {} if start is None else _dense_tensors(start)
        self._choose = random.Random(f"{seed}/dense")
        self._drop = torch.Generator().manual_seed(seed)
        self._overlaps: deque[float] = deque(maxlen=_RECENT)
        body = [p.requires_grad_(True) for n, p in head.named_parameters() if n != "first"]
        self._matrices = [p for p in body if p.ndim > 1]
        self._others = [*(p for p in body if p.ndim <= 1), self.rows.requires_grad_(True)]
        self._matrix_optimiser = Muon(
            self._matrices, plan.matrix_rate, weight_decay=plan.weight_decay
        )
        self._optimiser = torch.optim.AdamW(
            self._others, lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The adapter's tensors of the dense head beside its body, which is in the model."""
        if not self._images:
            return self._start
        low, high = _TRUSTED
        recent = sum(self._overlaps) / max(1, len(self._overlaps))
        tensors = {
            DENSE_ROWS: self.rows.detach().float().cpu().clone(),
            DENSE_PAIRS: _pairs(self._images, self.names),
            DENSE_TRUST: torch.tensor([min(1.0, max(0.0, (recent - low) / (high - low)))]),
            DENSE_SHIFT: torch.tensor(shift_of(self._confidence())),
        }
        classifier = fit_classifier([image.views[0] for image in self._images], self.names.objects)
        return tensors if classifier is None else tensors | classifier_tensors(classifier)

    def learn(self, rate: float, *, coarse: bool) -> dict[str, float]:
        """Makes the plan's steps at a share of the peak rate.

        Args:
            rate: share of the peak rate, in [0, 1].
            coarse: learn on coarse cells.

        Returns:
            The last loss as "dense" and the last "overlap"; empty without images.
        """
        if not self._images:
            return {}
        for _ in range(self._plan.steps):
            drawn = self._choose.choices(self._images, self._weights, k=self._plan.batch)
            images = [self._choose.choice(image.views) for image in drawn]
            batch = collate_dense(images, self.names, self._device, coarse=coarse)
            levels = [*batch.levels[:-1], self._dropped(batch.levels[-1])]
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                cells = self._head(levels, coarse=coarse)
            loss, overlap = dense_loss(cells, self.rows, batch, self.names)
            self._overlaps.append(overlap)
            torch.autograd.backward(loss)
            peak = self._plan.matrix_rate * rate
            make_step(self._matrix_optimiser, self._matrices, peak, _CLIP_NORM)
            make_step(self._optimiser, self._others, self._plan.rate * rate, _CLIP_NORM)
        return {"dense": float(loss.detach()), "overlap": overlap}

    @torch.no_grad()
    def _confidence(self) -> tuple[list[float], list[float]]:
        """Log odds of the expected overlap of parts, and of objects, in learned images."""
        log_odds_of: tuple[list[float], list[float]] = ([], [])
        for image in self._images[:: max(1, len(self._images) // _MEASURED)]:
            batch = collate_dense(image.views[:1], self.names, self._device, coarse=False)
            cells = self._head(batch.levels).cells.float()
            logits = torch.einsum("rw,nwij->nrij", self.rows, cells)
            parts, objects = (layer[0] for layer in split(logits, self.names))
            best, chance = parts.argmax(0), parts.softmax(0)
            for row in sorted(set(batch.parts.flatten().tolist())):
                if row and bool((best == row).any()):
                    log_odds_of[0].append(log_odds(expected_iou(chance[row], best == row)))
            if bool((batch.objects > 0).any()):
                level = (torch.logsumexp(objects[1:], 0) - objects[0]).sigmoid()
                log_odds_of[1].append(log_odds(expected_iou(level, level > 0.5)))
        return log_odds_of

    def _dropped(self, deepest: Tensor) -> Tensor:
        """(n, C, h, w) with some channels of each image at 0, the others scaled up (dropout)."""
        kept = torch.rand(deepest.shape[:2], generator=self._drop) >= self._plan.dropout
        share = kept.to(deepest) / (1 - self._plan.dropout)
        return deepest * share[..., None, None]


def shift_of(confidence: tuple[Sequence[float], Sequence[float]]) -> list[float]:
    """Returns `DenseRows.shift` of a head of this confidence: log odds of parts, and of objects."""
    shifts = [
        weight * (sum(values) / len(values) - usual) if values else 0.0
        for values, usual, weight in zip(
            confidence, _USUAL_CONFIDENCE, _CONFIDENCE_WEIGHT, strict=True
        )
    ]
    return [min(max(shift, _SHIFTS[0]), _SHIFTS[1]) for shift in shifts]


def fit_classifier(images: Sequence[DenseImage], names: Sequence[str]) -> ObjectClassifier | None:
    """Fits a classifier of whole objects in closed form; None with fewer than two names.

    Args:
        images: corrected images.
        names: of the objects.
    """
    shown = [
        (image, code, names.index(name))
        for image in images
        for code, name in enumerate(image.object_names, start=1)
        if bool((image.objects == code).any())
    ]
    if len({name for _, _, name in shown}) < 2:
        return None
    inside = torch.stack([image.objects == code for image, code, _ in shown])
    vectors = pooled(torch.stack([image.maps[-1] for image, _, _ in shown]), inside)
    wanted = functional.one_hot(torch.tensor([name for _, _, name in shown]), len(names)).float()
    mean, scale = vectors.mean(0), vectors.std(0) + 1e-2
    unit = functional.normalize((vectors - mean) / scale, dim=1)
    bias = wanted.mean(0)
    kernel = unit @ unit.T + _RIDGE * torch.eye(len(unit))
    weight = torch.linalg.solve(kernel, wanted - bias).T @ unit
    return ObjectClassifier(mean, scale, weight, bias)


def _names_of(images: Sequence[DenseViews], start: Adapter | None) -> DenseNames:
    known = DenseNames() if start is None else start.dense
    parts = {name for image in images for name in image.views[0].part_names}
    objects = {name for image in images for name in image.views[0].object_names}
    return DenseNames(
        (*known.parts, *sorted(parts - set(known.parts))),
        (*known.objects, *sorted(objects - set(known.objects))),
    )


def _weights_of(images: Sequence[DenseViews], balance: float) -> list[float]:
    """How often each image is drawn: more often if it shows a part that few images show."""
    shown = Counter(name for image in images for name in image.views[0].part_names)
    weights = []
    for image in images:
        rarest = min((shown[name] for name in image.views[0].part_names), default=len(images))
        weights.append(image.weight * rarest**-balance)
    return weights


def _first_rows(head: DenseHead, names: DenseNames, start: Adapter | None) -> Tensor:
    """(rows, W): of the start where it has the name, else the head's first values."""
    nothing, something = head.first.detach().float().cpu()
    parts = torch.stack([nothing, *[something] * len(names.parts)])
    objects = torch.stack([nothing, *[something] * len(names.objects)])
    if start is not None and start.dense:
        known = 1 + len(start.dense.parts)
        rows = start.tensors[DENSE_ROWS].to(parts)
        parts[:known], objects[: len(rows) - known] = rows[:known], rows[known:]
    return torch.cat((parts, objects))


def _pairs(images: Sequence[DenseViews], names: DenseNames) -> Tensor:
    """(parts, parts) number of images that show both parts; on the diagonal, that show the part."""
    rows = {name: row for row, name in enumerate(names.parts)}
    pairs = torch.zeros(len(rows), len(rows))
    for image in images:
        shown = torch.zeros(len(rows))
        for name in image.views[0].part_names:
            shown[rows[name]] = 1.0
        pairs += torch.outer(shown, shown)
    return pairs


def _dense_tensors(adapter: Adapter) -> dict[str, Tensor]:
    wanted = (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST, DENSE_SHIFT, *DENSE_CLASSIFIER)
    return {name: adapter.tensors[name] for name in wanted if name in adapter.tensors}
