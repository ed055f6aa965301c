"""SAM and SAM-HQ as sources answer what the pipeline of transformers answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
)

from calico_model.errors import CheckpointError, InvalidMaskError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.source import Ability, PromptSource
from tests.unit.sources.small_models import (
    PROMPTS,
    SIZES,
    opened,
    picture,
    randomise,
    wants_several,
)

SIDE = 64


def small_configuration(is_hq):
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 8, "output_channels": 16, "global_attn_indexes": [1], "window_size": 4,
        "mlp_dim": 32, "num_pos_feats": 8,
    }  # fmt: skip
    prompts = {
        "hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4,
        "image_embedding_size": SIDE // 8,
    }  # fmt: skip
    decoder = {
        "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    }  # fmt: skip
    if is_hq:
        decoder["vit_dim"] = 16
    return (SamHQConfig if is_hq else SamConfig)(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )


def save(folder, is_hq, seed=0):
    model = randomise((SamHQModel if is_hq else SamModel)(small_configuration(is_hq)), seed)
    processor = SamImageProcessorPil(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 2},
        mask_pad_size={"height": SIDE // 2, "width": SIDE // 2},
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, SamProcessor(processor)


@pytest.fixture(scope="module", params=["sam", "sam_hq"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / request.param
    model, processor = save(folder, request.param == "sam_hq")
    return model, processor, opened(folder)


def pipeline(model, processor, image, prompt):
    """(n, H, W) logits and (n,) scores, as transformers' own pipeline answers."""
    clicks = prompt.clicks
    inputs = processor(
        image,
        input_points=[[[[c.x, c.y] for c in clicks]]] if clicks else None,
        input_labels=[[[int(c.is_positive) for c in clicks]]] if clicks else None,
        input_boxes=[[list(prompt.box)]] if prompt.box else None,
        return_tensors="pt",
    )
    original, reshaped = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        inputs = {
            key: value.float() if value.is_floating_point() else value
            for key, value in inputs.items()
        }
        answer = model(**inputs, multimask_output=wants_several(prompt))
    masks = processor.post_process_masks(answer.pred_masks, original, reshaped, binarize=False)
    return masks[0][0], answer.iou_scores[0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_is_answered_as_by_the_pipeline_of_transformers(saved, prompt, size):
    model, processor, source = saved
    image = picture(*size)
    expected, expected_scores = pipeline(model, processor, image, prompt)
    logits, scores = source.logits(source.encode(image), prompt)
    assert logits.shape == expected.shape == (len(scores), *size)
    assert expected.std() > 0.02  # the network says something
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, expected_scores, atol=1e-4, rtol=0)


def test_masks_are_those_of_the_logits_best_first(saved):
    source, image = saved[2], picture()
    prompt = PROMPTS["a click"]
    encoding = source.encode(image)
    logits, scores = source.logits(encoding, prompt)
    masks = source.segment_prompt(encoding, prompt)
    assert [mask.score for mask in masks] == sorted(scores.clamp(0, 1).tolist(), reverse=True)
    best = int(scores.argmax())
    assert np.array_equal(masks[0].mask, (logits[best] > 0).numpy())


def test_an_earlier_mask_changes_the_answer_as_its_logits_do(saved):
    model, _, source = saved
    image, previous = picture(), np.zeros((64, 96), np.bool_)
    previous[16:48, 24:72] = True
    click = Click(40.0, 20.0)
    encoding = source.encode(image)
    with_mask, _ = source.logits(encoding, MaskPrompt((click,), previous=previous))
    without, _ = source.logits(encoding, MaskPrompt((click, click)))
    assert with_mask.shape[0] == 1
    assert not torch.allclose(with_mask, without, atol=1e-3)
    # The picture fills rows 0 to 42 of the square of 64; an earlier mask has 32 cells a side.
    cells = source._frame.mask_input(previous, 32)[0, 0]
    inside = cells[6:15, 9:23]
    assert (inside > 9.99).all()
    assert (cells[23:] < -9.99).all()
    assert (cells[:4] < -9.99).all()


def test_an_earlier_mask_of_another_size_is_refused(saved):
    source = saved[2]
    prompt = MaskPrompt((Click(1, 1),), previous=np.ones((3, 3), np.bool_))
    with pytest.raises(InvalidMaskError, match="previous"):
        source.segment_prompt(source.encode(picture()), prompt)


def test_it_says_what_it_is(saved):
    model, _, source = saved
    described = source.describe()
    assert isinstance(source, PromptSource)
    assert described.abilities == {Ability.CLICK, Ability.BOX}
    assert described.parameters == sum(p.numel() for p in model.parameters())
    assert source.encode(picture()).bytes >= 16 * 8 * 8 * 4


def test_equal_weights_have_equal_hashes_and_others_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(tmp_path / name, False, seed)
    first, second, third = (opened(tmp_path / n).describe().weights for n in ("a", "b", "c"))
    assert first == second != third


def test_weights_that_lack_tensors_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tmp_path / "sam", False)
    weights = tmp_path / "sam" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 tensors of SamModel, such as mask_dec"):
        opened(tmp_path / "sam")


def test_truncated_weights_are_refused(tmp_path):
    save(tmp_path / "sam", False)
    weights = tmp_path / "sam" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no SamModel can be read"):
        opened(tmp_path / "sam")
