"""Clicks and boxes in photographs where MobileSAM is installed, as `make install` does."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from calico_model.inference.images import to_pixels
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.interactive import clicks as clicking
from calico_model.interactive.clicks import Refined, refine
from calico_model.masks import mask_iou
from calico_model.modeling.model import Calico

HEIGHT, WIDTH = 160, 240
DISC = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (80, 80), 40, 1, -1) > 0


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), (90, 120, 80), np.uint8)
    image[DISC] = (200, 60, 50)
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def outlined(model: Calico, picture: np.ndarray, prompt: MaskPrompt) -> Refined:
    model.add_on(["familiarity", "photo_refiner"])
    assert model.familiarity is not None
    model.familiarity.bias.fill_(-1.0)  # no image is familiar
    with torch.inference_mode():
        features = model.encode(to_pixels([picture], model.config))
    return refine(model.eval(), features, picture, prompt)


def test_a_click_in_a_photograph_outlines_the_thing(photo_model, picture):
    refined = outlined(photo_model, picture, MaskPrompt((Click(80, 80),)))
    assert mask_iou(refined.mask, DISC) > 0.85
    assert refined.iou > 0.7


def test_nothing_outside_a_box_is_meant(photo_model, picture):
    refined = outlined(photo_model, picture, MaskPrompt(box=(38.0, 38.0, 80.0, 122.0)))
    assert refined.mask[:, :80].any()
    assert not refined.mask[:, 85:].any()


def test_the_last_click_is_obeyed(photo_model, picture):
    clicks = (Click(80, 80), Click(85, 85, is_positive=False))
    refined = outlined(photo_model, picture, MaskPrompt(clicks, previous=DISC))
    assert not refined.mask[85, 85]
    added = (Click(80, 80), Click(200, 40))
    assert outlined(photo_model, picture, MaskPrompt(added, previous=DISC)).mask[40, 200]


def test_a_lone_click_is_compared_with_what_was_learned_there(photo_model, picture, monkeypatch):
    learned = np.zeros((HEIGHT, WIDTH), bool)
    learned[60:100, 70:110] = True
    compared = []

    def noted(_sam, _embedding, _size_hw, _prompt, learned):
        compared.append(learned)
        return DISC, 0.5

    monkeypatch.setattr(clicking, "part_at", lambda *_: learned)
    monkeypatch.setattr(clicking, "outline", noted)
    click = Click(90, 80)
    outlined(photo_model, picture, MaskPrompt((click,)))
    outlined(photo_model, picture, MaskPrompt((click,), previous=DISC))
    outlined(photo_model, picture, MaskPrompt((click,), previous=DISC, corrects_region=True))
    outlined(photo_model, picture, MaskPrompt(box=(38.0, 38.0, 80.0, 122.0)))
    assert compared[0] is learned
    assert compared[1:] == [None, None, None]


def test_a_region_that_is_corrected_is_described_to_the_network(photo_model, picture, monkeypatch):
    asked = []

    def noted(_sam, _embedding, _size_hw, prompt, _learned):
        asked.append(prompt)
        return DISC, 0.5

    monkeypatch.setattr(clicking, "outline", noted)
    outside, inside = Click(150, 80), Click(60, 80)
    hole = Click(80.5, 80.5, is_positive=False)
    for clicks in ((outside,), (inside,), (hole,)):
        outlined(photo_model, picture, MaskPrompt(clicks, previous=DISC, corrects_region=True))
    boxes = [one.box for one in asked]
    assert boxes == [
        (40.0, 40.0, 150, 121.0),
        (40.0, 40.0, 121.0, 121.0),
        (40.0, 40.0, 121.0, 121.0),
    ]
    (first, _), (only,), (deep, _) = (one.clicks for one in asked)
    assert (first.x, first.y, first.is_positive) == (80.5, 80.5, True)
    assert only == inside
    assert DISC[int(deep.y), int(deep.x)]
    assert abs(deep.x - 80.5) + abs(deep.y - 80.5) > 10  # away from the hole
    # The mask of earlier clicks is MobileSAM's own.
    outlined(photo_model, picture, MaskPrompt((inside, outside), previous=DISC))
    assert (asked[-1].clicks, asked[-1].box) == ((inside, outside), None)


def test_a_negative_click_on_a_region_that_was_there_only_takes_away(
    photo_model, picture, monkeypatch
):
    larger = np.zeros((HEIGHT, WIDTH), bool)
    larger[20:140, 20:140] = True
    monkeypatch.setattr(clicking, "outline", lambda *_: (larger, 0.5))
    hole = Click(80.5, 80.5, is_positive=False)
    prompt = MaskPrompt((hole,), previous=DISC, corrects_region=True)
    mask = outlined(photo_model, picture, prompt).mask
    assert not (mask & ~DISC).any()
    assert not mask[80, 80]
    added = replace(prompt, clicks=(hole, Click(130, 130)))
    assert outlined(photo_model, picture, added).mask[130, 130]


def test_only_a_photograph_is_encoded_before_the_first_click(photo_model, picture):
    outlined(photo_model, picture, MaskPrompt((Click(80, 80),)))  # makes the model ready
    sam = photo_model.mobile_sam()
    features = photo_model.encode(to_pixels([picture], photo_model.config))
    for bias, encoded in ((1.0, 0), (-1.0, 1)):
        sam.embeddings.clear()
        photo_model.familiarity.bias.fill_(bias)
        clicking.prepare(photo_model, features, picture)
        assert len(sam.embeddings) == encoded
