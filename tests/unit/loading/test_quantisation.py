"""8-bit weights on a CPU for real; other devices and bits by a stand-in for bitsandbytes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calico_model import prompts
from calico_model.data.collate import Turn, collate_turns
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.errors import InvalidConfigError
from calico_model.inference.images import to_pixels
from calico_model.loading.checkpoints import load_model
from calico_model.loading.placement import Placement, apply, put
from calico_model.loading.precision import Precision, quantised_bytes
from calico_model.loading.quantisation import Int8Linear, is_quantised, quantise, quantised_linear
from calico_model.modeling.model import Calico
from calico_model.predictor import DEFAULT_WEIGHTS
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind

CPU = torch.device("cpu")


def test_only_matrices_of_the_llm_layers_are_quantised(model: Calico) -> None:
    names = [name for name, _ in model.named_parameters() if is_quantised(name)]
    assert len(names) == 7 * model.config.language.layers
    assert not any("lora_" in name or "norm" in name for name in names)
    assert not is_quantised("language.lm_head.weight")
    assert not is_quantised("language.model.embed_tokens.weight")
    assert not is_quantised("qformer.encoder.layer.0.attention.attention.query.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_product_is_close_to_the_float_one(dtype: torch.dtype) -> None:
    weight, x = torch.randn(96, 64), torch.randn(2, 5, 64)
    layer = quantised_linear(weight, Precision.INT8, CPU)
    exact = x @ weight.T
    found = layer(x.to(dtype))
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert float((found.float() - exact).norm() / exact.norm()) < 0.01


def test_int8_survives_a_row_of_zeros() -> None:
    layer = Int8Linear(torch.zeros(3, 8))
    assert torch.equal(layer(torch.ones(1, 8)), torch.zeros(1, 3))


@pytest.fixture(scope="module")
def shipped() -> tuple[Calico, Tokenizer]:
    return load_model(DEFAULT_WEIGHTS)


def _answers(model: Calico, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token logits of the answer and masks of its [SEG], teacher-forced on one group."""
    group = labeled_group(draw_group(group_rng(Stream.EVALUATION, 7, 3), split=SceneSplit.SEEN))
    pictures = [np.asarray(image) for image in group.group.images][:2]
    question = prompts.QUESTIONS[RegionKind.COMMON_PART][0]
    answer = prompts.write_answer(
        RegionKind.COMMON_PART,
        [prompts.Phrase("chair", (0, 1), True)],
        [prompts.Phrase("leg", (0, 1), False)],
    )
    turn = Turn(prompts.conversation(question, 2), answer, (0, 1))
    batch = collate_turns([turn], tokenizer, model.config.qformer.queries)
    with torch.no_grad():
        features = model.encode(to_pixels(pictures, model.config))
        hidden, logits = model(features, batch.conversations)
        states = hidden[batch.seg_row, batch.seg_column]
        masks, _ = model.segment(features, states, torch.tensor([0, 1, 0, 1]))
    start = int(batch.conversations.guidance[0])
    return logits[0, start:].float(), masks, hidden


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_calico_tiny_answers_alike_in_fewer_bits(
    shipped: tuple[Calico, Tokenizer], precision: Precision
) -> None:
    exact_logits, exact_masks, _ = _answers(*shipped)
    small, tokenizer = load_model(DEFAULT_WEIGHTS)
    before = sum(p.nbytes for n, p in small.named_parameters() if is_quantised(n))
    apply(small, Placement(precision))
    logits, masks, hidden = _answers(small, tokenizer)

    assert hidden.dtype == torch.bfloat16
    assert masks.dtype == torch.float32
    agree = (logits.argmax(-1) == exact_logits.argmax(-1)).float().mean()
    assert agree >= 0.9
    apart = (masks > 0) != (exact_masks > 0)
    assert float(apart.float().mean()) < 0.01
    if precision is Precision.INT8:
        layers = [part for part in small.modules() if isinstance(part, Int8Linear)]
        after = sum(part.weight.nbytes + part.scale.nbytes for part in layers)
        assert len(layers) == 7 * small.config.language.layers
        assert after == sum(quantised_bytes(*part.weight.shape, precision) for part in layers)
        assert after < 0.26 * before


def test_the_decoder_stays_in_float32(model: Calico) -> None:
    apply(model, Placement(Precision.INT8))
    assert {p.dtype for p in model.mask_decoder.parameters()} == {torch.float32}
    for part in (model.segmentation_projection, model.cem, model.cams, model.eva):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    assert model.language.model.rotary_emb.inv_freq.dtype == torch.float32


def test_float32_on_the_cpu_changes_nothing(model: Calico, images: list[np.ndarray]) -> None:
    pixels = to_pixels(images, model.config)
    with torch.no_grad():
        before = model.encode(pixels)
        after = apply(model, Placement()).encode(pixels)
    assert torch.equal(before.global_tokens, after.global_tokens)
    assert torch.equal(before.mask.embedding, after.mask.embedding)


@pytest.mark.parametrize("precision", list(Precision)[:3])
def test_tensors_can_be_put_into_a_model_without_memory(
    model: Calico, images: list[np.ndarray], precision: Precision
) -> None:
    placement = Placement(precision)
    with torch.device("meta"):
        empty = Calico(model.config)
    for name, tensor in model.state_dict().items():
        put(empty, name, tensor, placement)
    rotary = model.language.model.rotary_emb
    empty.language.model.rotary_emb = rotary
    apply(model, placement)
    apply(empty.eval(), placement)
    pixels = to_pixels(images, model.config)
    with torch.no_grad():
        assert torch.equal(empty.encode(pixels).mask.embedding, model.encode(pixels).mask.embedding)
        x = torch.randn(3, model.config.language.width).to(placement.place("language")[1])
        layer, other = (m.language.model.layers[0].mlp.up_proj for m in (empty, model))
        assert torch.equal(layer(x), other(x))


def test_what_is_compressed_is_not_compressed_again(
    model: Calico, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(
        Linear4bit=_Library,
        Params4bit=lambda values, **_: nn.Parameter(values.to(torch.uint8), requires_grad=False),
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=library))
    apply(model, Placement(Precision.NF4))
    layers = [part for part in model.modules() if isinstance(part, _Library)]
    assert len(layers) == 7 * model.config.language.layers
    apply(model, Placement(Precision.NF4))
    assert [part for part in model.modules() if isinstance(part, _Library)] == layers


class _Library(nn.Module):
    """Records what bitsandbytes is asked for."""

    def __init__(self, columns: int, rows: int, **options: object) -> None:
        super().__init__()
        self.shape, self.options = (rows, columns), options


def test_four_bits_ask_bitsandbytes_for_nested_nf4(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}

    def weight(values: Tensor, **options: object) -> nn.Parameter:
        made.update(options)
        return nn.Parameter(values, requires_grad=False)

    library = SimpleNamespace(nn=SimpleNamespace(Linear4bit=_Library, Params4bit=weight))
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    layer = quantised_linear(torch.randn(6, 4).bfloat16(), Precision.NF4, CPU)
    assert isinstance(layer, _Library)
    assert layer.shape == (6, 4)
    assert layer.options["quant_type"] == made["quant_type"] == "nf4"
    assert layer.options["compute_dtype"] == torch.bfloat16
    assert made["compress_statistics"] is True
    assert made["requires_grad"] is False


def test_a_missing_library_is_named_with_its_cure(
    model: Calico, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InvalidConfigError, match=r"nf4 on cpu needs bitsandbytes: pip install"):
        quantise(model, Precision.NF4)
