from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from calico_model.features import FeatureCache, ImageFeatures
from calico_model.modeling.model import Calico, Conversations, Generated
from calico_model.predictor import Predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup, RegionKind
from tests.unit.conftest import build_micro

CHAIRS = "<p> the chair </p> [SEG] (IMAGE1) [SEG] (IMAGE2)."
COMMON = f"{CHAIRS} </s>"
PARTS = f"{CHAIRS} <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
UNIQUE = f"{CHAIRS} <p> the seat </p> [SEG] (IMAGE2) and <p> the leg </p> [SEG] (IMAGE9). </s>"


class Scripted(Calico):
    """Calico whose answers are given; encoding and masks are real."""

    answers: tuple[str, ...]
    tokenizer: Tokenizer
    asked: list[Conversations]

    def generate(
        self, features: ImageFeatures, conversations: Conversations, *, seg: int, end: int
    ) -> Generated:
        self.asked.append(conversations)
        ids = [[i for i in self.tokenizer.encode(text) if i != end] for text in self.answers]
        states = [torch.randn(row.count(seg), 64) for row in ids]
        return Generated(ids, [[0.9] * len(row) for row in ids], states)


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Scripted:
    model = build_micro(tokenizer.size)
    model.__class__ = Scripted
    assert isinstance(model, Scripted)
    model.answers, model.tokenizer, model.asked = (COMMON, PARTS, UNIQUE), tokenizer, []
    # Large positive masks: every region shows.
    with torch.no_grad():
        for layer in model.mask_decoder.mask_decoder.output_hypernetworks_mlps[0].layers:
            layer.bias.add_(1.0)
    return model


@pytest.fixture
def group(images: list[np.ndarray]) -> ImageGroup:
    return ImageGroup(tuple(images), ("a", "b"))


def test_answers_become_regions_of_the_right_kind_image_and_size(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    prediction = Predictor(scripted, tokenizer, version="v1").predict(group)

    assert prediction.version == "v1"
    assert len(scripted.asked) == 1
    assert len(scripted.asked[0].input_ids) == 3
    found = {(p.kind, p.label, p.image_index) for p in prediction.parts}
    assert found <= {
        (RegionKind.COMMON_OBJECT, "chair", 0),
        (RegionKind.COMMON_OBJECT, "chair", 1),
        (RegionKind.COMMON_PART, "leg", 0),
        (RegionKind.COMMON_PART, "leg", 1),
        (RegionKind.UNIQUE_PART, "seat", 1),
    }
    assert found
    for part in prediction.parts:
        assert part.mask.shape == group.sizes_hw[part.image_index]
        assert part.mask.any()
        assert (part.object_label == "chair") == (part.kind is not RegionKind.COMMON_OBJECT)
        assert (part.part_id is None) == (part.kind is RegionKind.UNIQUE_PART)


def test_an_image_is_encoded_once(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    predictor = Predictor(scripted, tokenizer, version="v1")
    predictor.predict(group)
    predictor.predict(group)
    assert (predictor.features.misses, predictor.features.hits) == (2, 2)


def test_a_part_is_common_or_unique_never_both(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    both = "<p> the chair </p> [SEG] (IMAGE1). <p> the leg </p> [SEG] (IMAGE1). </s>"
    scripted.answers = (COMMON, PARTS, both)
    parts = Predictor(scripted, tokenizer, version="v1").predict(group).parts
    assert len(
        {(p.label, p.image_index, p.kind is RegionKind.COMMON_OBJECT) for p in parts}
    ) == len(parts)


def test_empty_answers_give_no_regions(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    scripted.answers = ("The images share no object. </s>",) * 3
    assert Predictor(scripted, tokenizer, version="v1").predict(group).parts == ()


def test_a_real_model_answers_alike_from_many_threads(
    tokenizer: Tokenizer, model: Calico, group: ImageGroup
) -> None:
    predictor = Predictor(model, tokenizer, version="v1")
    first = predictor.predict(group).answers
    with ThreadPoolExecutor(4) as threads:
        answers = [p.answers for p in threads.map(lambda _: predictor.predict(group), range(8))]
    assert answers == [first] * 8


def test_the_cache_keeps_its_ceiling(model: Calico, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    predictor = Predictor(model, tokenizer, version="v1")
    picture = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    predictor.predict(ImageGroup((picture,), ("a",)))
    one = predictor.features._items[next(iter(predictor.features._items))]
    small = FeatureCache(max_bytes=int(2.5 * one.nbytes))
    for key in "abcd":
        small.put(key, one)
    assert [small.get(key) is not None for key in "abcd"] == [False, False, True, True]
