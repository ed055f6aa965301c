"""Clicks and boxes: in whose pixels they are, which of SAM's masks answers, what is fed back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from calico_model.assistant import Assistant
from calico_model.errors import InvalidMaskError
from calico_model.inference.images import to_pixels
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.interactive import clicks as clicking
from calico_model.interactive.clicks import Refined, _points, refine
from calico_model.masks import extent_of
from calico_model.modeling.mask_decoder import SURE_LOGIT, PointKind
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.presets import tiny
from calico_model.tokenizer import Tokenizer
from calico_model.types import (
    BoolMask,
    GroupPrediction,
    ImageGroup,
    PartMask,
    RegionKind,
    RgbImage,
)

SIZE = (100, 200)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Calico:
    torch.manual_seed(0)
    model = Calico(tiny(tokenizer.size))
    model.initialise()
    return model.eval()


@pytest.fixture
def group() -> ImageGroup:
    rng = np.random.default_rng(0)
    images: list[RgbImage] = [
        rng.integers(0, 255, (*size, 3)).astype(np.uint8) for size in (SIZE, (64, 64))
    ]
    return ImageGroup(tuple(images), ("a", "b"))


@pytest.fixture
def predictor(model: Calico, tokenizer: Tokenizer) -> Predictor:
    return Predictor(model, tokenizer, version="v")


def asked(predictor: Predictor, group: ImageGroup, prompt: MaskPrompt) -> Refined:
    return Assistant(predictor).refine(group, 0, prompt)


def test_clicks_and_boxes_go_into_the_letterboxed_frame(model: Calico) -> None:
    prompt = MaskPrompt((Click(200, 100), Click(50, 25, False)), box=(150, 80, 50, 20))
    points, kinds = _points(prompt, SIZE, model.config)
    expected = [[128.0, 64.0], [32.0, 16.0], [32.0, 12.8], [96.0, 51.2]]
    torch.testing.assert_close(points[0], torch.tensor(expected))
    assert kinds.tolist() == [[1, 0, PointKind.FIRST_CORNER, PointKind.SECOND_CORNER]]
    points, kinds = _points(MaskPrompt((Click(-5, 1e9),)), SIZE, model.config)
    assert points[0, 0].tolist() == [0.0, 64.0]
    assert kinds.tolist() == [[1, PointKind.NONE]]


def test_a_prompt_points_at_something() -> None:
    with pytest.raises(InvalidMaskError, match="click or a box"):
        MaskPrompt()
    with pytest.raises(InvalidMaskError, match="finite"):
        MaskPrompt((Click(math.nan, 1),))
    with pytest.raises(InvalidMaskError, match="finite"):
        MaskPrompt(box=(0, 0, math.inf, 1))


def test_the_best_of_three_answers_a_lone_prompt_and_one_mask_several(
    model: Calico, predictor: Predictor, group: ImageGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    real = model.mask_decoder._decode

    def spy(*args: object) -> object:
        outputs.append(args[-1])
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(model.mask_decoder, "_decode", spy)
    click, mask = Click(20, 20), np.ones(SIZE, bool)
    asked(predictor, group, MaskPrompt((click,)))
    asked(predictor, group, MaskPrompt(box=(1, 1, 9, 9)))
    asked(predictor, group, MaskPrompt((click, click)))
    asked(predictor, group, MaskPrompt((click,), box=(1, 1, 9, 9)))
    asked(predictor, group, MaskPrompt((click,), previous=mask))
    assert outputs == [(1, 2, 3), (1, 2, 3), (0,), (0,), (0,)]


def test_the_three_masks_are_ranked_by_the_iou_head(
    model: Calico, predictor: Predictor, group: ImageGroup
) -> None:
    prompt = MaskPrompt((Click(30, 40),))
    with torch.inference_mode():
        features = predictor.encode(group.only(0))
        points, kinds = _points(prompt, SIZE, model.config)
        sparse, dense = model.mask_decoder.embed(points, kinds)
        first = torch.zeros(1, dtype=torch.int64)
        logits, iou = model.mask_decoder(features.mask, first, sparse, dense, outputs=(1, 2, 3))
        found = refine(model, features, group.images[0], prompt)
    assert torch.equal(found.logits, logits[0, iou[0].argmax()])
    assert found.iou == pytest.approx(float(iou.max().clamp(0, 1)))
    assert found.mask.shape == SIZE


def test_the_earlier_mask_is_fed_back_in_the_networks_frame(
    model: Calico, predictor: Predictor, group: ImageGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = []
    real = model.mask_decoder.embed

    def spy(*args: object) -> object:
        fed.append(args[2])
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(model.mask_decoder, "embed", spy)
    previous = np.zeros(SIZE, bool)
    previous[:50, :100] = True
    click = Click(30, 40)
    corrected = asked(predictor, group, MaskPrompt((click,), previous=previous))
    alone = asked(predictor, group, MaskPrompt((click,), previous=np.zeros(SIZE, bool)))
    (shown,) = fed[0]
    assert shown.shape == (64, 64)
    expected = torch.full((64, 64), -SURE_LOGIT)
    expected[:16, :32] = (
        SURE_LOGIT  # half of the image's 32 x 64 cells each way; the rest is padding
    )
    torch.testing.assert_close(shown, expected)
    assert fed[1] is None
    assert not torch.equal(corrected.logits, alone.logits)
    with pytest.raises(InvalidMaskError, match=r"previous: expected a mask of \(100, 200\)"):
        asked(predictor, group, MaskPrompt((click,), previous=np.ones((5, 5), bool)))


def test_an_opened_group_is_not_encoded_again(
    model: Calico, predictor: Predictor, group: ImageGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.encode(group)
    monkeypatch.setattr(model, "encode", None)
    assistant = Assistant(predictor)
    for index in (0, 1):
        found = assistant.refine(group, index, MaskPrompt((Click(3, 3),)))
        assert found.mask.shape == group.sizes_hw[index]
    assert assistant.version == "v"


def known_as(mask: BoolMask, score: float) -> GroupPrediction:
    part = PartMask(0, RegionKind.COMMON_PART, "lid", mask, score=score)
    elsewhere = replace(part, image_index=1, mask=np.ones((64, 64), np.bool_))
    return GroupPrediction((part, elsewhere), "v")


@pytest.fixture
def own(predictor: Predictor, group: ImageGroup) -> tuple[Click, BoolMask]:
    """A click in the middle of what it outlines when nothing is known, and that."""
    for place in np.ndindex(10, 20):
        click = Click(10 * place[1] + 5.0, 10 * place[0] + 5.0)
        mask = asked(predictor, group, MaskPrompt((click,))).mask
        if mask[int(click.y), int(click.x)] and 0.1 < mask.mean() < 0.9:
            return click, mask
    raise AssertionError("no click of this model outlines what it is in")


def half_of(mask: BoolMask, click: Click) -> BoolMask:
    """Every second row of a mask, beginning with the clicked one."""
    found = mask.copy()
    found[(int(click.y) + 1) % 2 :: 2] = False
    return found


def test_a_lone_click_means_the_known_part_it_is_on(
    predictor: Predictor, group: ImageGroup, own: tuple[Click, BoolMask]
) -> None:
    click, mask = own
    known = half_of(mask, click)
    agreement = float(known.sum() / mask.sum())
    assistant, prompt = Assistant(predictor), MaskPrompt((click,))
    believed = assistant.refine(group, 0, prompt, known_as(known, 0.95))
    assert (believed.mask == known).all()
    assert believed.iou == 0.95
    doubted = assistant.refine(group, 0, prompt, known_as(known, max(0.0, 0.89 - agreement)))
    assert (doubted.mask == mask).all()


def test_of_several_known_parts_the_one_like_the_clicks_own_mask_is_meant(
    predictor: Predictor, group: ImageGroup, own: tuple[Click, BoolMask]
) -> None:
    click, mask = own
    alike, whole = half_of(mask, click), np.ones(SIZE, np.bool_)
    both = (*known_as(whole, 1.0).parts, *known_as(alike, 0.9).parts)
    found = Assistant(predictor).refine(group, 0, MaskPrompt((click,)), GroupPrediction(both, "v"))
    expected = max((alike, whole), key=lambda one: (one & mask).sum() / (one | mask).sum())
    assert (found.mask == expected).all()


def test_nothing_known_answers_where_more_was_said_than_one_click(
    predictor: Predictor, group: ImageGroup, own: tuple[Click, BoolMask]
) -> None:
    click, mask = own
    known = known_as(half_of(mask, click), 1.0)
    away = known_as(mask & ~half_of(mask, click), 1.0)  # the click is not on it
    box = (click.x - 30, click.y - 30, click.x + 30, click.y + 30)
    assistant = Assistant(predictor)
    for prompt, group_prediction in (
        (MaskPrompt((click,)), away),
        (MaskPrompt((click, click)), known),
        (MaskPrompt((click,), box=box), known),
        (MaskPrompt(box=box), known),
        (MaskPrompt((replace(click, is_positive=False),)), known),
        (MaskPrompt((click,), previous=mask), known),
    ):
        alone = assistant.refine(group, 0, prompt)
        assert (assistant.refine(group, 0, prompt, group_prediction).mask == alone.mask).all()


@pytest.fixture(autouse=True)
def without_mobile_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs are outlined by the model's own refiner here; see test_sam_clicks.py."""
    monkeypatch.setattr(Calico, "mobile_sam", lambda _model: None)


def photograph() -> RgbImage:
    image: RgbImage = np.random.default_rng(3).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    return image


def outlined(model: Calico, prompt: MaskPrompt, added: float) -> BoolMask:
    """What a refiner of photographs that adds one number everywhere makes of a prompt."""
    model.add_on(["familiarity", "photo_refiner"])
    assert model.familiarity is not None
    assert model.photo_refiner is not None
    model.familiarity.bias.fill_(-1.0)
    bias = model.photo_refiner.edge[-1].bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias.fill_(added)
    image = photograph()
    with torch.inference_mode():
        features = model.encode(to_pixels([image], model.config))
    return refine(model.eval(), features, image, prompt).mask


def test_a_box_in_a_photograph_is_looked_at_with_what_is_around_it(photo_model: Calico) -> None:
    box = (60, 20, 110, 70)
    clicked = outlined(photo_model, MaskPrompt((Click(80, 40),), box=box), 1.0)
    assert extent_of(clicked) == (50, 10, 120, 80)
    alone = outlined(photo_model, MaskPrompt(box=box), 1.0)
    assert extent_of(alone) == (58, 18, 112, 72)  # what is meant is inside, or a little beside it


def test_both_looks_at_a_box_share_what_the_photo_trunk_sees(
    photo_model: Calico, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    encode = Calico.encode_photos

    def counted(
        model: Calico, images: Sequence[Tensor], cells: int | None = None
    ) -> tuple[Tensor, ...]:
        if cells is not None:
            calls.append(cells)
        return encode(model, images, cells)

    monkeypatch.setattr(Calico, "encode_photos", counted)
    outlined(photo_model, MaskPrompt(box=(60, 20, 110, 70)), 0.5)
    assert len(calls) == 1


def test_a_lone_click_in_a_photograph_is_part_of_its_mask(photo_model: Calico) -> None:
    there = outlined(photo_model, MaskPrompt((Click(30, 40),)), 1.0)
    columns = np.flatnonzero(there.any(0))
    assert there[:, :97].all()  # what the first look shows, a third of the image on each side
    assert not there[:, 137:].any()
    assert columns[0] == 0
    nowhere = outlined(photo_model, MaskPrompt((Click(120, 40),)), -1.0)
    assert nowhere[40, 120]
    assert nowhere.sum() < 30


def test_what_is_wanted_of_a_photograph_is_where_the_positive_click_is(
    photo_model: Calico,
) -> None:
    clicks = (Click(30, 40), Click(190, 40, is_positive=False))
    mask = outlined(photo_model, MaskPrompt(clicks), 1.0)
    assert mask[40, 30]
    assert not mask[40, 190]


def test_clicks_on_an_earlier_mask_of_a_photograph_are_heeded(photo_model: Calico) -> None:
    earlier = np.zeros(SIZE, np.bool_)
    earlier[10:40, 10:60] = True
    more = MaskPrompt((Click(100, 60),), previous=earlier)
    mask = outlined(photo_model, more, 0.5)  # too little to overrule what was drawn
    assert mask[60, 100]
    assert (mask & earlier).sum() == earlier.sum()
    less = MaskPrompt((Click(100, 60), Click(20, 20, False)), previous=earlier)
    mask = outlined(photo_model, less, 0.5)
    assert not mask[20, 20]
    assert mask[35, 55]


def test_a_click_begins_with_what_the_project_has_learned_there(
    photo_model: Calico, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = np.zeros(SIZE, np.bool_)
    learned[30:60, 100:150] = True
    monkeypatch.setattr(clicking, "part_at", lambda *_: learned)
    mask = outlined(photo_model, MaskPrompt((Click(120, 40),)), 0.5)
    assert np.array_equal(mask, learned)
    boxed = outlined(photo_model, MaskPrompt(box=(10, 10, 30, 30)), 0.5)
    assert not boxed[45, 125]  # a box says where
