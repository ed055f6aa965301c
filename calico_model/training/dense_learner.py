"""What an online update teaches the dense head, beside the language model's steps.

Works on the same kept features. Knows tensors and examples; not seconds, nor when to end.
Legend: n images, L logit side, W width of a cell.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calico_model.modeling.adapter import DENSE_PAIRS, DENSE_ROWS, DENSE_TRUST, Adapter
from calico_model.modeling.dense_head import DenseHead, DenseNames
from calico_model.placement import is_fast_in_half
from calico_model.training.dense_batches import (
    DenseBatch,
    cell_shares,
    dense_loss,
    knows_objects,
    knows_parts,
    objects_of,
    parts_of,
    varied,
)
from calico_model.training.example import Example
from calico_model.vocabulary import SIDED, normalise

_CLIP_NORM = 1.0
_RECENT = 24  # steps by whose overlap a head is trusted
_TRUSTED = (0.2, 0.45)  # overlap at which it is not, and at which it is


@dataclass(frozen=True)
class DensePlan:
    """How the dense head learns in an update.

    Attributes:
        steps: per step of the language model, each a tenth as long.
        batch: images in each.
        rate: peak learning rate of the body.
        row_rate: of the rows.
        weight_decay: of AdamW.
        unseen: chance that an image is shown without one of its maps.
    """

    steps: int = 8
    batch: int = 8
    rate: float = 4e-3
    row_rate: float = 4e-3
    weight_decay: float = 0.05
    unseen: float = 0.2


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
        corrections: Sequence[Example],
        weights: Sequence[float],
        *,
        seed: int,
    ) -> None:
        """Begins with the head as it is.

        Args:
            head: of the model, wearing the start.
            plan: how to learn.
            start: adapter whose rows to go on from, None for none.
            corrections: groups to learn from.
            weights: how often each is drawn, relatively.
            seed: of all that is drawn.
        """
        self._head, self._plan = head, plan
        self._device = head.first.device
        self._half = is_fast_in_half(self._device)
        told = zip(corrections, weights, strict=True)
        kept = [(one, w) for one, w in told if knows_parts(one) or knows_objects(one)]
        self._examples, self._weights = [one for one, _ in kept], [w for _, w in kept]
        self.names = _names_of(self._examples, start)
        self.rows = _first_rows(head, self.names, start).to(self._device)
        self._start = {} if start is None else _dense_tensors(start)
        self._truth: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._is_sided = any(SIDED.search(name) for name in self.names.parts)
        self._choose = random.Random(f"{seed}/dense")
        self._overlaps: deque[float] = deque(maxlen=_RECENT)
        body = [p.requires_grad_(True) for n, p in head.named_parameters() if n != "first"]
        self._trained = [*body, self.rows.requires_grad_(True)]
        groups = ((body, plan.rate), ([self.rows], plan.row_rate))
        self._optimiser = torch.optim.AdamW(
            [{"params": some, "lr": rate, "peak": rate} for some, rate in groups],
            betas=(0.9, 0.99),
            weight_decay=plan.weight_decay,
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What an adapter holds of it beside the body, which is the model's own."""
        if not self._examples:
            return self._start
        rows = self.rows.detach().float().cpu().clone()
        pairs = _pairs(self._examples, self.names)
        low, high = _TRUSTED
        recent = sum(self._overlaps) / max(1, len(self._overlaps))
        trust = torch.tensor([min(1.0, max(0.0, (recent - low) / (high - low)))])
        return {DENSE_ROWS: rows, DENSE_PAIRS: pairs, DENSE_TRUST: trust}

    def learn(self, rate: float) -> dict[str, float]:
        """Makes its steps at a share of the peak rates; returns the last loss and overlap."""
        if not self._examples:
            return {}
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        for _ in range(self._plan.steps):
            batch = self._draw()
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                cells = self._head(batch.levels)
            logits = torch.einsum("rw,nwij->nrij", self.rows, cells.float())
            loss, overlap = dense_loss(logits, batch, self.names)
            self._overlaps.append(overlap)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self._trained, _CLIP_NORM)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return {"dense": float(loss.detach()), "overlap": overlap}

    def _draw(self) -> DenseBatch:
        """Images of corrected groups and of their views, mirrored, some of their maps hidden."""
        levels: list[list[Tensor]] = []
        truths: list[tuple[Tensor, Tensor]] = []
        knows: list[list[float]] = []
        for example in self._choose.choices(self._examples, self._weights, k=self._plan.batch):
            seen = self._choose.choice((example, *example.views))
            image = self._choose.randrange(len(seen))
            with torch.no_grad():
                levels.append(self._head.levels(seen.features.image(image)))
            truths.append(self._truth_of(seen, image))
            knows.append([float(knows_parts(seen)), float(knows_objects(seen))])
        batch = DenseBatch(
            [torch.cat(several).to(self._device) for several in zip(*levels, strict=True)],
            torch.stack([parts for parts, _ in truths]).float().to(self._device),
            torch.stack([objects for _, objects in truths]).float().to(self._device),
            torch.tensor(knows, device=self._device),
        )
        generator = torch.Generator().manual_seed(self._choose.getrandbits(32))
        return varied(batch, generator, unseen=self._plan.unseen, mirrors=not self._is_sided)

    def _truth_of(self, example: Example, image: int) -> tuple[Tensor, Tensor]:
        key = id(example), image
        if key not in self._truth:
            cells = 4 * example.features.mask.embedding.shape[-1]
            self._truth[key] = (
                cell_shares(parts_of(example, image), self.names.parts, cells),
                cell_shares(objects_of(example, image), self.names.objects, cells),
            )
        return self._truth[key]


def _names_of(examples: Sequence[Example], start: Adapter | None) -> DenseNames:
    known = DenseNames() if start is None else start.dense
    parts: set[str] = set()
    objects: set[str] = set()
    for example in examples:
        for image in range(len(example)):
            parts |= {normalise(one.label) for one in parts_of(example, image)}
            objects |= {normalise(one.label) for one in objects_of(example, image)}
    return DenseNames(
        (*known.parts, *sorted(parts - set(known.parts))),
        (*known.objects, *sorted(objects - set(known.objects))),
    )


def _first_rows(head: DenseHead, names: DenseNames, start: Adapter | None) -> Tensor:
    """The start's rows, and between them those of new names."""
    nothing, something = head.first.detach().float()
    parts = torch.stack([nothing, *[something] * len(names.parts)])
    objects = torch.stack([nothing, *[something] * len(names.objects)])
    if start is not None and start.dense:
        known = 1 + len(start.dense.parts)
        rows = start.tensors[DENSE_ROWS].to(parts)
        parts[:known], objects[: len(rows) - known] = rows[:known], rows[known:]
    return torch.cat((parts, objects))


def _pairs(examples: Sequence[Example], names: DenseNames) -> Tensor:
    """(parts, parts) images that show both, on its diagonal those that show one."""
    rows = {name: row for row, name in enumerate(names.parts)}
    pairs = torch.zeros(len(rows), len(rows))
    for example in examples:
        for image in range(len(example)):
            shown = torch.zeros(len(rows))
            for one in parts_of(example, image):
                shown[rows[normalise(one.label)]] = 1.0
            pairs += torch.outer(shown, shown)
    return pairs


def _dense_tensors(adapter: Adapter) -> dict[str, Tensor]:
    wanted = (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST)
    return {name: adapter.tensors[name] for name in wanted if name in adapter.tensors}
