"""SAM 2's memory as a source: a small network of the real class, against its own iterator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from calico_model.errors import InvalidMaskError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.source import Ability, PromptSource, SeriesSource
from tests.unit.sources.small_models import opened, picture, randomise
from tests.unit.sources.test_sam2 import (
    IMAGENET,
    MASK_DECODER,
    PROMPT_ENCODER,
    preprocessed,
    sam2,
)

SIDE, FRAMES = 64, 4
WIDTH = 128  # twice that of a remembered cell, which the class fixes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The network, and the source that was opened from its folder."""
    vision = sam2()[0].config.vision_config.to_dict() | {"fpn_hidden_size": WIDTH}
    prompts = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16}
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=PROMPT_ENCODER | prompts,
        mask_decoder_config=MASK_DECODER | {"hidden_size": WIDTH},
        image_size=SIDE,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=WIDTH,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=32,
    )
    folder = tmp_path_factory.mktemp("hub") / "sam2"
    model = randomise(Sam2VideoModel(config))
    model.save_pretrained(folder)
    processor = IMAGENET | {"size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model, opened(folder)


@pytest.fixture(scope="module")
def frames():
    return [picture(48 + 4 * number, 80, seed=number) for number in range(FRAMES)]


def square(mask):
    """As the processor of transformers brings a mask to the network."""
    shares = functional.interpolate(
        torch.from_numpy(mask).float()[None, None], (SIDE, SIDE), mode="bilinear", antialias=True
    )
    return (shares >= 0.5).float()


def expected(model, frames, accepted):
    """What the network's own iterator draws: logits of each frame, and presence."""
    pixels = torch.cat([preprocessed(frame, IMAGENET, SIDE) for frame in frames])
    session = Sam2VideoInferenceSession(pixels, SIDE, SIDE, dtype=torch.float32)
    region = session.obj_id_to_idx(1)
    with torch.no_grad():
        for image, mask in accepted.items():
            session.add_mask_inputs(region, image, square(mask))
            session.obj_with_new_inputs = [1]
            model(session, frame_idx=image)
        found = {}
        for output in model.propagate_in_video_iterator(session, min(accepted)):
            size = frames[output.frame_idx].shape[:2]
            logits = functional.interpolate(output.pred_masks, size, mode="bilinear")
            found[output.frame_idx] = logits[0, 0], output.object_score_logits.sigmoid().item()
    return found


def outlined(frame):
    mask = np.zeros(frame.shape[:2], bool)
    mask[10:30, 20:60] = True
    return mask


@pytest.mark.parametrize("known", [(0,), (1,), (0, 2)])
def test_a_region_is_carried_as_by_transformers(saved, frames, known):
    model, source = saved
    accepted = {image: outlined(frames[image]) for image in known}
    carried = source.carry_series(frames, accepted)
    assert sorted(carried) == [n for n in range(min(known), FRAMES) if n not in known]
    wanted = expected(model, frames, accepted)
    for image, answer in carried.items():
        logits, score = wanted[image]
        assert answer.score == pytest.approx(score, abs=1e-4)
        unsure = logits.abs().numpy() < 1e-4
        assert ((answer.mask == (logits > 0).numpy()) | unsure).all()
        assert answer.mask.shape == frames[image].shape[:2]


def test_what_is_remembered_changes_what_is_drawn(saved, frames):
    _, source = saved
    one = source.carry_series(frames, {0: outlined(frames[0])})
    other = source.carry_series(frames, {0: ~outlined(frames[0])})
    assert any((one[image].mask != other[image].mask).any() for image in one)


def test_the_same_source_answers_clicks(saved, frames):
    _, source = saved
    assert source.describe().abilities == {Ability.CLICK, Ability.BOX, Ability.SERIES}
    assert isinstance(source, PromptSource)
    assert isinstance(source, SeriesSource)
    answer = source.segment_prompt(source.encode(frames[0]), MaskPrompt((Click(20.0, 20.0),)))
    assert answer[0].mask.shape == frames[0].shape[:2]


def test_the_parts_for_images_are_in_memory_once(saved):
    model, source = saved
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert source.describe().parameters == parameters
    assert source._video.vision_encoder is source._model.vision_encoder


@pytest.mark.parametrize(
    ("accepted", "message"),
    [({}, "at least one mask"), ({0: np.ones((3, 3), bool)}, r"accepted\[0\]: expected")],
)
def test_wrong_masks_are_refused(saved, frames, accepted, message):
    with pytest.raises(InvalidMaskError, match=message):
        saved[1].carry_series(frames, accepted)
