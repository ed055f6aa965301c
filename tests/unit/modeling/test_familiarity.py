"""Which pictures the language model may be asked about."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from calico_model.data.casting import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.inference.images import to_pixels
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.modeling.domain import Familiarity, photo_style
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.tokenizer import Tokenizer
from calico_model.training.online.example import Example
from calico_model.training.online.update import find_update_domain
from calico_model.types import ImageGroup
from tests.unit.training.examples import drawn, encoded, examples


@pytest.fixture
def familiarity(photo_model: Calico) -> Familiarity:
    return Familiarity(photo_model.config)


def maps(*shifts: float, seed: int = 0) -> tuple[Tensor, ...]:
    """Photo maps of one image per shift of the mean of all channels."""
    random = torch.Generator().manual_seed(seed)
    wanted = torch.randn(len(shifts), 120, 8, 8, generator=random)
    nothing = torch.zeros(len(shifts), 1, 1, 1)
    return nothing, nothing, wanted + torch.tensor(shifts)[:, None, None, None], nothing


def group(*shifts: float, seed: int = 0) -> ImageFeatures:
    nothing = torch.zeros(len(shifts), 1, 1)
    none = MaskFeatures(torch.zeros(len(shifts), 1, 1, 1))
    return ImageFeatures(nothing, nothing, none, maps(*shifts, seed=seed))


def looks(shift: float, count: int, seed: int) -> Tensor:
    return photo_style(maps(*[shift] * count, seed=seed))


def test_at_first_everything_is_familiar(familiarity: Familiarity) -> None:
    assert familiarity.covers(group(-5.0))
    assert familiarity.covers(group(5.0))


def test_a_look_is_the_mean_and_the_deviation_of_the_third_map() -> None:
    look = looks(2.0, 1, 1)
    assert look.shape == (1, 240)
    assert float(look[0, :120].mean()) == pytest.approx(2.0, abs=0.1)
    assert float(look[0, 120:].mean()) == pytest.approx(1.0, abs=0.1)


def test_two_kinds_of_pictures_are_told_apart(familiarity: Familiarity) -> None:
    familiarity.fit(looks(0.0, 60, 1), looks(1.0, 60, 2), known_share=0.5)
    for seed in range(3, 8):
        assert familiarity.covers(group(0.0, 0.0, seed=seed))
        assert not familiarity.covers(group(1.0, 1.0, seed=seed))


def test_a_group_is_judged_as_one(familiarity: Familiarity) -> None:
    familiarity.fit(looks(0.0, 60, 1), looks(1.0, 60, 2), known_share=0.5)
    assert familiarity.covers(group(0.0, 0.0, 0.0, 1.0, seed=9))
    assert not familiarity.covers(group(0.0, 1.0, 1.0, 1.0, seed=9))


def test_the_share_says_how_far_the_known_reach(familiarity: Familiarity) -> None:
    between = group(0.5, 0.5, seed=9)
    for share, is_known in ((0.2, False), (0.8, True)):
        familiarity.fit(looks(0.0, 60, 1), looks(1.0, 60, 2), known_share=share)
        assert familiarity.covers(between) is is_known


def test_what_has_no_photo_maps_is_asked_about(familiarity: Familiarity) -> None:
    familiarity.fit(looks(0.0, 9, 1), looks(1.0, 9, 2), known_share=0.5)
    nothing = torch.zeros(1, 1, 1)
    old = ImageFeatures(nothing, nothing, MaskFeatures(torch.zeros(1, 1, 1, 1)))
    assert familiarity.covers(old)


def photograph(seed: int) -> np.ndarray:
    """Light that falls off over surfaces of every size, as photographs have and drawings lack."""
    rng = np.random.default_rng(seed)
    layers = (
        cv2.resize(
            rng.normal(0, 3 / n**0.5, (3 * n, 4 * n, 3)).astype(np.float32),
            (160, 120),
            interpolation=cv2.INTER_CUBIC,
        )
        for n in (1, 2, 4, 8, 16, 32)
    )
    seen = sum(layers)
    assert isinstance(seen, np.ndarray)
    return (255 * (seen - seen.min()) / np.ptp(seen)).astype(np.uint8)


@pytest.fixture
def fitted(photo_model: Calico) -> Calico:
    """A model that knows drawings."""
    photo_model.add_on(["dense_head", "familiarity"])
    photo_model.eval()
    known = [encoded(photo_model, drawn(SceneSplit.SEEN, n).group) for n in range(8)]
    other = [photographs(photo_model, n) for n in range(8)]
    ours, theirs = (
        torch.cat([photo_style(one.photo) for one in several]) for several in (known, other)
    )
    assert photo_model.familiarity is not None
    photo_model.familiarity.fit(ours, theirs, known_share=0.5)
    return photo_model


@torch.no_grad()
def photographs(model: Calico, seed: int) -> ImageFeatures:
    pair = [photograph(2 * seed + k) for k in range(2)]
    return model.encode(to_pixels(pair, model.config))


def test_before_anybody_corrected_it_is_silent_about_unfamiliar_pictures(
    fitted: Calico, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    generate = fitted.generate

    def counted(*given: object, **options: object) -> object:
        asked.append(1)
        return generate(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fitted, "generate", counted)
    predictor = Predictor(fitted, tokenizer, version="micro-1")
    pair = tuple(photograph(100 + k) for k in range(2))
    found = predictor.predict(ImageGroup(pair, ("a", "b")))
    assert found.parts == ()
    assert found.answers
    assert asked == []
    predictor.predict(drawn(SceneSplit.SEEN, 20).group)
    assert asked


def test_language_is_taught_only_where_pictures_are_familiar(fitted: Calico) -> None:
    drawings = examples(fitted, SceneSplit.SEEN, 3)
    strange = [_example(fitted, n) for n in range(3)]
    assert find_update_domain(fitted, drawings, ()) == (None, True)
    assert find_update_domain(fitted, strange, ()) == (None, False)
    assert find_update_domain(fitted, [*strange, drawings[0]], ()) == (None, True)
    fitted.familiarity = None
    assert find_update_domain(fitted, strange, ()) == (None, True)


def _example(model: Calico, seed: int) -> Example:
    return Example("a", photographs(model, seed), ((120, 160),) * 2, (), (None, None))


def test_the_line_is_saved_with_the_weights(
    fitted: Calico, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    save_model(fitted, tokenizer, folder, dtype=torch.float32)
    again, _ = load_model(folder)
    assert again.familiarity is not None
    assert fitted.familiarity is not None
    assert torch.equal(again.familiarity.weight, fitted.familiarity.weight)
    assert torch.equal(again.familiarity.bias, fitted.familiarity.bias)
    assert not again.is_familiar(photographs(fitted, 30))


def test_without_a_photo_trunk_there_is_nothing_to_look_at(model: Calico) -> None:
    with pytest.raises(InvalidConfigError, match="familiarity needs one"):
        Familiarity(model.config)
