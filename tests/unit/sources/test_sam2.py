"""SAM 2, EdgeTAM and the SAM 3 tracker as sources answer what the pipeline of transformers answers.

Their image processors need torchvision, which is not there. What they compute is written again
here, from what torchvision calls: torch's antialiased interpolation of bytes. Coordinates come from
the real processor, and masks from the real network.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    Sam2Config,
    Sam2Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
)
from transformers.models.sam2.processing_sam2 import Sam2Processor

from calico_model.errors import CheckpointError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.repvit import RepVitConfig
from calico_model.sources.source import Ability, PromptSource
from tests.unit.sources.small_models import (
    PROMPTS,
    SIZES,
    opened,
    picture,
    randomise,
    wants_several,
)

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PROMPT_ENCODER = {"hidden_size": 16, "mask_input_channels": 4}
MASK_DECODER = {
    "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
}  # fmt: skip
MAPS = [[16, 16], [8, 8], [4, 4]]


def sam2():
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
        "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 4],
        "window_size_per_stage": [8, 4, 4, 4], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 16,
        "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": MAPS,
    }  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=PROMPT_ENCODER | {"image_size": 64, "patch_size": 16},
        mask_decoder_config=MASK_DECODER,
    )
    return Sam2Model(config), IMAGENET, {"model_type": "sam2_video"}


def edgetam():
    vision = {
        "model_type": "edgetam_vision_model", "fpn_hidden_size": 16,
        "backbone_config": {"model_type": RepVitConfig.model_type},
        "backbone_channel_list": [384, 192, 96, 48], "backbone_feature_sizes": MAPS,
    }  # fmt: skip
    config = EdgeTamConfig(
        vision_config=vision,
        prompt_encoder_config=PROMPT_ENCODER | {"image_size": 64, "patch_size": 16},
        mask_decoder_config=MASK_DECODER,
    )
    backbone = {
        "model_type": "timm_wrapper", "architecture": "timm/repvit_m1.dist_in1k",
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }  # fmt: skip
    words = {"model_type": "edgetam_video", "vision_config": {"backbone_config": backbone}}
    return EdgeTamModel(config), IMAGENET, words


def sam3_tracker():
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
        "pretrain_image_size": 28, "patch_size": 14, "window_size": 2, "global_attn_indexes": [1],
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 16,
        "backbone_feature_sizes": MAPS,
    }  # fmt: skip
    config = Sam3TrackerConfig(
        vision_config=vision,
        prompt_encoder_config=PROMPT_ENCODER | {"image_size": 56, "patch_size": 14},
        mask_decoder_config=MASK_DECODER,
    )
    return Sam3TrackerModel(config), HALF, None


CLASSES = {"sam2": sam2, "edgetam": edgetam, "sam3_tracker": sam3_tracker}
SIDES = {"sam2": 64, "edgetam": 64, "sam3_tracker": 56}


def save(folder, name):
    """Saves a small network as the hub has it; returns it, its normalisation and its side."""
    model, normalisation, words = CLASSES[name]()
    randomise(model).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if words is None:  # the public folder is that of the whole SAM 3 for videos
        config = {"model_type": "sam3_video", "tracker_config": config}
    else:
        config["model_type"] = words["model_type"]
        config["vision_config"] |= words.get("vision_config", {})
    (folder / "config.json").write_text(json.dumps(config))
    processor = normalisation | {"size": {"height": SIDES[name], "width": SIDES[name]}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model, normalisation, SIDES[name]


@pytest.fixture(scope="module", params=CLASSES)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / request.param
    name = "sam3-tracker" if request.param == "sam3_tracker" else None
    return *save(folder, request.param), opened(folder, name)


def preprocessed(image, normalisation, side):
    """What the image processors of SAM 2 and 3 compute with torchvision."""
    resized = functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], (side, side), mode="bilinear",
        antialias=True, align_corners=False,
    )  # fmt: skip
    # Their fused form of (value / 255 - mean) / deviation.
    mean = torch.tensor(normalisation["image_mean"])[:, None, None] * (1.0 / (1 / 255))
    std = torch.tensor(normalisation["image_std"])[:, None, None] * (1.0 / (1 / 255))
    return (resized.float() - mean) / std


class StandIn:
    """The image processor of a real processor, without torchvision."""

    def __init__(self, normalisation, side):
        self.normalisation, self.size = normalisation, {"height": side, "width": side}

    def __call__(self, image, **_):
        pixels = preprocessed(image, self.normalisation, self.size["height"])
        return {"pixel_values": pixels, "original_sizes": [image.shape[:2]]}


def pipeline(model, normalisation, side, image, prompt):
    processor = object.__new__(Sam2Processor)
    processor.image_processor = StandIn(normalisation, side)
    processor.point_pad_value, processor.target_size = -10, side
    clicks = prompt.clicks
    inputs = processor(
        image,
        input_points=[[[[c.x, c.y] for c in clicks]]] if clicks else None,
        input_labels=[[[int(c.is_positive) for c in clicks]]] if clicks else None,
        input_boxes=[[list(prompt.box)]] if prompt.box else None,
    )
    size = inputs.pop("original_sizes")[0]
    with torch.no_grad():
        answer = model(**inputs, multimask_output=wants_several(prompt))
    masks = functional.interpolate(answer.pred_masks[0], size, mode="bilinear", align_corners=False)
    return masks[0], answer.iou_scores[0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_is_answered_as_by_the_pipeline_of_transformers(saved, prompt, size):
    model, normalisation, side, source = saved
    image = picture(*size)
    expected, expected_scores = pipeline(model, normalisation, side, image, prompt)
    logits, scores = source.logits(source.encode(image), prompt)
    assert logits.shape == expected.shape == (len(scores), *size)
    assert len(scores) == (3 if wants_several(prompt) else 1)
    assert expected.std() > 0.02  # the network says something
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, expected_scores, atol=1e-4, rtol=0)


def test_an_earlier_mask_reaches_the_network_as_its_logits(saved):
    model, normalisation, side, source = saved
    image = picture(side, side)
    previous = np.zeros((side, side), np.bool_)
    previous[side // 4 : side // 2, side // 4 :] = True
    click = Click(20.0, 20.0)
    with torch.no_grad():
        expected = model(
            pixel_values=preprocessed(image, normalisation, side),
            input_points=torch.tensor([[[[20.0, 20.0]]]]),
            input_labels=torch.tensor([[[1]]]),
            input_masks=functional.interpolate(
                20.0 * torch.from_numpy(previous).float()[None, None] - 10.0,
                model.prompt_encoder.mask_input_size, mode="bilinear", antialias=True,
            ),
            multimask_output=False,
        )  # fmt: skip
    logits, _ = source.logits(source.encode(image), MaskPrompt((click,), previous=previous))
    reference = functional.interpolate(
        expected.pred_masks[0], (side, side), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(logits, reference[0], atol=1e-4, rtol=0)
    alone, _ = source.logits(source.encode(image), MaskPrompt((click, click)))
    assert not torch.allclose(logits, alone, atol=1e-3)


def test_it_says_what_it_is(saved):
    model, _, _, source = saved
    described = source.describe()
    assert isinstance(source, PromptSource)
    assert described.abilities == {Ability.CLICK, Ability.BOX}
    assert described.parameters == sum(p.numel() for p in model.parameters())
    maps = [tensor.shape[-1] for tensor in source.encode(picture()).state]
    assert maps == [16, 8, 4]


def test_edgetam_with_another_backbone_is_refused(tmp_path):
    save(tmp_path / "edgetam", "edgetam")
    config = json.loads((tmp_path / "edgetam" / "config.json").read_text())
    config["vision_config"]["backbone_config"]["architecture"] = "repvit_m2"
    (tmp_path / "edgetam" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="expected the backbone repvit_m1, got 'repvit_m2'"):
        opened(tmp_path / "edgetam")


def test_the_names_of_the_hub_open_the_same_folders(tmp_path):
    save(tmp_path / "hub", "sam2")
    assert opened(tmp_path / "hub", "sam2.1-tiny").describe().name == "sam2.1-tiny"
    with pytest.raises(CheckpointError, match=r"edgetam is edgetam, and its config\.json"):
        opened(tmp_path / "hub", "edgetam")
