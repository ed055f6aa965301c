from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from calico_model.errors import InvalidConfigError
from calico_model.inference.confidence import Confidence
from calico_model.modeling.features import FeatureCache, ImageFeatures
from calico_model.modeling.language import Conversations, Generated
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor, load_predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import ImageGroup, RegionKind
from tests.conftest import build_micro

CHAIRS = "<p> the chair </p> [SEG] (IMAGE1) [SEG] (IMAGE2)."
COMMON = f"{CHAIRS} </s>"
PARTS = f"{CHAIRS} <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
UNIQUE = f"{CHAIRS} <p> the seat </p> [SEG] (IMAGE2) and <p> the leg </p> [SEG] (IMAGE9). </s>"


class Scripted(Calico):
    """Calico whose answers are given; encoding and masks are real."""

    answers: tuple[str, ...]
    tokenizer: Tokenizer
    asked: list[Conversations]
    decoded: list[torch.Tensor]
    chances: tuple[float, ...] = (0.9, 0.9, 0.9)
    is_first_tag_spelled: bool = False

    def generate(
        self,
        features: ImageFeatures,
        conversations: Conversations,
        *,
        seg: int,
        end: int,
        penalised: Sequence[int] = (),
    ) -> Generated:
        self.asked.append(conversations)
        ids = [[i for i in self.tokenizer.encode(text) if i != end] for text in self.answers]
        states = [torch.randn(row.count(seg), 64) for row in ids]
        if self.is_first_tag_spelled:
            states[1] = states[1][1:]
        chances = [[c] * len(row) for c, row in zip(self.chances, ids, strict=True)]
        return Generated(ids, chances, states)

    def segment(
        self, features: ImageFeatures, states: torch.Tensor, image_feature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.decoded.append(features.mask.embedding[image_feature])
        return super().segment(features, states, image_feature)


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Scripted:
    model = build_micro(tokenizer.size)
    model.__class__ = Scripted
    assert isinstance(model, Scripted)
    model.answers, model.tokenizer = (COMMON, PARTS, UNIQUE), tokenizer
    model.asked, model.decoded = [], []
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


def test_scores_are_the_plain_product_until_they_are_fitted(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    torch.manual_seed(0)
    plain = Predictor(scripted, tokenizer, version="v1").predict(group)
    torch.manual_seed(0)
    confidence = Confidence(iou=1.0, mask=2.0, phrase=3.0, bias=0.5)
    fitted = Predictor(scripted, tokenizer, version="v1", confidence=confidence).predict(group)
    assert plain.parts
    for before, after in zip(plain.parts, fitted.parts, strict=True):
        assert before.evidence is not None
        assert before.score == before.evidence.iou * before.evidence.phrase
        assert after.score == confidence.score(before.evidence)
        assert after.mask.tobytes() == before.mask.tobytes()
        assert (after.label, after.evidence) == (before.label, before.evidence)


def test_an_image_is_encoded_once(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    predictor = Predictor(scripted, tokenizer, version="v1")
    predictor.predict(group)
    predictor.predict(group)
    turned = ImageGroup(group.images[::-1], group.ids[::-1])
    features = predictor.encode(turned)
    assert (predictor.features.misses, predictor.features.hits) == (2, 2)
    first = predictor.encode(turned.only(0))
    assert torch.equal(features.mask.embedding[:1], first.mask.embedding)
    assert not torch.equal(predictor.encode(group).mask.embedding, features.mask.embedding)


def test_images_of_a_group_in_use_are_not_forgotten(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    size = Predictor(scripted, tokenizer, version="v1").encode(group).nbytes // len(group)
    predictor = Predictor(scripted, tokenizer, version="v1", cache_bytes=16 * size)
    predictor.encode(group)
    rng = np.random.default_rng(0)
    for number in range(20):
        other = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
        predictor.encode(ImageGroup((other,), (str(number),)))
        predictor.encode(group)
    misses = predictor.features.misses
    predictor.encode(group.only(0))
    assert predictor.features.misses == misses


def test_a_part_is_common_or_unique_in_the_whole_group(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    scripted.answers = (COMMON, PARTS, f"{CHAIRS} <p> the leg </p> [SEG] (IMAGE1). </s>")
    scripted.chances = (0.9, 0.8, 0.95)  # the unique reading is surer
    parts = Predictor(scripted, tokenizer, version="v1").predict(group).parts
    legs = [(p.kind, p.image_index) for p in parts if p.label == "leg"]
    assert legs == [(RegionKind.UNIQUE_PART, 0)]


def test_a_tag_spelled_by_bytes_loses_its_answer_not_the_group(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup
) -> None:
    spelled = "<p> the [ SEG] leg </p> [SEG] (IMAGE1)".replace("[ ", "[")
    scripted.answers = (COMMON, f"{CHAIRS} {spelled}. </s>", UNIQUE)
    scripted.is_first_tag_spelled = True
    parts = Predictor(scripted, tokenizer, version="v1").predict(group).parts
    assert {p.kind for p in parts} == {RegionKind.COMMON_OBJECT, RegionKind.UNIQUE_PART}


def test_each_mask_is_decoded_on_its_own_image(
    scripted: Scripted, tokenizer: Tokenizer, group: ImageGroup, images: list[np.ndarray]
) -> None:
    predictor = Predictor(scripted, tokenizer, version="v1")
    predictor.predict(group)
    predictor.predict(ImageGroup(tuple(reversed(images)), ("a", "b")))
    straight, swapped = scripted.decoded
    assert torch.equal(straight[0], swapped[1])
    assert torch.equal(straight[1], swapped[0])
    assert not torch.equal(straight[0], straight[1])


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


def test_cached_features_hold_no_more_memory_than_they_report(
    model: Calico, tokenizer: Tokenizer
) -> None:
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(8))
    predictor = Predictor(model, tokenizer, version="v1")
    predictor.predict(ImageGroup(pictures, tuple("abcdefgh")))
    for one in predictor.features._items.values():
        tensors = (one.global_tokens, one.semantic_tokens, one.mask.embedding, *one.mask.fine)
        assert sum(t.untyped_storage().nbytes() for t in tensors) == one.nbytes


@pytest.mark.parametrize("device", ["banana", "cuda", "cuda:99", "cuda:x", ""])
def test_a_device_this_machine_lacks_is_named(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InvalidConfigError, match="device: expected cpu"):
        load_predictor(device=device)
