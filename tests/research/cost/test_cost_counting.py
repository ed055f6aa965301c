"""The counted numbers against counts made by hand from the sizes alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calico_model import presets
from calico_model.config import EncoderConfig
from calico_model.data.collate import Turn, collate_prompts
from calico_model.modeling.features import Pixels
from calico_model.modeling.language import Conversations
from calico_model.modeling.model import Calico
from calico_model.prompts import QUESTIONS
from research.cost.counter import OTHER, count_stages
from research.cost.pipelines import DECODE, MASKS, PREFILL, CostModel, GroupCosts
from research.cost.report import component_rows
from research.cost.workload import counted_preset, typical_workload

CONFIG = presets.full()
LLM, WIDTH, MLP = CONFIG.language, CONFIG.language.width, CONFIG.language.mlp


@pytest.fixture(scope="module")
def full_size() -> CostModel:
    return CostModel(*counted_preset("7b"))


@pytest.fixture(scope="module")
def pair(full_size: CostModel) -> GroupCosts:
    return full_size.compare(typical_workload(CONFIG, 2, full_size.tokenizer))


@pytest.fixture(scope="module")
def small() -> CostModel:
    return CostModel(*counted_preset("tiny"))


def linear(rows: int, *sizes: tuple[int, int]) -> int:
    return sum(2 * rows * inputs * outputs for inputs, outputs in sizes)


def attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width


def vit(encoder: EncoderConfig, extra: int) -> int:
    patches = (encoder.input_size // encoder.patch_size) ** 2
    tokens, width = patches + extra, encoder.width
    layer = linear(tokens, *[(width, width)] * 4, *[(width, encoder.mlp)] * 2)
    stem = linear(patches, (3 * encoder.patch_size**2, width))
    return stem + encoder.layers * (layer + attention(tokens, tokens, width))


def sam() -> int:
    mask, encoder = CONFIG.mask, CONFIG.mask.encoder
    width, grid = encoder.width, encoder.image_size // encoder.patch_size
    head = width // encoder.heads

    def layer(windows: int, side: int) -> int:
        tokens = side * side
        relative = windows * encoder.heads * 2 * tokens * head * 2 * side
        return (
            linear(windows * tokens, *[(width, width)] * 4)
            + windows * attention(tokens, tokens, width)
            + relative
            + linear(grid * grid, *[(width, encoder.mlp)] * 2)
        )

    padded = -(-grid // mask.window)
    local = encoder.layers - len(mask.global_layers)
    stem = linear(grid * grid, (3 * encoder.patch_size**2, width))
    neck = linear(grid * grid, (width, 256), (9 * 256, 256))
    layers = local * layer(padded**2, mask.window) + len(mask.global_layers) * layer(1, grid)
    return stem + layers + neck


def qformer() -> int:
    queries, width = CONFIG.qformer.queries, CONFIG.qformer.width
    tokens, source = 257, CONFIG.eva.width
    own = linear(queries, *[(width, width)] * 4, *[(width, CONFIG.qformer.mlp)] * 2)
    own += attention(queries, queries, width)
    cross = linear(queries, *[(width, width)] * 2) + linear(tokens, *[(source, width)] * 2)
    cross += attention(queries, tokens, width)
    return CONFIG.qformer.layers * own + CONFIG.qformer.layers // 2 * cross


def llm(rows: int, keys: int, layers: int) -> int:
    lora = 2 * linear(rows, (WIDTH, CONFIG.lora.rank), (CONFIG.lora.rank, WIDTH))
    matrices = linear(rows, *[(WIDTH, WIDTH)] * 4, *[(WIDTH, MLP)] * 3)
    return layers * (matrices + lora + attention(rows, keys, WIDTH))


HEAD = linear(1, (WIDTH, LLM.vocab_size))


def test_encoders_match_the_arithmetic(pair: GroupCosts) -> None:
    counted, images = pair.ours.stages, 2
    width, source = CONFIG.qformer.width, CONFIG.eva.width
    assert counted["EVA-CLIP"] == images * vit(CONFIG.eva, extra=1)
    assert counted["DINOv2"] == images * vit(CONFIG.dino, extra=5)
    assert counted["SAM encoder"] == images * sam()
    assert counted["Q-Former"] == images * (qformer() + linear(32, (width, WIDTH)))
    cem = linear(257, *[(source, source)] * 2) + linear(256, *[(CONFIG.dino.width, source)] * 2)
    assert counted["CEM"] == images * (cem + attention(257, 256, source))


def test_each_cam_asks_every_image_for_every_question(pair: GroupCosts) -> None:
    width, slots = CONFIG.qformer.width, 2 * 3
    one = linear(1, (WIDTH, width)) + qformer() + linear(32, (width, WIDTH))
    for way in (pair.ours, pair.separate):
        assert [way.stages[f"CAM {layer}"] for layer in (11, 22)] == [slots * one] * 2


def test_prefill_matches_the_arithmetic(pair: GroupCosts) -> None:
    prompts = (134, 137, 137)
    below, above = pair.ours.first_rows, pair.ours.last_rows
    shared = llm(below, below, 11) + llm(above, above, 21)
    assert pair.ours.stages[PREFILL] == shared + 3 * HEAD
    assert pair.separate.prompt_tokens == prompts
    assert pair.separate.stages[PREFILL] == sum(llm(t, t, 32) + HEAD for t in prompts)
    longer = [t + 2 * (576 - 32) for t in prompts]
    assert pair.glamm_style.stages[PREFILL] == sum(llm(t, t, 32) + HEAD for t in longer)


def test_decoding_matches_the_arithmetic(full_size: CostModel, pair: GroupCosts) -> None:
    assert full_size.decode_flops(200) == llm(1, 200, 32) + HEAD
    answers = zip((134, 137, 137), pair.workload.answer_tokens, strict=True)
    steps = [llm(1, t + k, 32) + HEAD for t, n in answers for k in range(1, n)]
    assert pair.separate.stages[DECODE] == sum(steps)
    # In one batch the shortest prompt carries three positions of padding.
    assert 0 < pair.ours.stages[DECODE] - sum(steps) < 1e-4 * sum(steps)


def test_clip_matches_the_arithmetic(pair: GroupCosts) -> None:
    tower = vit(EncoderConfig(336, 336, 14, 1024, 24, 16, 4096), extra=1)
    projector = linear(576, (1024, WIDTH), (WIDTH, WIDTH))
    assert pair.glamm_style.stages["CLIP, projector"] == 6 * (tower + projector)


def test_three_questions_on_a_pair_at_7b(pair: GroupCosts) -> None:
    assert pair.ratio <= 0.48
    assert pair.ratio < pair.encode_once_ratio < 1
    assert pair.ours.image_tokens == 32
    assert pair.glamm_style.image_tokens / pair.ours.image_tokens == 18
    assert pair.single_vs_glamm <= -32.6
    assert pair.vs_glamm < pair.single_vs_glamm
    assert pair.glamm_style.stages["SAM encoder"] == pair.separate.stages["SAM encoder"]


def test_the_documented_page_shows_what_is_counted(pair: GroupCosts) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cost.md").read_text("utf-8")
    for row in component_rows(pair):
        assert f"| {' | '.join(row)} |" in page
    assert f"{pair.ratio:.1%} of three separate runs" in page
    assert f"One question, like for like: {pair.single_vs_glamm:.1f} %" in page


def test_nothing_is_counted_outside_a_stage(pair: GroupCosts) -> None:
    for way in (pair.ours, pair.separate, pair.glamm_style):
        assert OTHER not in way.stages
        assert min(way.stages.values()) > 0


def test_the_real_run_of_a_batch_costs_what_is_counted(small: CostModel) -> None:
    """Two images at once, one question alone: run as they are, without the model's formulas."""
    config = small.config
    with torch.device("meta"):
        model = Calico(config).eval().requires_grad_(False)
    pixels = Pixels(torch.empty(2, 3, config.image_size, config.image_size, device="meta"))
    features = model.encode(pixels)
    workload = typical_workload(config, 2, small.tokenizer)
    counted = small.compare(workload)

    def look() -> None:
        model.image_rows(model.encode(pixels))
        model.correspondence(features)

    layout = workload.conversations(small.tokenizer, config.qformer.queries)
    looked = sum(count_stages(look, {}).values())
    assert looked == counted.ours.encoding
    assert 3 * looked == counted.separate.encoding
    alone = 0
    for prompt in range(3):
        turn = Turn(workload.prompts[prompt], "", (0, 1))
        single = collate_prompts([turn], small.tokenizer, config.qformer.queries)
        length = single.input_ids.shape[1]
        assert length == counted.separate.prompt_tokens[prompt]
        alone += count_prefill(small, single)
    prefill = counted.separate.stages
    cams = sum(flops for stage, flops in prefill.items() if stage.startswith("CAM"))
    assert alone == prefill[PREFILL] + cams
    assert count_prefill(small, layout) == counted.ours.stages[PREFILL] + cams


def count_prefill(small: CostModel, layout: Conversations) -> int:
    return sum(small._prefill(layout).values())


def test_masks_cost_the_same_each(small: CostModel) -> None:
    counted = [small.compare(typical_workload(small.config, n, small.tokenizer)) for n in (1, 2, 3)]
    assert [c.workload.masks for c in counted] == [5, 10, 15]
    first, second, third = (c.ours.stages[MASKS] for c in counted)
    # Beside the masks there is one table of positions.
    assert second - first == third - second > 0.99 * first


def test_longer_answers_dilute_what_is_saved(small: CostModel) -> None:
    short, long = (
        small.compare(typical_workload(small.config, 2, small.tokenizer, n)) for n in (1, 200)
    )
    assert DECODE not in short.ours.stages
    assert short.ratio < long.ratio < 1


def test_prompts_and_answers_have_llamas_length() -> None:
    """Counted with Llama's own vocabulary, pieces between the tags (llama-tokenizer-js 1.2.2)."""
    config, tokenizer = counted_preset("7b")
    for images, lengths in ((2, [134, 137, 137]), (3, [172, 175, 175])):
        workload = typical_workload(config, images, tokenizer)
        layout = workload.conversations(tokenizer, 32)
        assert layout.is_token.sum(1).tolist() == lengths
    assert len(QUESTIONS) == len(workload.prompts)
    # "The images share", <p>, "the chair", </p>, [SEG], "(IMAGE1)", [SEG], "(IMAGE2).", </s>
    answer = "The images share <p> the chair </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
    assert len(tokenizer.encode(answer)) == 3 + 1 + 2 + 1 + 1 + 4 + 1 + 4 + 1
    assert len(tokenizer.encode("(IMAGE2). Parts found on one side only:")) == 12
    assert len(tokenizer.encode("(IMAGE2), and")) == 5
