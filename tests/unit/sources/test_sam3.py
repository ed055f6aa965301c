"""SAM 3 answers what transformers' own pipeline answers, for names and for boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from calico_model.errors import CheckpointError, InvalidMaskError
from calico_model.sources.hub_folder import HubFolder, look_into
from calico_model.sources.registry import open_source, read_choices
from calico_model.sources.sam3 import Sam3Source, open_sam3, roi_align
from calico_model.sources.source import Ability, ExemplarSource, SourceMask, TextSource
from tests.unit.sources.small_text_models import (
    clip_tokenizer,
    description,
    picture,
    sam3_model,
    stand_in_for_torchvision,
)

ABILITIES = frozenset({Ability.TEXT, Ability.EXEMPLAR})
THRESHOLD = 0.05  # random weights are sure of nothing


@pytest.fixture(scope="module", params=[False, True], ids=["sam3", "sam3-litetext"])
def model(request: pytest.FixtureRequest) -> Any:
    return sam3_model(lite=request.param)


@pytest.fixture(scope="module")
def source(model: Any) -> Sam3Source:
    about = description("sam3", *ABILITIES)
    return Sam3Source(model, clip_tokenizer(32), about, threshold=THRESHOLD)


def slow_roi_align(features: Tensor, boxes: tuple[Tensor, ...], bins: int) -> Tensor:
    """The definition, sample by sample."""
    height, width = features.shape[-2:]

    def sample(plane: Tensor, y: float, x: float) -> Tensor:
        if not (-1.0 <= y <= height and -1.0 <= x <= width):
            return torch.zeros(len(plane))
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        dy, dx = y - y0, x - x0
        top = plane[:, y0, x0] * (1 - dx) + plane[:, y0, x1] * dx
        below = plane[:, y1, x0] * (1 - dx) + plane[:, y1, x1] * dx
        return top * (1 - dy) + below * dy

    pooled = []
    for plane, of_image in zip(features, boxes, strict=True):
        for x0, y0, x1, y1 in of_image.tolist():
            bin_h, bin_w = max(y1 - y0, 1.0) / bins, max(x1 - x0, 1.0) / bins
            n_h, n_w = int(np.ceil(bin_h)), int(np.ceil(bin_w))
            cells = torch.zeros(features.shape[1], bins, bins)
            for row in range(bins):
                for column in range(bins):
                    for i in range(n_h):
                        for j in range(n_w):
                            y = y0 + (row + (i + 0.5) / n_h) * bin_h
                            x = x0 + (column + (j + 0.5) / n_w) * bin_w
                            cells[:, row, column] += sample(plane, y, x) / (n_h * n_w)
            pooled.append(cells)
    return torch.stack(pooled)


def test_roi_align_follows_its_definition() -> None:
    features = torch.randn(2, 3, 9, 12)
    boxes = (
        torch.tensor([[0.0, 0.0, 12.0, 9.0], [2.2, 1.7, 2.9, 8.1], [-4.0, 3.0, 30.0, 20.0]]),
        torch.tensor([[1.0, 2.0, 5.5, 3.0]]),
    )
    expected = slow_roi_align(features, boxes, 7)
    assert torch.allclose(roi_align(features, boxes, 7), expected, atol=1e-5)
    assert roi_align(features, (torch.zeros(0, 4), torch.zeros(0, 4)), 7).shape == (0, 3, 7, 7)


def pipeline() -> Any:
    """transformers' processor; torchvision is stood in for."""
    from transformers import Sam3Processor
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    square = Sam3ImageProcessor(size={"height": 56, "width": 56})
    return Sam3Processor(square, clip_tokenizer(32))


def assert_equal_to_the_pipeline(
    answers: Sequence[SourceMask], outputs: Any, size_hw: tuple[int, int]
) -> None:
    (expected,) = pipeline().post_process_instance_segmentation(
        outputs, threshold=THRESHOLD, target_sizes=[size_hw]
    )
    order = expected["scores"].argsort(descending=True)
    masks = expected["masks"][order].numpy().astype(bool)
    shown = [number for number, mask in enumerate(masks) if mask.any()]
    assert len(answers) == len(shown) > 0
    scores = expected["scores"][order][shown]
    assert np.allclose([answer.score for answer in answers], scores, atol=1e-4)
    for answer, number in zip(answers, shown, strict=True):
        assert (answer.mask != masks[number]).mean() <= 1e-3


def test_a_name_is_answered_as_by_the_pipeline(
    model: Any, source: Sam3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture()
    answers = source.segment_names(source.encode(image), ["handle", "left wheel"])
    stand_in_for_torchvision(monkeypatch)
    for name in ("handle", "left wheel"):
        inputs = pipeline()(images=[Image.fromarray(image)], text=[name], return_tensors="pt")
        assert torch.allclose(source._pixels(image), inputs["pixel_values"], atol=1e-4)
        with torch.no_grad():
            outputs = model(
                pixel_values=inputs["pixel_values"],
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
            )
        ours = [answer for answer in answers if answer.label == name]
        assert_equal_to_the_pipeline(ours, outputs, (60, 90))


def test_an_exemplar_of_the_same_image_is_a_box_of_the_pipeline(
    model: Any, source: Sam3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(seed=1)
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:30, 20:65] = True
    encoding = source.encode(image)
    answers = source.segment_alike(encoding, encoding, mask)

    # transformers' own `_encode_boxes`, over the definition of roi_align
    stand_in_for_torchvision(monkeypatch)
    encoder = model.geometry_encoder
    operations = SimpleNamespace(ops=SimpleNamespace(roi_align=slow_roi_align))
    monkeypatch.setattr(f"{type(encoder).__module__}.torchvision", operations, raising=False)
    monkeypatch.delattr(encoder, "_encode_boxes")
    inputs = pipeline()(
        images=[Image.fromarray(image)], input_boxes=[[[20, 10, 65, 30]]], return_tensors="pt"
    )
    del inputs["original_sizes"]
    with torch.no_grad():
        outputs = model(**inputs)
    assert_equal_to_the_pipeline(answers, outputs, (60, 90))


def test_an_exemplar_of_another_image_is_another_question(source: Sam3Source) -> None:
    target, other = source.encode(picture(seed=1)), source.encode(picture(40, 50, seed=2))
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:20, 5:30] = True
    answers = source.segment_alike(target, other, mask)
    assert all(answer.mask.shape == (60, 90) and answer.label is None for answer in answers)
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    moved = np.roll(mask, 15, axis=1)
    again = source.segment_alike(target, other, moved)
    assert [a.score for a in answers] != [a.score for a in again]


def test_an_exemplar_needs_a_region(source: Sam3Source) -> None:
    encoding = source.encode(picture())
    for mask in (np.zeros((60, 90), dtype=bool), np.ones((5, 5), dtype=bool)):
        with pytest.raises(InvalidMaskError, match="exemplar: expected a mask"):
            source.segment_alike(encoding, encoding, mask)


def test_it_fulfils_the_seam(source: Sam3Source) -> None:
    assert isinstance(source, TextSource)
    assert isinstance(source, ExemplarSource)
    encoding = source.encode(picture())
    assert encoding.bytes == sum(level.numel() * 4 for level in encoding.state)
    assert source.segment_names(encoding, []) == []


def saved(model: Any, folder: Path) -> HubFolder:
    model.save_pretrained(folder)
    clip_tokenizer(32).save_pretrained(folder)
    return look_into(folder)


def assert_answers_alike(ours: Sam3Source, source: Sam3Source) -> None:
    ours._threshold = THRESHOLD
    image = picture(seed=4)
    expected = source.segment_names(source.encode(image), ["wing"])
    answers = ours.segment_names(ours.encode(image), ["wing"])
    assert len(expected) > 0
    assert np.allclose([a.score for a in answers], [e.score for e in expected], atol=1e-5)
    assert all((a.mask == e.mask).all() for a, e in zip(answers, expected, strict=True))


def test_a_folder_answers_as_the_model_in_memory(
    model: Any, source: Sam3Source, tmp_path: Path
) -> None:
    saved(model, tmp_path)
    (choice,) = read_choices([f"mine={tmp_path}"], tmp_path)
    loaded = open_source(choice)
    assert isinstance(loaded, Sam3Source)
    assert loaded.describe().abilities == ABILITIES
    assert loaded.describe().parameters == sum(p.numel() for p in model.parameters())
    assert_answers_alike(loaded, source)


def test_a_folder_of_the_video_model_holds_the_image_model(tmp_path: Path) -> None:
    from transformers import Sam3VideoConfig, Sam3VideoModel

    image_model = sam3_model()
    tracker = {
        "vision_config": image_model.config.vision_config.to_dict(),
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
        "memory_attention_rope_feat_sizes": [4, 4],
    }
    config = Sam3VideoConfig(detector_config=image_model.config.to_dict(), tracker_config=tracker)
    video = Sam3VideoModel(config)
    video.detector_model.load_state_dict(image_model.state_dict())
    folder = saved(video, tmp_path)
    assert folder.model_type == "sam3_video"
    about = description("sam3", *ABILITIES)
    assert_answers_alike(
        open_sam3("sam3", folder, "", "cpu"),
        Sam3Source(image_model, clip_tokenizer(32), about, threshold=THRESHOLD),
    )


def test_a_folder_without_a_tokenizer_is_refused(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected the files of a tokenizer"):
        open_sam3("sam3", look_into(tmp_path), "", "cpu")
