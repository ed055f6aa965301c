"""The invariants of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from calico_model import prompts
from calico_model.config import AblationConfig
from calico_model.data.collate import Turn, collate_prompts, collate_turns
from calico_model.inference.images import to_pixels
from calico_model.modeling.adapter import (
    adapter_names,
    load_adapter,
    mark_trainable,
    trainable_count,
)
from calico_model.modeling.correspondence import scatter_rows
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import Conversations, packed
from calico_model.modeling.model import Calico
from calico_model.presets import full, tiny
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.training.pretraining.run import use_plain_attention
from calico_model.types import RegionKind
from tests.conftest import build_micro
from tests.unit.modeling.adapters import adapter_state, save_adapter

ANSWER = prompts.write_answer(
    RegionKind.COMMON_PART,
    [Phrase("chair", (0, 1), True)],
    [Phrase("leg", (0, 1), False), Phrase("seat", (0, 1), False)],
)
OTHER_ANSWER = prompts.write_answer(
    RegionKind.COMMON_PART,
    [Phrase("horse", (0, 1), True)],
    [Phrase("head", (0, 1), False), Phrase("tail", (0, 1), False)],
)


def turn(answer: str = ANSWER, images: tuple[int, ...] = (0, 1)) -> Turn:
    question = prompts.QUESTIONS[RegionKind.COMMON_PART][0]
    return Turn(prompts.conversation(question, len(images)), answer, images)


def encoded(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


def wake(model: Calico) -> None:
    """Gives CEM, CAM and LoRA weights that change something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("cams.", "cem.")) or "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)


class AlwaysSays(torch.nn.Module):
    """A head that chooses one token, whatever the state."""

    def __init__(self, token: int, size: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.nn.functional.one_hot(torch.tensor(token), size))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.scores.float().expand(*hidden.shape[:-1], -1)


class Overheard(torch.nn.Module):
    """A head that keeps what it would have said and says what it is told."""

    def __init__(self, head: torch.nn.Module, says: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.says = head, says
        self.logits: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.logits.append(self.head(hidden))
        return self.says(hidden)


def logits_of(model: Calico, images: list[np.ndarray], turns: Conversations) -> Tensor:
    with torch.no_grad():
        return model(encoded(model, images), turns)[1]


def test_untrained_calico_equals_the_base_model_bit_for_bit(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    bare = build_micro(tokenizer.size, ablation=AblationConfig(inject=False), lora_rank=0)
    own = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items()}
    bare.load_state_dict({k: own[k] for k in bare.state_dict()})
    turns = collate_turns([turn()], tokenizer, 4).conversations

    assert torch.equal(logits_of(model, images, turns), logits_of(bare, images, turns))
    wake(model)
    assert not torch.equal(logits_of(model, images, turns), logits_of(bare, images, turns))


def test_injection_touches_only_image_rows(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    wake(model)
    single = Turn(prompts.conversation("Which object is it?", 1), OTHER_ANSWER, (1,))
    turns = collate_turns([turn(), single, turn("", images=(1, 0))], tokenizer, 4).conversations
    is_image = turns.input_ids == tokenizer.image
    entered: list[Tensor] = []
    left: list[Tensor] = []
    for layer in model.language.model.layers:
        layer.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        layer.register_forward_hook(lambda _, args, out: left.append(out))

    logits_of(model, images, turns)

    assert not turns.is_token.all()  # rows of padding must stay too
    assert len(model.config.cam_layers) == 2
    for index in range(1, model.config.language.layers):
        is_changed = (entered[index] != left[index - 1]).any(-1)
        is_cam = index in model.config.cam_layers
        assert torch.equal(is_changed, is_image if is_cam else torch.zeros_like(is_image))


def test_scattered_rows_are_added_once_and_nowhere_else() -> None:
    hidden = torch.randn(2, 10, 6)
    changed = scatter_rows(hidden, torch.tensor([0, 1]), torch.tensor([2, 5]), torch.ones(2, 3, 6))

    expected = hidden.clone()
    expected[0, 2:5] += 1
    expected[1, 5:8] += 1
    assert torch.equal(changed, expected)


def test_image_slots_are_exactly_the_rows_between_the_markers(tokenizer: Tokenizer) -> None:
    layout = collate_turns([turn()], tokenizer, 4).conversations
    for column in layout.image_column.tolist():
        ids = layout.input_ids[0]
        assert ids[column : column + 4].tolist() == [tokenizer.image] * 4
        assert ids[column - 1] == tokenizer.encode(prompts.IMAGE_START)[0]
        assert ids[column + 4] == tokenizer.encode(prompts.IMAGE_END)[0]


@pytest.mark.parametrize("prepare", [lambda model: None, use_plain_attention])
def test_guidance_cannot_see_the_answer(
    tokenizer: Tokenizer,
    model: Calico,
    images: list[np.ndarray],
    prepare: Callable[[Calico], None],
) -> None:
    wake(model)
    prepare(model)  # training on a CPU swaps attention kernels; causality must survive that
    first = collate_turns([turn()], tokenizer, 4)
    second = collate_turns([turn(OTHER_ANSWER)], tokenizer, 4)
    end = int(first.conversations.guidance[0])
    assert not torch.equal(first.labels, second.labels)

    prompt_logits = logits_of(model, images, first.conversations)[0, : end + 1]
    other_logits = logits_of(model, images, second.conversations)[0, : end + 1]

    assert torch.equal(prompt_logits, other_logits)


@pytest.mark.parametrize("left_out", ["use_qformer", "use_dino", "use_cem", "inject"])
def test_any_form_may_train_with_plain_attention(
    tokenizer: Tokenizer, images: list[np.ndarray], left_out: str
) -> None:
    model = build_micro(tokenizer.size, ablation=AblationConfig(**{left_out: False}))
    conversations = collate_turns([turn()], tokenizer, 4).conversations
    fused = logits_of(model, images, conversations)
    use_plain_attention(model)
    assert torch.allclose(logits_of(model, images, conversations), fused, atol=1e-4)


def test_the_question_changes_the_image_rows_through_the_cams(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    wake(model)
    features = encoded(model, images)
    rows = model.image_rows(features)
    hidden = {}
    for kind in RegionKind:
        prompt = prompts.conversation(prompts.QUESTIONS[kind][0], 2)
        layout = collate_prompts([Turn(prompt, "", (0, 1))], tokenizer, 4)
        with torch.no_grad():
            where = packed(layout, own_images=True)
            out = model.prefill(
                model.embed(layout, rows), layout, model.correspondence(features), (where, where)
            )
        hidden[kind] = out[0, layout.image_column[0]]
    a, b, _ = hidden.values()
    assert not torch.allclose(a, b)


def test_masks_come_in_the_order_of_the_seg_tokens(tokenizer: Tokenizer) -> None:
    batch = collate_turns([turn(), turn(OTHER_ANSWER)], tokenizer, 4)
    ids = batch.conversations.input_ids
    for row, column in zip(batch.seg_row.tolist(), batch.seg_column.tolist(), strict=True):
        assert ids[row, column + 1] == tokenizer.seg
    assert batch.seg_row.tolist() == [0] * 6 + [1] * 6
    assert batch.seg_column[:6].tolist() == sorted(batch.seg_column[:6].tolist())


def test_generated_states_equal_the_teacher_forced_ones(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    wake(model)
    features = encoded(model, images)
    model.language.lm_head = AlwaysSays(tokenizer.seg, tokenizer.size)
    prompt = turn("")
    layout = collate_prompts([prompt, prompt], tokenizer, 4)
    out = model.generate(features, layout, seg=tokenizer.seg, end=tokenizer.end)
    answer = tokenizer.decode(out.ids[0])
    forced = collate_turns([replace(prompt, answer=answer)], tokenizer, 4)
    with torch.no_grad():
        hidden, _ = model(features, forced.conversations)

    expected = hidden[forced.seg_row, forced.seg_column]
    assert len(out.seg_states[0]) == len(expected) > 0
    torch.testing.assert_close(out.seg_states[0], expected, atol=1e-4, rtol=1e-3)


def test_left_padding_does_not_change_a_single_logit(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    wake(model)
    features = encoded(model, images)
    longer = replace(turn(""), prompt="USER: please please please " + turn("").prompt)
    alone = collate_prompts([turn("")], tokenizer, 4)
    padded = collate_prompts([turn(""), longer], tokenizer, 4)
    head = model.language.lm_head
    heard: list[list[Tensor]] = []
    for layout in (alone, padded):
        model.language.lm_head = Overheard(head, AlwaysSays(tokenizer.seg, tokenizer.size))
        model.generate(features, layout, seg=tokenizer.seg, end=tokenizer.end)
        heard.append([logits[0] for logits in model.language.lm_head.logits])

    assert not padded.is_token[0].all()
    assert len(heard[0]) == len(heard[1]) == model.config.max_answer_tokens
    for first, second in zip(*heard, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_all_masks_of_a_group_in_one_batch_equal_one_by_one(
    model: Calico, images: list[np.ndarray]
) -> None:
    features = encoded(model, images)
    states = torch.randn(3, 64)
    image = torch.tensor([0, 1, 0])
    with torch.no_grad():
        together, iou = model.segment(features, states, image)
        for k in range(3):
            alone, alone_iou = model.segment(features, states[k : k + 1], image[k : k + 1])
            torch.testing.assert_close(alone[0], together[k], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alone_iou[0], iou[k], atol=1e-4, rtol=1e-4)


def test_adapter_round_trip_restores_every_bit(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray], tmp_path: object
) -> None:
    wake(model)
    folder = tmp_path / "adapter"  # type: ignore[operator]
    save_adapter(model, folder, base="abc")
    fresh = build_micro(tokenizer.size)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(adapter_state(fresh).values(), adapter_state(model).values(), strict=True)
    )
    load_adapter(fresh, folder, base="abc")

    turns = collate_turns([turn()], tokenizer, 4).conversations
    assert torch.equal(logits_of(fresh, images, turns), logits_of(model, images, turns))


def test_trainable_count_follows_the_formula(model: Calico) -> None:
    assert mark_trainable(model) == trainable_count(model.config)
    names = adapter_names(model)
    assert any("lora_A" in n for n in names)
    assert not any(n.startswith(("eva", "dino", "qformer", "segmentation")) for n in names)


@pytest.mark.parametrize(
    "ablation",
    [
        AblationConfig(use_qformer=False),
        AblationConfig(use_dino=False),
        AblationConfig(use_cem=False),
        AblationConfig(use_cam_guidance=False),
        AblationConfig(use_cem=False, use_cam_guidance=False),
        AblationConfig(inject=False),
        AblationConfig(cem_residual=False),
    ],
)
def test_every_ablation_runs_and_learns(
    tokenizer: Tokenizer, images: list[np.ndarray], ablation: AblationConfig
) -> None:
    model = build_micro(tokenizer.size, ablation=ablation)
    wake(model)
    features = encoded(model, images)
    batch = collate_turns([turn()], tokenizer, 4)
    hidden, logits = model(features, batch.conversations)
    masks, _ = model.segment(features, hidden[batch.seg_row, batch.seg_column], batch.seg_row * 0)
    (logits.square().mean() + masks.square().mean()).backward()

    is_empty = not ablation.use_cem and not ablation.use_cam_guidance
    has_cams = ablation.inject and ablation.use_qformer and not is_empty
    assert (len(model.cams) > 0) == has_cams
    for cam in model.cams:
        assert cam.reintegration.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("count", [1, 3, 8])
def test_groups_of_one_to_eight(tokenizer: Tokenizer, model: Calico, count: int) -> None:
    rng = np.random.default_rng(0)
    group = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(count)]
    images = tuple(range(count))
    layout = collate_prompts([turn("", images)], tokenizer, 4)
    out = model.generate(encoded(model, group), layout, seg=tokenizer.seg, end=tokenizer.end)
    assert len(layout.image_column) == count
    assert len(out.ids) == 1


def test_tiny_runs_on_the_trunk(tokenizer: Tokenizer, images: list[np.ndarray]) -> None:
    model = Calico(tiny(tokenizer.size)).eval()
    features = encoded(model, images)
    assert features.global_tokens.shape == (2, 65, 256)
    assert features.semantic_tokens.shape == (2, 64, 128)
    assert features.mask.embedding.shape == (2, 128, 16, 16)
    logits, iou = model.segment(features, torch.randn(5, 256), torch.tensor([0, 1, 1, 0, 1]))
    assert logits.shape == (5, 64, 64)
    assert iou.shape == (5,)


@pytest.fixture(scope="module")
def full_size() -> Calico:
    with torch.device("meta"):
        return Calico(full())


def test_7b_has_the_published_sizes(full_size: Calico) -> None:
    """Parameter counts of the parts, in the order of the table."""

    def count(*prefixes: str) -> int:
        return sum(
            p.numel()
            for n, p in full_size.named_parameters()
            if n.startswith(prefixes) and "lora_" not in n
        )

    assert round(count("language.") / 1e6, 1) == 6738.5
    assert round(count("eva.") / 1e6, 1) == 986.0
    assert round(count("qformer.") / 1e6, 1) == 105.1
    assert count("query_tokens") == 24_576
    assert round(count("image_projection.") / 1e6, 2) == 3.15
    assert round(count("sam_encoder.") / 1e6, 1) == 637.0
    assert count("mask_decoder.mask_decoder.") == 4_058_340
    assert round(count("segmentation_projection.") / 1e6, 1) == 17.8
    assert round(count("dino.") / 1e6, 1) == 86.6
    assert count("cams.") == 12_592_640
    # 6,133,248 of the attention and 4,352 of the two input norms.
    assert count("cem.") == 6_133_248 + 4_352


def test_7b_trains_the_share_the_paper_states(full_size: Calico) -> None:
    trainable = mark_trainable(full_size)
    total = sum(p.numel() for p in full_size.parameters())
    assert trainable == trainable_count(full_size.config) == 27_007_460
    assert round(100 * trainable / total, 1) == 0.3
    assert sum(p.numel() for n, p in full_size.named_parameters() if "lora_" in n) == 4_194_304


def test_cam_placement_reproduces_every_reported_case() -> None:
    base = full()
    assert replace(base, cams=1).cam_layers == (16,)
    assert base.cam_layers == (11, 22)
    assert replace(base, cams=3).cam_layers == (8, 16, 24)


def test_penalised_tokens_must_win_by_the_margin(
    tokenizer: Tokenizer, model: Calico, images: list[np.ndarray]
) -> None:
    features = encoded(model, images)
    layout = collate_prompts([turn("")], tokenizer, 4)
    ends = {"seg": tokenizer.seg, "end": tokenizer.end}
    first = model.generate(features, layout, **ends).ids[0][0]
    assert model.generate(features, layout, **ends, penalised=[first]).ids[0][0] == first
    model.config = replace(model.config, empty_margin=50.0)
    assert model.generate(features, layout, **ends, penalised=[first]).ids[0][0] != first
