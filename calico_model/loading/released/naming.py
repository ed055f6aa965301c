"""What a rule about names is: a regular expression over a released name, and where it goes.

Knows names. Does not know files, shapes or any particular release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorTarget:
    """Where a released tensor goes.

    Attributes:
        name: ours.
        take: (k, n): the k-th of n equal blocks of rows is meant; None is the whole tensor.
        slot: (k, n): it fills the k-th of n blocks of ours, the others are zero; None is all.
        is_copy: the same tensor may come under a second name.
    """

    name: str
    take: tuple[int, int] | None = None
    slot: tuple[int, int] | None = None
    is_copy: bool = False


@dataclass(frozen=True)
class Rule:
    """One regular expression over a whole released name.

    Attributes:
        pattern: of the name.
        targets: templates of `re.Match.expand`; none drops the tensor on purpose.
    """

    pattern: re.Pattern[str]
    targets: tuple[TensorTarget, ...] = ()


@dataclass(frozen=True)
class NamingScheme:
    """One way of naming weights.

    Attributes:
        title: for messages.
        signature: recognised by having a name that each of these matches at its start.
        rules: the first that matches a name decides.
        claims: names that start so must be matched by a rule: they belong to parts we use.
    """

    title: str
    signature: tuple[str, ...]
    rules: tuple[Rule, ...]
    claims: str

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether these are the names of such a checkpoint."""
        names = list(keys)
        return all(any(re.match(s, name) for name in names) for s in self.signature)

    def targets(self, key: str) -> tuple[TensorTarget, ...] | None:
        """Where a tensor goes: nowhere when dropped on purpose, None when no rule knows it."""
        for rule in self.rules:
            if match := rule.pattern.fullmatch(key):
                return tuple(
                    TensorTarget(match.expand(t.name), t.take, t.slot, t.is_copy)
                    for t in rule.targets
                )
        return None

    def claims_name(self, key: str) -> bool:
        """Whether a name belongs to a part that must be understood as a whole."""
        return re.match(self.claims, key) is not None


def rename(prefix: str, *pairs: tuple[str, str], into: str = "") -> tuple[Rule, ...]:
    """Rules from (pattern, our name) pairs; `prefix` and `into` stand before each."""
    return tuple(Rule(re.compile(prefix + p), (TensorTarget(into + t),)) for p, t in pairs)


def drop(*patterns: str) -> tuple[Rule, ...]:
    """Rules for tensors of parts CALICO does not have."""
    return tuple(Rule(re.compile(pattern)) for pattern in patterns)


def unstack(pattern: str, *names: str) -> Rule:
    """One released tensor is several of ours, stacked by rows."""
    targets = (TensorTarget(name, take=(k, len(names))) for k, name in enumerate(names))
    return Rule(re.compile(pattern), tuple(targets))
