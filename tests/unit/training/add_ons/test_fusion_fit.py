"""The exponents follow the evidence: whoever tells the truth is believed."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.interactive.naming.closed_set import Fusion
from calico_model.training.add_ons.fusion_fit import FusionEvidence, fit_fusion

NAMES = [f"name {n}" for n in range(6)]


def evidence(*, looks_tell: bool, head_tells: bool) -> FusionEvidence:
    rng = np.random.default_rng(3)
    scenes = np.repeat(np.arange(60), 5)
    target = rng.integers(len(NAMES), size=len(scenes))
    looks = rng.normal(0, 0.05, (len(scenes), 16)).astype(np.float32)
    looks[np.arange(len(scenes)), target if looks_tell else rng.permutation(target)] += 1
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    logits = rng.normal(0, 1, (len(scenes), len(NAMES)))
    logits[np.arange(len(scenes)), target if head_tells else rng.permutation(target)] += 4
    return FusionEvidence([NAMES[n] for n in target], scenes, looks, logits, NAMES)


def test_who_tells_the_truth_is_believed_more() -> None:
    looks = fit_fusion(evidence(looks_tell=True, head_tells=False), seed=1)
    head = fit_fusion(evidence(looks_tell=False, head_tells=True), seed=1)

    def belief(fusion: Fusion) -> float:
        return fusion.prototypes / fusion.temperature / fusion.head

    assert belief(looks) > 2 * belief(head)


def test_equal_seeds_give_equal_exponents() -> None:
    found = [fit_fusion(evidence(looks_tell=True, head_tells=True), seed=2) for _ in range(2)]
    assert found[0] == found[1]


def test_too_little_to_fit_leaves_the_defaults() -> None:
    one = evidence(looks_tell=True, head_tells=True)
    few = FusionEvidence(one.names[:3], one.scenes[:3], one.looks[:3], one.logits[:3], NAMES)
    assert fit_fusion(few, seed=1) == Fusion()


@pytest.mark.parametrize("known", [[], NAMES[:2]])
def test_names_the_head_does_not_know_are_no_obstacle(known: list[str]) -> None:
    one = evidence(looks_tell=True, head_tells=True)
    part = FusionEvidence(one.names, one.scenes, one.looks, one.logits[:, : len(known)], known)
    assert fit_fusion(part, seed=1).prototypes > 0
