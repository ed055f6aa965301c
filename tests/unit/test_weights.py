"""The shipped calico-tiny: loads, stays small, and still sees what its card says it sees."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from calico_model.config import CalicoConfig
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.evaluation.protocol import evaluate
from calico_model.predictor import DEFAULT_WEIGHTS, Predictor, load_predictor
from calico_model.presets import small_tokenizer, tiny
from calico_model.types import ImageGroup

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor()


def test_the_folder_holds_everything_and_stays_small() -> None:
    names = {path.name for path in DEFAULT_WEIGHTS.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= names
    size = sum(path.stat().st_size for path in DEFAULT_WEIGHTS.rglob("*") if path.is_file())
    assert size < 60 * MEBIBYTE


def test_it_is_the_tiny_preset_with_todays_vocabulary() -> None:
    assert CalicoConfig.from_file(DEFAULT_WEIGHTS / "config.json") == tiny(small_tokenizer().size)


def test_the_version_names_the_weights(predictor: Predictor) -> None:
    name, digest = predictor.version.rsplit("-", 1)
    assert name == "calico-tiny"
    assert len(digest) == 8


def test_it_segments_and_names_held_out_groups(predictor: Predictor) -> None:
    groups = [
        labeled_group(draw_group(group_rng(Stream.EVALUATION, 7, index), split=SceneSplit.SEEN))
        for index in range(16)
    ]
    report = evaluate(predictor, groups, resamples=10)
    # Far below the card's figures (300 groups), far above an untrained model's zero.
    assert report.mean["compat"]["mIoU"].value > 35
    assert report.mean["compat"]["Recall"].value > 25


def test_of_photographs_it_says_nothing_before_it_has_learned(predictor: Predictor) -> None:
    with get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        photo = np.asarray(Image.open(file).convert("RGB"))
    group = ImageGroup((photo, photo[:400].copy()), ("a", "b"))
    with predictor.acquire(group) as session:
        assert not session.asks_language
        assert not session.is_familiar
    assert predictor.predict(group).parts == ()


def test_of_drawings_it_is_asked(predictor: Predictor) -> None:
    for split in SceneSplit:
        group = draw_group(group_rng(Stream.EVALUATION, 8, 1), split=split)
        with predictor.acquire(labeled_group(group).group) as session:
            assert session.asks_language, split


def drawn_groups(count: int) -> list[ImageGroup]:
    return [
        labeled_group(
            draw_group(group_rng(Stream.EVALUATION, 5, number), group_size=2 + number % 2)
        ).group
        for number in range(count)
    ]


def test_groups_asked_together_are_answered_as_alone(predictor: Predictor) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    groups = [*drawn_groups(3), ImageGroup((noise,), ("noise",))]
    alone = [predictor.predict(group) for group in groups]
    assert sum(len(one.parts) for one in alone) > 20
    for own, other in zip(alone, predictor.predict_groups(groups), strict=True):
        assert (own.version, own.answers, own.phrases) == (
            other.version,
            other.answers,
            other.phrases,
        )
        for part, same in zip(own.parts, other.parts, strict=True):
            assert (part.kind, part.label, part.image_index) == (
                same.kind,
                same.label,
                same.image_index,
            )
            assert np.mean(part.mask != same.mask) < 1e-3
            assert part.score == pytest.approx(same.score, abs=1e-3)
    assert predictor.predict_groups([]) == []
