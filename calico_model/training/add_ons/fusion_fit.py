"""Fits the weights of the classifiers of a region's name, on projects made of held-out scenes.

A project has a few scenes: its annotators accepted the regions of the first, and the head does not
know half of its names. The exponents with the least mean loss on the other scenes win; a small grid
is enough, because the loss is flat around them. Pure arrays.
Legend: R regions, C labels of a project, d width of a descriptor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calico_model.interactive.naming.closed_set import Fusion
from calico_model.interactive.naming.prototypes import Prototypes

_TEMPERATURES, _FAMILIARS = (0.05, 0.07, 0.1, 0.14), (0.2, 0.35, 0.5, 0.65)
_HEADS, _PROTOTYPES = (0.5, 0.75, 1.0), (0.5, 1.0, 1.5)
_PROJECTS, _SCENES, _ACCEPTED = 8, 50, 10
_UNKNOWN_SHARE = 0.5  # of a project's names, which the head is made not to know


@dataclass(frozen=True, eq=False)
class FusionEvidence:
    """R regions of held-out scenes with their descriptors and the head's logits.

    Attributes:
        names: of each region.
        scenes: (R,) int64.
        looks: (R, d) float32 unit descriptors.
        logits: (R, W) of the head, for all names it knows.
        known: the W names.
    """

    names: Sequence[str]
    scenes: NDArray[np.int64]
    looks: NDArray[np.float32]
    logits: NDArray[np.float64]
    known: Sequence[str]


@dataclass(frozen=True, eq=False)
class _Project:
    """The regions to name in one project, with its accepted regions."""

    labels: list[str]
    target: NDArray[np.int64]
    head: NDArray[np.float64]
    looks: NDArray[np.float32]
    accepted: Prototypes


def fit_fusion(evidence: FusionEvidence, seed: int) -> Fusion:
    """Returns the exponents with the least loss; the defaults where no project can be made."""
    projects = list(_projects(evidence, np.random.default_rng(seed)))
    best, least = Fusion(), np.inf
    for temperature, familiar in itertools.product(_TEMPERATURES, _FAMILIARS):
        remembered = [
            project.accepted.log_chances(
                project.looks, project.labels, temperature=temperature, familiar=familiar
            )
            for project in projects
        ]
        for head, prototypes in itertools.product(_HEADS, _PROTOTYPES):
            fusion = replace(
                best,
                head=head,
                prototypes=prototypes,
                temperature=temperature,
                familiar=familiar,
            )
            losses = [
                _loss(fusion, project, rows)
                for project, rows in zip(projects, remembered, strict=True)
            ]
            if losses and np.mean(losses) < least:
                best, least = fusion, float(np.mean(losses))
    return best


def _projects(evidence: FusionEvidence, rng: np.random.Generator) -> Iterator[_Project]:
    every = np.unique(evidence.scenes)
    for _ in range(_PROJECTS):
        scenes = rng.permutation(every)[:_SCENES]
        is_accepted = np.isin(evidence.scenes, scenes[:_ACCEPTED])
        is_asked = np.isin(evidence.scenes, scenes[_ACCEPTED:])
        labels = sorted(
            {evidence.names[n] for n in np.flatnonzero(is_accepted | is_asked).tolist()}
        )
        if not is_asked.any() or not is_accepted.any():
            continue
        accepted = Prototypes()
        for n in np.flatnonzero(is_accepted).tolist():
            accepted = accepted.add(evidence.names[n], evidence.looks[n])
        known = [n for n in labels if n in evidence.known and rng.random() >= _UNKNOWN_SHARE]
        rows = np.flatnonzero(is_asked)
        yield _Project(
            labels,
            np.array([labels.index(evidence.names[n]) for n in rows.tolist()]),
            _head_log_chances(evidence, rows, labels, known),
            evidence.looks[rows],
            accepted,
        )


def _head_log_chances(
    evidence: FusionEvidence, rows: NDArray[np.int64], labels: list[str], known: list[str]
) -> NDArray[np.float64]:
    """Log chances (R, C) of a head that knows only `known`; the others get an even share."""
    chances = np.full((len(rows), len(labels)), 1 / len(labels))
    if known:
        columns = np.array([list(evidence.known).index(name) for name in known])
        logits = evidence.logits[np.ix_(rows, columns)]
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares *= len(known) / len(labels) / shares.sum(1, keepdims=True)
        chances[:, [labels.index(name) for name in known]] = shares
    log_chances: NDArray[np.float64] = np.log(np.maximum(chances, 1e-30))
    return log_chances


def _loss(fusion: Fusion, project: _Project, remembered: NDArray[np.float64]) -> float:
    accepted = project.accepted.regions
    trust = fusion.prototypes * accepted / (accepted + fusion.trusted_after)
    logits = fusion.head * project.head + trust * remembered
    logits = logits - logits.max(1, keepdims=True)
    right = logits[np.arange(len(logits)), project.target]
    return float(np.mean(np.log(np.exp(logits).sum(1)) - right))
