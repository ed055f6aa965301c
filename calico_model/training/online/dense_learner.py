"""What an online update teaches the dense head.

Cheap steps first: on coarse cells, which cost a third, until most of the time has gone, then on
fine ones. Works on kept maps. Knows tensors and images; not seconds, nor when to end.
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

from calico_model.inference.dense_detection import expected_iou, log_odds
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

_CLIP_NORM = 1.0
_RECENT = 24  # steps by whose overlap a head is trusted
_TRUSTED = (0.2, 0.45)  # overlap at which it is not, and at which it is
_RIDGE = 0.3
_ASKED = 24  # learned images that tell how sure a head has become
# Mean log odds of the expected overlap of parts, and of objects, that heads learned in 30 s, and
# how much less often surer ones are right: measured on heads of 30 and 150 s on two sets.
_USUALLY_SURE, _SURENESS_WEIGHT = (1.85, 3.0), (-1.2, -1.0)
_SHIFTS = (-2.5, 1.5)


@dataclass(frozen=True)
class DensePlan:
    """How the dense head learns in an update.

    Attributes:
        steps: between two looks at the clock.
        batch: images in each.
        rate: peak learning rate of the body and of the rows.
        weight_decay: of AdamW.
        coarse: share of the update that is spent on coarse cells.
        balance: how much more often images of rare names are drawn, as a power of their rarity.
        dropout: share of the deepest map's channels that a step does without, so that no name hangs
            on a few of them.
        images: views and images that are learned from, at most, as long as every image has one.
        most_views: of one image, beside itself.
    """

    steps: int = 8
    batch: int = 8
    rate: float = 3e-3
    weight_decay: float = 0.05
    coarse: float = 0.7
    balance: float = 0.5
    dropout: float = 0.3
    images: int = 200
    most_views: int = 5

    def views_for(self, images: int) -> int:
        """Views of each of so many images."""
        return max(0, min(self.most_views, self.images // max(1, images) - 1))


@dataclass(frozen=True, eq=False)
class DenseLesson:
    """One corrected image with its views.

    Attributes:
        views: the image as it is, then other views of it.
        weight: how often it is drawn, relatively.
    """

    views: tuple[DenseImage, ...]
    weight: float = 1.0


class DenseLearner:
    """The dense head with its optimiser; lives as long as the model is lent.

    Attributes:
        names: of the rows: those of the start, then new ones.
        rows: (rows, W).
    """

    def __init__(
        self,
        head: DenseHead,
        plan: DensePlan,
        start: Adapter | None,
        lessons: Sequence[DenseLesson],
        *,
        seed: int,
    ) -> None:
        """Begins with the head as it is.

        Args:
            head: of the model, wearing the start.
            plan: how to learn.
            start: adapter whose rows to go on from, None for none.
            lessons: images to learn from.
            seed: of all that is drawn.
        """
        self._head, self._plan = head, plan
        self._device = head.first.device
        self._half = is_fast_in_half(self._device)
        self._lessons = [
            one for one in lessons if one.views[0].knows_parts or one.views[0].knows_objects
        ]
        self.names = _names_of(self._lessons, start)
        if not self.names:  # no row: nothing can be told apart
            self._lessons = []
        self._weights = _weights_of(self._lessons, plan.balance)
        self.rows = _first_rows(head, self.names, start).to(self._device)
        self._start = {} if start is None else _dense_tensors(start)
        self._choose = random.Random(f"{seed}/dense")
        self._drop = torch.Generator().manual_seed(seed)
        self._overlaps: deque[float] = deque(maxlen=_RECENT)
        body = [p.requires_grad_(True) for n, p in head.named_parameters() if n != "first"]
        self._trained = [*body, self.rows.requires_grad_(True)]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What an adapter holds of it beside the body, which is the model's own."""
        if not self._lessons:
            return self._start
        low, high = _TRUSTED
        recent = sum(self._overlaps) / max(1, len(self._overlaps))
        found = {
            DENSE_ROWS: self.rows.detach().float().cpu().clone(),
            DENSE_PAIRS: _pairs(self._lessons, self.names),
            DENSE_TRUST: torch.tensor([min(1.0, max(0.0, (recent - low) / (high - low)))]),
            DENSE_SHIFT: torch.tensor(shift_of(self._sureness())),
        }
        classifier = fit_classifier([one.views[0] for one in self._lessons], self.names.objects)
        return found if classifier is None else found | classifier_tensors(classifier)

    def learn(self, rate: float, *, coarse: bool) -> dict[str, float]:
        """Makes its steps at a share of the peak rate; returns the last loss and overlap."""
        if not self._lessons:
            return {}
        for _ in range(self._plan.steps):
            drawn = self._choose.choices(self._lessons, self._weights, k=self._plan.batch)
            images = [self._choose.choice(one.views) for one in drawn]
            batch = collate_dense(images, self.names, self._device, coarse=coarse)
            levels = [*batch.levels[:-1], self._dropped(batch.levels[-1])]
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                told = self._head(levels, coarse=coarse)
            loss, overlap = dense_loss(told, self.rows, batch, self.names)
            self._overlaps.append(overlap)
            torch.autograd.backward(loss)
            make_step(self._optimiser, self._trained, self._plan.rate * rate, _CLIP_NORM)
        return {"dense": float(loss.detach()), "overlap": overlap}

    @torch.no_grad()
    def _sureness(self) -> tuple[list[float], list[float]]:
        """Log odds of the expected overlap of parts, and of objects, it has learned."""
        found: tuple[list[float], list[float]] = ([], [])
        for one in self._lessons[:: max(1, len(self._lessons) // _ASKED)]:
            batch = collate_dense(one.views[:1], self.names, self._device, coarse=False)
            cells = self._head(batch.levels).cells.float()
            logits = torch.einsum("rw,nwij->nrij", self.rows, cells)
            parts, objects = (layer[0] for layer in split(logits, self.names))
            best, chance = parts.argmax(0), parts.softmax(0)
            for row in sorted(set(batch.parts.flatten().tolist())):
                if row and bool((best == row).any()):
                    found[0].append(log_odds(expected_iou(chance[row], best == row)))
            if bool((batch.objects > 0).any()):
                level = (torch.logsumexp(objects[1:], 0) - objects[0]).sigmoid()
                found[1].append(log_odds(expected_iou(level, level > 0.5)))
        return found

    def _dropped(self, deepest: Tensor) -> Tensor:
        """(n, C, h, w) without some channels of each image, the others larger for it."""
        kept = torch.rand(deepest.shape[:2], generator=self._drop) >= self._plan.dropout
        share = kept.to(deepest) / (1 - self._plan.dropout)
        return deepest * share[..., None, None]


def shift_of(sureness: tuple[Sequence[float], Sequence[float]]) -> list[float]:
    """Returns `DenseRows.shift` of a head that is so sure of parts and objects it has learned."""
    told = zip(sureness, _USUALLY_SURE, _SURENESS_WEIGHT, strict=True)
    shifts = [weight * (sum(own) / len(own) - usual) if own else 0.0 for own, usual, weight in told]
    return [min(max(one, _SHIFTS[0]), _SHIFTS[1]) for one in shifts]


def fit_classifier(images: Sequence[DenseImage], names: Sequence[str]) -> ObjectClassifier | None:
    """Fits the names of whole objects in closed form; None with fewer than two names.

    Args:
        images: corrected images.
        names: of the objects.
    """
    shown = [
        (one, code, names.index(name))
        for one in images
        for code, name in enumerate(one.object_names, start=1)
        if bool((one.objects == code).any())
    ]
    if len({name for _, _, name in shown}) < 2:
        return None
    inside = torch.stack([one.objects == code for one, code, _ in shown])
    vectors = pooled(torch.stack([one.maps[-1] for one, _, _ in shown]), inside)
    wanted = functional.one_hot(torch.tensor([name for _, _, name in shown]), len(names)).float()
    mean, scale = vectors.mean(0), vectors.std(0) + 1e-2
    unit = functional.normalize((vectors - mean) / scale, dim=1)
    bias = wanted.mean(0)
    kernel = unit @ unit.T + _RIDGE * torch.eye(len(unit))
    weight = torch.linalg.solve(kernel, wanted - bias).T @ unit
    return ObjectClassifier(mean, scale, weight, bias)


def _names_of(lessons: Sequence[DenseLesson], start: Adapter | None) -> DenseNames:
    known = DenseNames() if start is None else start.dense
    parts = {name for one in lessons for name in one.views[0].part_names}
    objects = {name for one in lessons for name in one.views[0].object_names}
    return DenseNames(
        (*known.parts, *sorted(parts - set(known.parts))),
        (*known.objects, *sorted(objects - set(known.objects))),
    )


def _weights_of(lessons: Sequence[DenseLesson], balance: float) -> list[float]:
    """How often each image is drawn: more often if it shows a part that few images show."""
    shown = Counter(name for one in lessons for name in one.views[0].part_names)
    weights = []
    for one in lessons:
        rarest = min((shown[name] for name in one.views[0].part_names), default=len(lessons))
        weights.append(one.weight * rarest**-balance)
    return weights


def _first_rows(head: DenseHead, names: DenseNames, start: Adapter | None) -> Tensor:
    """The start's rows, and between them those of new names."""
    nothing, something = head.first.detach().float().cpu()
    parts = torch.stack([nothing, *[something] * len(names.parts)])
    objects = torch.stack([nothing, *[something] * len(names.objects)])
    if start is not None and start.dense:
        known = 1 + len(start.dense.parts)
        rows = start.tensors[DENSE_ROWS].to(parts)
        parts[:known], objects[: len(rows) - known] = rows[:known], rows[known:]
    return torch.cat((parts, objects))


def _pairs(lessons: Sequence[DenseLesson], names: DenseNames) -> Tensor:
    """(parts, parts) images that show both, on its diagonal those that show one."""
    rows = {name: row for row, name in enumerate(names.parts)}
    pairs = torch.zeros(len(rows), len(rows))
    for one in lessons:
        shown = torch.zeros(len(rows))
        for name in one.views[0].part_names:
            shown[rows[name]] = 1.0
        pairs += torch.outer(shown, shown)
    return pairs


def _dense_tensors(adapter: Adapter) -> dict[str, Tensor]:
    wanted = (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST, DENSE_SHIFT, *DENSE_CLASSIFIER)
    return {name: adapter.tensors[name] for name in wanted if name in adapter.tensors}
