"""Adapters as values, and the one base model in memory that wears one of them at a time.

Putting an adapter on copies a few tensors, about a millisecond for calico-tiny; the base is never
copied, and taking the adapter off gives it back bit for bit. Knows tensors and names, no files.
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
    """One model, and all adapters that are ready to be put on it.

    The set is replaced whole whenever it changes, so any thread may read it without a lock. The
    model itself is guarded by its owner: call `activate` and run the model under one lock.

    Attributes:
        model: the base with whatever it wears.
        tokenizer: of the base.
    """

    def __init__(self, model: Calico, tokenizer: Tokenizer) -> None:
        """Remembers what the model holds now as the base: wear nothing yet."""
        self.model, self.tokenizer = model, tokenizer
        self._rows = torch.tensor(tokenizer.label_ids, dtype=torch.long)
        self._own = dict(model.named_parameters())
        self._base = {n: self._own[n].detach().clone() for n in adapter_names(model, _EVERYTHING)}
        self._base_rows = tuple(self._rows_now())
        self._worn: Adapter | None = None
        self._is_changed = False
        self._speaking = tokenizer
        self._ready: Mapping[str, Adapter] = {}
        # Guards changes of _ready; reading needs none. The collector may drop one amid a change.
        self._lock = threading.RLock()

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

    def base(self, scope: AdapterScope) -> Adapter:
        """Returns the adapter of a scope that changes nothing: what the model held at first."""
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
        """Puts an adapter on, or takes the worn one off; the same one again costs nothing.

        Args:
            adapter: one that fits (`check`), or None for the base.

        Returns:
            A tokenizer that writes and reads the adapter's labels.
        """
        if adapter is self._worn and not self._is_changed:
            return self._speaking
        given = {} if adapter is None else adapter.tensors
        for name, base in self._base.items():
            self._own[name].copy_(given.get(name, base))
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
        self._worn, self._is_changed = adapter, False
        self._speaking = self.tokenizer.with_labels(labels)
        return self._speaking

    def select(self, adapter: Adapter | None, features: ImageFeatures) -> Tokenizer:
        """Puts an adapter on for a group, or takes it off where its domain ends; see `activate`."""
        domain = None if adapter is None else adapter.domain
        return self.activate(adapter if domain is None or domain.covers(features) else None)

    def speaks(self, features: ImageFeatures) -> bool:
        """Whether the language model is to be asked about a group, with what the model wears.

        Not where an adapter learned pictures unlike the base's own by the dense head alone, nor
        where the base itself knows nothing of the like.
        """
        if self._worn is not None and self._worn.domain is not None and self._worn.dense:
            return False
        return self.is_familiar(features)

    def is_familiar(self, features: ImageFeatures) -> bool:
        """Whether the pictures of a group are like those that the base learned from."""
        return self.model.is_familiar(features)

    @contextmanager
    def borrowed(self, adapter: Adapter | None) -> Iterator[Tokenizer]:
        """Lends the model, wearing an adapter, to who changes it; afterwards it is the bare base.

        Label rows are not on: who trains them puts his own over the base (`LabelRows`).
        """
        speaking = self.activate(adapter)
        with torch.no_grad():
            for table, base in zip(self._tables(), self._base_rows, strict=True):
                table[self._rows] = base
        try:
            yield speaking
        finally:
            self._is_changed = True
            self.activate(None)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Shows the base for a moment while the model is lent: the anchor's teacher."""
        with torch.no_grad():
            kept = {name: self._own[name].detach().clone() for name in self._base}
            for name, base in self._base.items():
                self._own[name].copy_(base)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    self._own[name].copy_(tensor)

    def _tables(self) -> tuple[Tensor, Tensor]:
        language = self.model.language
        return language.model.embed_tokens.weight, language.lm_head.weight

    def _rows_now(self) -> list[Tensor]:
        return [table.detach()[self._rows].clone() for table in self._tables()]
