"""MobileSAM with its published weights, on things drawn on a textured ground."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.inference.sam_outline import depth_of, embed, follow_edges, outline
from calico_model.masks import mask_iou
from calico_model.modeling.mobile_sam import MobileSam, load_mobile_sam, mobile_sam_file

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def sam() -> MobileSam:
    file = mobile_sam_file()
    assert file is not None, "make install brings the weights"
    return load_mobile_sam(file, 512)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    random = np.random.default_rng(0)
    image = np.full((HEIGHT, WIDTH, 3), (90, 120, 80), np.uint8)
    cv2.circle(image, (90, 120), 50, (200, 60, 50), -1)
    cv2.rectangle(image, (190, 60), (289, 179), (40, 60, 200), -1)
    noise = random.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


DISC = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (90, 120), 50, 1, -1) > 0
BLOCK = np.zeros((HEIGHT, WIDTH), bool)
BLOCK[60:180, 190:290] = True


def drawn(sam: MobileSam, picture: np.ndarray, prompt: MaskPrompt) -> np.ndarray:
    mask, iou = outline(sam, embed(sam, picture), (HEIGHT, WIDTH), prompt)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.dtype == bool
    assert 0 <= iou <= 1
    return mask


@pytest.mark.parametrize(("x", "y", "truth"), [(90, 120, DISC), (240, 110, BLOCK)])
def test_one_click_outlines_the_thing_under_it(sam, picture, x, y, truth):
    assert mask_iou(drawn(sam, picture, MaskPrompt((Click(x, y),))), truth) > 0.9


def test_a_click_is_deepest_in_the_middle_of_the_piece_it_is_in():
    mask = np.zeros((40, 60), bool)
    mask[0:11, 10:21] = True
    mask[20:40, 0:60] = True
    assert depth_of(mask, 5, 15) == 1
    assert depth_of(mask, 5.5, 10.5) == pytest.approx(1 / 6, abs=0.01)
    assert depth_of(mask, 0, 15) == pytest.approx(1 / 6, abs=0.01)  # an image's edge is an edge
    assert depth_of(mask, 15, 15) == 0
    assert 0 < depth_of(mask, 40, 60) < 0.2  # the last pixel, of a click on the lower right corner


def test_what_was_learned_under_a_lone_click_says_which_thing_is_meant(sam):
    image = np.full((HEIGHT, WIDTH, 3), (90, 120, 80), np.uint8)
    cv2.rectangle(image, (40, 40), (279, 199), (200, 180, 60), -1)
    cv2.rectangle(image, (70, 70), (249, 169), (170, 150, 60), -1)
    cv2.circle(image, (160, 120), 22, (60, 60, 60), -1)
    image = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255)
    image = image.astype(np.uint8)
    knob = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (160, 120), 22, 1, -1) > 0
    drawer = np.zeros((HEIGHT, WIDTH), bool)
    drawer[70:170, 70:250] = True
    prompt = MaskPrompt((Click(160, 120),))
    for learned in (knob, drawer):
        mask, _ = outline(sam, embed(sam, image), (HEIGHT, WIDTH), prompt, learned)
        assert mask_iou(mask, learned) > 0.85


def test_a_box_outlines_the_thing_inside_whichever_corner_comes_first(sam, picture):
    box = (36.0, 66.0, 144.0, 174.0)
    mask = drawn(sam, picture, MaskPrompt(box=box))
    assert mask_iou(mask, DISC) > 0.9
    turned = MaskPrompt(box=(box[2], box[3], box[0], box[1]))
    assert (drawn(sam, picture, turned) == mask).all()


def test_clicks_correct_an_earlier_mask(sam, picture):
    both = DISC | BLOCK
    clicks = (Click(90, 120), Click(240, 110, is_positive=False))
    mask = drawn(sam, picture, MaskPrompt(clicks, previous=both))
    assert mask_iou(mask, DISC) > 0.85
    assert not mask[110, 240]


def test_a_tall_and_a_wide_picture_keep_their_shape(sam, picture):
    turned = np.ascontiguousarray(picture.transpose(1, 0, 2))
    mask, _ = outline(sam, embed(sam, turned), (WIDTH, HEIGHT), MaskPrompt((Click(120, 90),)))
    assert mask_iou(mask, DISC.T) > 0.9


def test_an_image_is_encoded_once(sam, picture):
    sam.embeddings.clear()
    first = embed(sam, picture)
    assert len(sam.embeddings) == 1
    assert (embed(sam, picture.copy()) == first).all()
    assert len(sam.embeddings) == 1
    other = picture.copy()
    other[0, 0, 0] ^= 1  # another image
    embed(sam, other)
    assert len(sam.embeddings) == 2


def test_a_mask_without_pixels_counts_as_no_mask(sam, picture):
    prompt = MaskPrompt((Click(90, 120), Click(20, 20, is_positive=False)))
    empty = replace(prompt, previous=np.zeros((HEIGHT, WIDTH), bool))
    assert (drawn(sam, picture, empty) == drawn(sam, picture, prompt)).all()


def test_a_predicted_mask_gets_the_edges_of_the_picture(sam, picture):
    rough = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (94, 116), 46, 1, -1) > 0
    assert mask_iou(rough, DISC) < 0.85
    mask, edges = follow_edges(sam, picture, rough)
    assert mask_iou(mask, DISC) > 0.95
    assert edges.agreement == pytest.approx(mask_iou(mask, rough))
    assert edges.iou > 0.8


def test_a_mask_of_no_thing_stays_as_it_is(sam, picture):
    stripes = np.zeros((HEIGHT, WIDTH), bool)
    stripes[::12, 5:315] = True
    mask, edges = follow_edges(sam, picture, stripes)
    assert (mask == stripes).all()
    assert edges.agreement < 0.65
    mask, edges = follow_edges(sam, picture, np.zeros((HEIGHT, WIDTH), bool))
    assert not mask.any()
    assert edges is None
