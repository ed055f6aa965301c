"""What an online update teaches the dense head: single images, every cell of which has a name.

Runs beside the language model's steps, on the same kept features. Knows tensors and examples; not
seconds, nor when to end.
Legend: n images, L logit side, W width of a cell.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calico_model.images import mask_shares
from calico_model.modeling.adapter import DENSE_PAIRS, DENSE_ROWS, DENSE_TRUST, Adapter
from calico_model.modeling.dense_head import DenseHead, DenseNames, split
from calico_model.placement import is_fast_in_half
from calico_model.training.example import Example
from calico_model.types import PartMask, RegionKind
from calico_model.vocabulary import SIDED, normalise

_PARTS = frozenset({RegionKind.COMMON_PART, RegionKind.UNIQUE_PART})
_CLIP_NORM = 1.0
_OBJECT_WEIGHT = 0.5
_CHANCES = (0.5, 0.3, 0.3)  # that a batch is mirrored across, down, and along its diagonal
_LEAST_CELLS = 0.5
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


@dataclass(frozen=True)
class DenseBatch:
    """Images with the truth of every cell.

    Attributes:
        levels: see `DenseHead.levels`.
        parts: (n, 1 + parts, L, L) share of each cell, of what has no name first.
        objects: (n, 1 + objects, L, L) likewise.
        knows: (n, 2) float, 1 where all parts, and all objects, of an image are known.
    """

    levels: list[Tensor]
    parts: Tensor
    objects: Tensor
    knows: Tensor


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
        kept = [(one, w) for one, w in zip(corrections, weights, strict=True) if _teaches(one)]
        self._examples, self._weights = [one for one, _ in kept], [w for _, w in kept]
        self.names = _names_of(self._examples, start)
        self.rows = _first_rows(head, self.names, start).to(self._device)
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
        if not self.names:
            return {}
        rows = self.rows.detach().float().cpu().clone()
        pairs = _pairs(self._examples, self.names)
        low, high = _TRUSTED
        recent = sum(self._overlaps) / max(1, len(self._overlaps))
        trust = torch.tensor([min(1.0, max(0.0, (recent - low) / (high - low)))])
        return {DENSE_ROWS: rows, DENSE_PAIRS: pairs, DENSE_TRUST: trust}

    def learn(self, rate: float) -> dict[str, float]:
        """Makes its steps at a share of the peak rates; returns the last loss and overlap."""
        if not self.names:
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
            knows.append([float(_knows_parts(seen)), float(_knows_objects(seen))])
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
            size = example.features.mask.embedding.shape[-1] * 4
            # Of a frame of four pixels a cell, as the network's own is or nearly is.
            side = 4 * size
            regions = [one for one in example.truth if one.image_index == image]
            parts = [one for one in regions if one.kind is not RegionKind.COMMON_OBJECT]
            self._truth[key] = (
                _shares(parts, self.names.parts, side, size),
                _shares(_objects(example, image), self.names.objects, side, size),
            )
        return self._truth[key]


def varied(
    batch: DenseBatch, generator: torch.Generator, *, unseen: float, mirrors: bool
) -> DenseBatch:
    """Hides some maps of some images, and turns and mirrors the batch.

    Args:
        batch: to vary.
        generator: source of all choices, on the CPU.
        unseen: chance that an image is shown without one of its maps.
        mirrors: whether left may become right.
    """
    levels = []
    for seen in batch.levels:
        kept = torch.rand(len(seen), generator=generator) >= unseen
        levels.append(seen * kept[:, None, None, None].to(seen))
    across, down, turned = (
        torch.rand(3, generator=generator) < torch.tensor([0.5, 0.3, 0.3])
    ).tolist()

    def vary(values: Tensor) -> Tensor:
        if across and mirrors:
            values = values.flip(-1)
        if down and mirrors:
            values = values.flip(-2)
        return values.transpose(-1, -2) if turned and mirrors else values

    return DenseBatch(
        [vary(one) for one in levels], vary(batch.parts), vary(batch.objects), batch.knows
    )


def dense_loss(logits: Tensor, batch: DenseBatch, names: DenseNames) -> tuple[Tensor, float]:
    """Cross-entropy of cells, and dice of the names an image shows.

    Args:
        logits: (n, rows, L, L).
        batch: the truth.
        names: of the rows.

    Returns:
        The loss, and the mean soft overlap of these names in [0, 1].
    """
    total = logits.new_zeros(())
    overlaps: list[Tensor] = []
    parts, objects = split(logits, names)
    told = ((parts, batch.parts, 1.0), (objects, batch.objects, _OBJECT_WEIGHT))
    for layer, (own, truth, weight) in enumerate(told):
        if own.shape[1] < 2:
            continue
        knows = batch.knows[:, layer]
        cross = -(truth * own.log_softmax(1)).sum(1).mean((1, 2))
        chance = own.softmax(1)[:, 1:]
        wanted = truth[:, 1:]
        overlap = 2 * (chance * wanted).sum((2, 3)) + 1
        dice = 1 - overlap / ((chance + wanted).sum((2, 3)) + 1)
        is_shown = (wanted.sum((2, 3)) > _LEAST_CELLS) * knows[:, None]
        overlaps.append(1 - dice.detach()[is_shown > 0])
        total = total + weight * (cross * knows).sum() / knows.sum().clamp(min=1)
        total = total + weight * (dice * is_shown).sum() / is_shown.sum().clamp(min=1)
    every = torch.cat(overlaps) if overlaps else logits.new_zeros(0)
    return total, float(every.mean()) if len(every) else 0.0


def _teaches(example: Example) -> bool:
    return _knows_parts(example) or _knows_objects(example)


def _knows_parts(example: Example) -> bool:
    return example.known >= _PARTS


def _knows_objects(example: Example) -> bool:
    return RegionKind.COMMON_OBJECT in example.known


def _objects(example: Example, image: int) -> list[PartMask]:
    """The common objects and the one whose parts are compared, named."""
    found = [
        one
        for one in example.truth
        if one.image_index == image and one.kind is RegionKind.COMMON_OBJECT
    ]
    compared = example.objects[image]
    if compared is not None and all(
        normalise(one.label) != normalise(compared.label) for one in found
    ):
        found.append(PartMask(image, RegionKind.COMMON_OBJECT, compared.label, compared.mask))
    return found


def _shares(regions: Sequence[PartMask], names: Sequence[str], side: int, cells: int) -> Tensor:
    """(1 + names, cells, cells) bfloat16 share of each cell, of what has no name first."""
    shares = torch.zeros(1 + len(names), cells, cells)
    rows = {name: row for row, name in enumerate(names, start=1)}
    for one in regions:
        row = rows.get(normalise(one.label))
        if row is not None:
            shares[row] += mask_shares(one.mask, side, cells)
    named = shares.sum(0)
    shares[0] = (1 - named).clamp(min=0)
    return (shares / (shares[0] + named)).to(torch.bfloat16)


def _names_of(examples: Sequence[Example], start: Adapter | None) -> DenseNames:
    known = DenseNames() if start is None else start.dense
    parts: set[str] = set()
    objects: set[str] = set()
    for example in examples:
        for image in range(len(example)):
            objects |= {normalise(one.label) for one in _objects(example, image)}
        kinds = [one for one in example.truth if one.kind is not RegionKind.COMMON_OBJECT]
        parts |= {normalise(one.label) for one in kinds}
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
            for one in example.truth:
                if one.image_index == image and one.kind is not RegionKind.COMMON_OBJECT:
                    shown[rows[normalise(one.label)]] = 1.0
            pairs += torch.outer(shown, shown)
    return pairs
