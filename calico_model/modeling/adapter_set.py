"""Adapters as values, and the one base model in memory that wears one of them at a time.

Putting an adapter on copies a few tensors, about a millisecond for calico-tiny; the base is never
copied, and taking the adapter off gives it back bit for bit. Knows tensors and names, no files.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import AdapterScope, adapter_names
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer

INPUT_ROWS, OUTPUT_ROWS = "label_rows.input", "label_rows.output"


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an online update has learned; never changed once made.

    Attributes:
        scope: which parts it holds.
        tensors: by parameter name, float32 on the CPU; with labels also (n, D) `INPUT_ROWS` and
            `OUTPUT_ROWS`, the rows of the n labels in the embedding and in the output head.
        labels: names that have a reserved token of their own, in the order of the rows.
    """

    scope: AdapterScope
    tensors: Mapping[str, Tensor]
    labels: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class AdapterSet:
    """One model, and all adapters that are ready to be put on it.

    The set is replaced whole whenever it changes, so any thread may read it without a lock. The
    model itself is guarded by its owner: call `wear` and run the model under one lock.
    """

    def __init__(self, model: Calico, tokenizer: Tokenizer) -> None:
        """Remembers what the model holds now as the base: wear nothing yet."""
        self._model, self._tokenizer = model, tokenizer
        self._rows = torch.tensor(tokenizer.label_ids, dtype=torch.long)
        self._own = dict(model.named_parameters())
        self._base = {n: self._own[n].detach().clone() for n in adapter_names(model)}
        self._base_rows = tuple(self._rows_now())
        self._worn: Adapter | None = None
        self._speaking = tokenizer
        self._ready: Mapping[str, Adapter] = {}
        self._lock = threading.Lock()  # guards changes of _ready; reading needs none

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the adapters in the set."""
        return tuple(self._ready)

    def get(self, version: str) -> Adapter | None:
        """Returns an adapter of the set, or None."""
        return self._ready.get(version)

    def add(self, version: str, adapter: Adapter) -> None:
        """Adds an adapter, or replaces the one of that name.

        Raises:
            CheckpointError: it does not fit the model; the set stays as it was.
        """
        self.check(adapter)
        with self._lock:
            self._ready = {**self._ready, version: adapter}

    def drop(self, version: str) -> None:
        """Removes an adapter; predictions that have begun with it still end with it."""
        with self._lock:
            self._ready = {v: a for v, a in self._ready.items() if v != version}

    @property
    def base(self) -> Adapter:
        """The adapter that changes nothing: what the model held at first."""
        return Adapter(AdapterScope(), {n: t.float().cpu() for n, t in self._base.items()})

    def check(self, adapter: Adapter) -> None:
        """Raises CheckpointError unless the adapter fits the model: names, shapes, values."""
        wanted = {n: self._own[n].shape for n in adapter_names(self._model, adapter.scope)}
        if adapter.labels:
            shape = torch.Size((len(adapter.labels), self._model.config.language.width))
            wanted |= {INPUT_ROWS: shape, OUTPUT_ROWS: shape}
        if odd := sorted(set(wanted) ^ set(adapter.tensors)):
            raise CheckpointError(f"adapter: {odd[0]}: missing or unexpected")
        for name, tensor in adapter.tensors.items():
            if tensor.shape != wanted[name] or not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"adapter: {name}: wrong shape or values")
        if len(adapter.labels) > len(self._rows):
            raise CheckpointError(
                f"adapter: labels: expected at most {len(self._rows)}, got {len(adapter.labels)}"
            )

    @torch.no_grad()
    def wear(self, adapter: Adapter | None) -> Tokenizer:
        """Puts an adapter on, or takes the worn one off; the same one again costs nothing.

        Args:
            adapter: one that fits (`check`), or None for the base.

        Returns:
            A tokenizer that writes and reads the adapter's labels.
        """
        if adapter is self._worn:
            return self._speaking
        given = {} if adapter is None else adapter.tensors
        for name, base in self._base.items():
            self._own[name].copy_(given.get(name, base))
        labels = () if adapter is None else adapter.labels
        places = self._rows[: len(labels)]
        names = (INPUT_ROWS, OUTPUT_ROWS)
        for table, base, name in zip(self._tables(), self._base_rows, names, strict=True):
            table[self._rows] = base
            if labels:
                table[places] = given[name].to(table)
        self._worn, self._speaking = adapter, self._tokenizer.with_labels(labels)
        return self._speaking

    def _tables(self) -> tuple[Tensor, Tensor]:
        language = self._model.language
        return language.model.embed_tokens.weight, language.lm_head.weight

    def _rows_now(self) -> list[Tensor]:
        return [table.detach()[self._rows].clone() for table in self._tables()]
