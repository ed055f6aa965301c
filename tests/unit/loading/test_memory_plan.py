"""The memory plan against what is known of the 7B, and against what a small model really takes."""

from __future__ import annotations

import pytest
import torch

from calico_model.errors import InsufficientMemoryError
from calico_model.inference.images import to_pixels
from calico_model.loading.fitting import card_bytes, choose_placement, usable_bytes
from calico_model.loading.memory_plan import parameter_table, plan_inference, plan_training
from calico_model.loading.placement import Placement
from calico_model.loading.precision import Precision
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.presets import full, tiny

GIB = 2**30
KIB = 2**10


def gib(count: int, digits: int = 1) -> float:
    return round(count / GIB, digits)


@pytest.mark.parametrize(
    ("precision", "weights"),
    [(Precision.BF16, 16.0), (Precision.INT8, 10.0), (Precision.NF4, 7.1)],
)
def test_weights_of_the_7b(precision: Precision, weights: float) -> None:
    plan = plan_inference(full(), Placement(precision, "cuda", images_at_once=1), 8)
    assert gib(plan.weight_bytes) == weights
    assert plan.peak_bytes("cuda") > plan.weight_bytes
    assert plan.peak_bytes("cpu") == 0


def test_cache_per_token_and_image_of_the_7b() -> None:
    plan = plan_inference(full(), Placement(Precision.BF16, "cuda", images_at_once=1), 8)
    assert plan.kv_bytes_per_token == 512 * KIB
    eva, dino, sam = 257 * 1408 * 2, 256 * 768 * 2, 256 * 64 * 64 * 2
    assert [round(n / 2**20, 2) for n in (eva, dino, sam)] == [0.69, 0.38, 2.0]
    assert plan.cache_bytes_per_image == eva + dino + sam


def test_sam_sees_one_image_in_three_attention_maps() -> None:
    """16 heads over 4096 x 4096 tokens are half a GiB; the relative positions make three of it."""
    plan = plan_inference(full(), Placement(Precision.BF16, "cuda", images_at_once=1), 8)
    encoding = next(phase for phase in plan.phases if phase.name.startswith("encoding"))
    map_bytes = 16 * 4096 * 4096 * 2
    assert 3 * map_bytes < encoding.nbytes < 3.3 * map_bytes


def test_everything_but_the_llm_is_small() -> None:
    plan = plan_inference(full(), Placement(Precision.BF16, "cuda", images_at_once=1), 8)
    rest = sum(part.nbytes for part in plan.parts if part.part not in ("LLM", "LoRA"))
    assert gib(rest) == 3.5


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (8, Placement(Precision.NF4, "cuda", are_encoders_offloaded=True, images_at_once=1)),
        (12, Placement(Precision.NF4, "cuda", images_at_once=1)),
        (16, Placement(Precision.INT8, "cuda", images_at_once=1)),
        (24, Placement(Precision.BF16, "cuda", images_at_once=1)),
        (80, Placement(Precision.BF16, "cuda", images_at_once=8)),
    ],
)
def test_placement_of_the_7b_by_card(gigabytes: float, expected: Placement) -> None:
    available = card_bytes(gigabytes)
    plan = choose_placement(full(), "cuda", available)
    assert plan.placement == expected
    assert plan.peak_bytes("cuda") <= available < gigabytes * GIB


def test_what_cannot_fit_is_refused_with_its_figures() -> None:
    with pytest.raises(InsufficientMemoryError) as refused:
        choose_placement(full(), "cuda", card_bytes(4))
    message = str(refused.value)
    assert "calico-7b in nf4 with its encoders on the CPU needs" in message
    assert "3.2 GiB can be used" in message
    with pytest.raises(InsufficientMemoryError, match=r"bf16 .*--precision nf4"):
        choose_placement(full(), "cuda", card_bytes(12), precision=Precision.BF16)


def test_training_of_the_7b() -> None:
    bf16 = plan_training(full(), Precision.BF16)
    qlora = plan_training(full(), Precision.NF4)
    optimiser = next(item for item in bf16.kept if "AdamW" in item.name)
    assert gib(optimiser.nbytes, 2) == 0.30
    steps = [p.nbytes for p in bf16.phases if p.name == "forward and backward"]
    assert 2 <= steps[0] / GIB <= 4
    # "tight but feasible" and "recommended" on 24 GB
    assert gib(bf16.peak_bytes("cuda")) < gib(card_bytes(24))
    assert gib(qlora.peak_bytes("cuda")) < gib(card_bytes(12))


def test_checkpointing_saves_memory(model: Calico) -> None:
    plans = [
        plan_training(model.config, Precision.BF16, has_checkpointing=has) for has in (True, False)
    ]
    lean, hungry = (plan.peak_bytes("cuda") for plan in plans)
    assert lean < hungry


def test_calico_tiny_keeps_float32_on_a_cpu() -> None:
    plan = choose_placement(tiny(500), "cpu", usable_bytes("cpu"))
    assert plan.placement == Placement(Precision.FP32, "cpu", images_at_once=8)
    assert all(part.precision is Precision.FP32 for part in plan.parts)


def test_the_plan_of_a_small_model_is_what_it_takes(model: Calico, images: list) -> None:
    plan = plan_inference(model.config, Placement(), 2)
    held = sum(t.nbytes for t in model.state_dict().values())
    assert plan.weight_bytes == held
    with torch.no_grad():
        features: ImageFeatures = model.encode(to_pixels(images, model.config))
    assert plan.cache_bytes_per_image * 2 == features.nbytes


def test_parameter_table_stands_beside_the_published_one() -> None:
    rows = parameter_table(full())
    assert sum(row.parameters for row in rows) == 8_601_166_128
    for row in rows:
        assert row.published is not None
        assert abs(row.parameters / 1e6 - row.published) < 0.051, row
    assert all(row.published is None for row in parameter_table(tiny(500)))
