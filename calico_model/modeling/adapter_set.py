"""One base model in memory, with at most one active adapter at a time.

Activating an adapter copies a few tensors, about a millisecond for calico-tiny. The base is never
copied, and deactivating the adapter restores it bit for bit. Knows tensors and names, no files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import (
    INPUT_ROWS,
    OUTPUT_ROWS,
    Adapter,
    AdapterScope,
    adapter_names,
    check_adapter,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer

_EVERYTHING = AdapterScope(projection=True)


class AdapterSet:
    """One model, and all adapters that can be activated on it.

    The set is replaced as a whole at each change, so any thread may read it without a lock. The
    model itself is guarded by its owner: call `activate` and run the model under one lock.

    Attributes:
        model: the base with the active adapter.
        tokenizer: of the base.
    """

    def __init__(self, model: Calico, tokenizer: Tokenizer) -> None:
        """Copies the adapter's tensors of the model as those of the base; no adapter is active."""
        self.model, self.tokenizer = model, tokenizer
        self._rows = torch.tensor(tokenizer.label_ids, dtype=torch.long)
        self._parameters = dict(model.named_parameters())
        self._base = {
            name: self._parameters[name].detach().clone()
            for name in adapter_names(model, _EVERYTHING)
        }
        self._base_rows = tuple(self._rows_now())
        self._active: Adapter | None = None
        self._is_changed = False
        self._labelled = tokenizer
        self._ready: Mapping[str, Adapter] = {}
        # Guards changes of _ready; readers need no lock. Reentrant, because the garbage collector
        # may drop an adapter in the middle of a change.
        self._lock = threading.RLock()

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the adapters in the set."""
        return tuple(self._ready)

    def get(self, version: str) -> Adapter | None:
        """Returns an adapter of the set, or None."""
        return self._ready.get(version)

    def add(self, version: str, adapter: Adapter) -> None:
        """Adds an adapter, or replaces the adapter of that version.

        Raises:
            CheckpointError: the adapter does not fit the model; the set stays as it was.
        """
        self.check(adapter)
        with self._lock:
            self._ready = {**self._ready, version: adapter}

    def drop(self, version: str) -> None:
        """Removes an adapter; predictions that began with it still end with it."""
        with self._lock:
            self._ready = {v: a for v, a in self._ready.items() if v != version}

    def base(self, scope: AdapterScope) -> Adapter:
        """Returns the adapter of a scope that changes nothing: the tensors of the base."""
        names = adapter_names(self.model, scope)
        return Adapter(scope, {name: self._base[name].float().cpu() for name in names})

    def check(self, adapter: Adapter) -> None:
        """Raises CheckpointError unless the adapter fits the model and its tokenizer."""
        check_adapter(self.model, adapter)
        if len(adapter.labels) > len(self._rows):
            raise CheckpointError(
                f"adapter: labels: expected at most {len(self._rows)}, got {len(adapter.labels)}"
            )

    @torch.no_grad()
    def activate(self, adapter: Adapter | None) -> Tokenizer:
        """Activates an adapter; activating the same adapter again costs nothing.

        Args:
            adapter: one that fits (`check`); None restores the base.

        Returns:
            A tokenizer that encodes and decodes the adapter's labels.
        """
        if adapter is self._active and not self._is_changed:
            return self._labelled
        given = {} if adapter is None else adapter.tensors
        for name, base in self._base.items():
            self._parameters[name].copy_(given.get(name, base))
        labels = () if adapter is None else adapter.labels
        places = self._rows[: len(labels)]
        keys = (INPUT_ROWS, OUTPUT_ROWS)
        for table, base, name in zip(self._tables(), self._base_rows, keys, strict=True):
            table[self._rows] = base
            if labels:
                table[places] = given[name].to(table)
        if (head := self.model.dense_head) is not None:
            rows = None if adapter is None else adapter.dense_rows
            if rows is None:
                head.deactivate()
            else:
                head.activate(rows)
        self._active, self._is_changed = adapter, False
        self._labelled = self.tokenizer.with_labels(labels)
        return self._labelled

    def select(self, adapter: Adapter | None, features: ImageFeatures) -> Tokenizer:
        """Activates an adapter for a group in its domain, else the base; see `activate`."""
        return self.activate(adapter if self.covers(adapter, features) else None)

    def covers(self, adapter: Adapter | None, features: ImageFeatures) -> bool:
        """Whether a group is in the domain of an adapter; True without one."""
        domain = None if adapter is None else adapter.domain
        return domain is None or domain.covers(features)

    def uses_language_model(self, features: ImageFeatures) -> bool:
        """Whether the language model is to be asked about a group, with the active adapter.

        False where the adapter has a domain and learned it with the dense head alone, and where
        the pictures are unlike those of the base's training.
        """
        if self._active is not None and self._active.domain is not None and self._active.dense:
            return False
        return self.model.is_familiar(features)

    @contextmanager
    def borrowed(self, adapter: Adapter | None) -> Iterator[Tokenizer]:
        """Lends the model with an adapter to a trainer; afterwards the base is restored.

        The adapter's label rows stay inactive: the trainer overlays its own (`LabelRows`).
        """
        tokenizer = self.activate(adapter)
        with torch.no_grad():
            for table, base in zip(self._tables(), self._base_rows, strict=True):
                table[self._rows] = base
        try:
            yield tokenizer
        finally:
            self._is_changed = True
            self.activate(None)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Restores the base inside the block of `borrowed`, as the teacher of an anchor."""
        with torch.no_grad():
            kept = {name: self._parameters[name].detach().clone() for name in self._base}
            for name, base in self._base.items():
                self._parameters[name].copy_(base)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    self._parameters[name].copy_(tensor)

    def _tables(self) -> tuple[Tensor, Tensor]:
        language = self.model.language
        return language.model.embed_tokens.weight, language.lm_head.weight

    def _rows_now(self) -> list[Tensor]:
        return [table.detach()[self._rows].clone() for table in self._tables()]
