"""What a version predicted for a group comes back bit for bit, from memory and the database."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.serving.group_predictions import GroupPredictions, decode, encode, pack
from backend.storage.store import open_store
from backend.storage.tables import prediction as kept
from calico_model.types import (
    AnswerPhrase,
    GroupPrediction,
    MaskEvidence,
    PartMask,
    RegionKind,
)


def prediction(seed, *, size_hw=(33, 17)):
    rng = np.random.default_rng(seed)
    masks = [rng.random(size_hw) < 0.5 for _ in range(3)] + [np.zeros(size_hw, bool)]
    parts = tuple(
        PartMask(i % 2, RegionKind.COMMON_PART, f"part {i}", mask, "cup", f"p{i}", 1 / 3)
        for i, mask in enumerate(masks)
    )
    parts = (replace(parts[0], evidence=MaskEvidence(0.1, 0.7, 1 / 7)), *parts[1:])
    phrase = AnswerPhrase(RegionKind.COMMON_PART, "lid", (0, 1), False, 12)
    return GroupPrediction(parts, "v", {"q": "a"}, (phrase,))


def assert_equal(ours, theirs):
    assert (ours.version, ours.answers, ours.phrases) == (
        theirs.version,
        theirs.answers,
        theirs.phrases,
    )
    for one, other in zip(ours.parts, theirs.parts, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.mask.dtype == np.bool_
        assert replace(one, mask=other.mask).__dict__ == replace(other, mask=other.mask).__dict__


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}", commit_timeout_s=30)
    yield opened
    opened.close()


@pytest.fixture
def server(store):
    """Makes the memory of one server over the database."""

    def make(*, max_bytes=100_000, code="1"):
        return GroupPredictions(store, max_bytes=max_bytes, code=code)

    return make


def flush(store):
    store.write(lambda connection: None, timeout_s=30)


def test_nothing_is_lost_in_the_stored_bytes():
    given = prediction(0)
    assert_equal(decode(encode(pack(given))).unpacked(), given)


def test_only_the_masks_that_are_wanted_are_unpacked():
    found = pack(prediction(0)).unpacked(images=(1,))
    assert [part.mask.shape for part in found.parts] == [(0, 0), (33, 17)] * 2


def test_another_server_finds_it_and_keeps_it_in_memory(server, store, monkeypatch):
    given, other = prediction(0), server()
    server().put("content", "v", given)
    flush(store)
    assert other.is_known("content", "v")
    monkeypatch.setattr(store, "find_prediction", None)
    assert_equal(other.find("content", "v"), given)


def test_what_does_not_fit_into_memory_comes_from_the_database(server, store):
    small, given = server(max_bytes=1), prediction(0)
    small.put("content", "v", given)
    flush(store)
    assert_equal(small.find("content", "v"), given)


def test_other_content_versions_and_code_have_predictions_of_their_own(server, store):
    server().put("content", "v", prediction(0))
    flush(store)
    assert server().find("other", "v") is None
    assert server().find("content", "w") is None
    assert server(code="2").find("content", "v") is None


def test_damaged_bytes_are_as_if_nothing_was_kept(server, store):
    server().put("content", "v", prediction(0))
    flush(store)
    store.write(lambda one: one.execute(kept.update().values(body=b"damaged")), timeout_s=30)
    assert server().find("content", "v") is None
