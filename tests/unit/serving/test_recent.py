"""Remembered predictions come back bit for bit, below a ceiling of bytes."""

from __future__ import annotations

import numpy as np

from backend.rle import runs_of
from backend.serving.recent import RecentPredictions
from calico_model.types import GroupPrediction, PartMask, RegionKind


def prediction(seed, *, size_hw=(33, 17)):
    rng = np.random.default_rng(seed)
    masks = [rng.random(size_hw) < 0.5 for _ in range(3)]
    parts = tuple(
        PartMask(i, RegionKind.COMMON_PART, f"part {i}", mask, "cup", f"p{i}", 0.5)
        for i, mask in enumerate(masks)
    )
    return GroupPrediction(parts=parts, version="v", answers={"q": "a"})


def test_masks_and_names_come_back():
    recent, given = RecentPredictions(max_bytes=10_000), prediction(0)
    recent.put("a", given)
    found = recent.get("a")
    assert found is not None
    assert found.answers == given.answers
    for ours, theirs in zip(found.parts, given.parts, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)
        assert ours.mask.dtype == np.bool_
        assert (ours.label, ours.part_id, ours.score) == (theirs.label, theirs.part_id, 0.5)


def test_the_least_recently_used_is_forgotten_first():
    one = max(
        sum(runs_of(part.mask).nbytes for part in prediction(seed).parts) for seed in range(3)
    )
    recent = RecentPredictions(max_bytes=2 * one)
    recent.put("a", prediction(0))
    recent.put("b", prediction(1))
    recent.put("b", prediction(1))
    assert recent.get("a") is not None
    recent.put("c", prediction(2))
    assert recent.get("b") is None
    assert recent.get("a") is not None
    assert recent.get("c") is not None


def test_what_is_too_large_is_not_kept():
    recent = RecentPredictions(max_bytes=10)
    recent.put("a", prediction(0))
    assert recent.get("a") is None
    assert recent.get("never") is None
