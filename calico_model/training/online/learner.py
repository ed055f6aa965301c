"""Online training of an adapter: its parameters with their optimiser, one step after another.

Used only while `AdapterSet.borrowed` holds the model. Knows tensors; not seconds, nor when to end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from calico_model.loading.placement import is_fast_in_half
from calico_model.modeling.adapter import (
    DOMAIN_BIAS,
    DOMAIN_WEIGHT,
    INPUT_ROWS,
    OUTPUT_ROWS,
    Adapter,
    AdapterScope,
    adapter_names,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.domain import Domain
from calico_model.modeling.label_rows import LabelRows, mean_rows, needs_row
from calico_model.tokenizer import Tokenizer
from calico_model.training.engine import make_step, move
from calico_model.training.online.batches import question_batch
from calico_model.training.online.curriculum import Curriculum
from calico_model.training.online.example import Example
from calico_model.training.online.objective import base_log_probabilities, question_losses
from calico_model.training.online.plan import UpdatePlan

_CLIP_NORM = 1.0
_DECODER = ("mask_decoder.", "segmentation_projection.")


def labels_with_rows(
    corrections: Sequence[Example], start: Adapter | None, tokenizer: Tokenizer
) -> tuple[str, ...]:
    """Returns the labels with token rows: those of the start, then new ones while rows are left."""
    known = () if start is None else start.labels
    met = sorted({label for example in corrections for label in example.labels})
    more = [label for label in met if label not in known and needs_row(label, tokenizer)]
    return (*known, *more)[: len(tokenizer.label_ids)]


class AdapterLearner:
    """The parameters of an adapter and the token rows of its labels, with their optimiser."""

    def __init__(
        self,
        adapters: AdapterSet,
        plan: UpdatePlan,
        labels: tuple[str, ...],
        start: Adapter | None,
        corrections: Sequence[Example],
    ) -> None:
        """Makes every parameter that the plan leaves out not trainable.

        Args:
            adapters: the model, `start` selected.
            plan: which parts learn, and how.
            labels: that have token rows; see `labels_with_rows`.
            start: adapter to go on from, None for the base.
            corrections: all examples of the update.
        """
        self._adapters, self._plan, self._labels = adapters, plan, labels
        self._model = adapters.model
        self._tokenizer = adapters.tokenizer.with_labels(labels)
        parameters = dict(self._model.named_parameters())
        scope = replace(plan.scope, dense_head=False)  # has a learner of its own
        self._learning = {name: parameters[name] for name in adapter_names(self._model, scope)}
        self._device = self._model.language.lm_head.weight.device
        self._half = is_fast_in_half(self._device) if plan.half is None else plan.half
        if start is None:
            _draw_lora(self._learning, plan.seed)
        self._scope = plan.scope if start is None else _both(plan.scope, start.scope)
        self._held = {name: parameters[name] for name in adapter_names(self._model, self._scope)}
        self._rows = _first_rows(adapters, labels, start, corrections)
        base = adapters.base(plan.scope).tensors
        self._base = {
            name: p.detach().clone() if ".lora_A." in name else base[name].to(p)
            for name, p in self._learning.items()
        }
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for learned in self._trained():
            learned.requires_grad_(True)
        groups = self._groups()
        self._optimiser = torch.optim.AdamW(
            groups or [torch.zeros(1)], betas=(0.9, 0.95), weight_decay=0.0
        )

    def learn(self, curriculum: Curriculum, rate: float) -> dict[str, float]:
        """Makes one step at a share of the peak rates; returns the terms of the loss."""
        plan, model = self._plan, self._model
        device = self._device
        batch = question_batch(
            curriculum.questions(), self._tokenizer, model.config, curriculum.choose
        )
        batch = move(batch, device)
        base = None
        masks = _draw_masks(batch.mask_weights, plan.masks, curriculum.choose)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
            if plan.terms.anchor and bool(batch.is_base.any()):
                with self._adapters.disabled():
                    base = base_log_probabilities(model, batch)
            with self._rows.over(model):
                terms = question_losses(model, batch, base, plan.terms, masks=masks.to(device))
        loss = torch.stack(list(terms.values())).sum()
        torch.autograd.backward(loss)
        make_step(self._optimiser, self._trained(), rate, _CLIP_NORM)
        self._pull_back(rate)
        shown = {name: float(term.detach()) for name, term in terms.items()}
        return shown | {"loss": float(loss.detach())}

    def adapter(self, domain: Domain | None) -> Adapter:
        """Returns the adapter as learned so far, for the pictures of a domain."""
        tensors = {n: p.detach().float().cpu().clone() for n, p in self._held.items()}
        if self._labels:
            tensors[INPUT_ROWS] = self._rows.inputs.detach().cpu().clone()
            tensors[OUTPUT_ROWS] = self._rows.outputs.detach().cpu().clone()
        if domain is not None:
            tensors[DOMAIN_WEIGHT], tensors[DOMAIN_BIAS] = domain.weight.cpu(), domain.bias.cpu()
        return Adapter(self._scope, tensors, self._labels)

    def _trained(self) -> list[Tensor]:
        rows = [self._rows.inputs, self._rows.outputs] if self._labels else []
        return [*self._learning.values(), *rows]

    def _groups(self) -> list[dict[str, object]]:
        plan = self._plan
        decoder = [p for n, p in self._learning.items() if n.startswith(_DECODER)]
        others = [p for n, p in self._learning.items() if not n.startswith(_DECODER)]
        rows = [self._rows.inputs, self._rows.outputs] if self._labels else []
        groups = ((others, plan.learning_rate), (decoder, plan.decoder_rate), (rows, plan.row_rate))
        return [{"params": group, "lr": rate, "peak": rate} for group, rate in groups if group]

    @torch.no_grad()
    def _pull_back(self, rate: float) -> None:
        """Decoupled decay towards the base, as AdamW's is towards 0."""
        if not self._plan.decay:
            return
        for name, parameter in self._learning.items():
            peak = (
                self._plan.decoder_rate if name.startswith(_DECODER) else self._plan.learning_rate
            )
            parameter.lerp_(self._base[name], min(1.0, rate * peak * self._plan.decay))


def _first_rows(
    adapters: AdapterSet,
    labels: tuple[str, ...],
    start: Adapter | None,
    corrections: Sequence[Example],
) -> LabelRows:
    """The start's rows; a new label begins at the mean of the known labels it is used among."""
    language, tokenizer = adapters.model.language, adapters.tokenizer
    tables = (language.model.embed_tokens.weight, language.lm_head.weight)
    inputs, outputs = (table.new_zeros(len(labels), table.shape[1]).float() for table in tables)
    known = 0 if start is None else len(start.labels)
    if start is not None and known:
        inputs[:known] = start.tensors[INPUT_ROWS].to(inputs)
        outputs[:known] = start.tensors[OUTPUT_ROWS].to(outputs)
    met = {label for example in corrections for label in example.labels}
    related = sorted(label for label in met if not needs_row(label, tokenizer))
    for row in range(known, len(labels)):
        inputs[row], outputs[row] = mean_rows(related or [labels[row]], tokenizer, tables)
    return LabelRows(tokenizer.label_ids[: len(labels)], inputs, outputs)


def _both(first: AdapterScope, second: AdapterScope) -> AdapterScope:
    """The parts of either scope: parts that only the start has learned are kept."""
    other = asdict(second)
    return AdapterScope(**{part: on or other[part] for part, on in asdict(first).items()})


@torch.no_grad()
def _draw_lora(learning: Mapping[str, Tensor], seed: int) -> None:
    """Draws LoRA's first matrices as peft does, from the seed: peft's differ at every load."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in learning.items():
        if ".lora_A." in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.copy_(drawn)


def _draw_masks(weights: Tensor, most: int, choose: random.Random) -> Tensor:
    """Picks at most so many of the masks whose weight is not 0."""
    weighted = weights.nonzero()[:, 0].tolist()
    rows = sorted(choose.sample(weighted, min(most, len(weighted))))
    return torch.tensor(rows, dtype=torch.long)
