"""What conversations begin with in common is computed once, and changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model import prompts
from calico_model.config import AblationConfig
from calico_model.data import synthetic
from calico_model.data.collate import Turn, collate_prompts
from calico_model.inference.images import to_pixels
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import Conversations, packed, padded
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor, load_predictor
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind
from tests.conftest import build_micro

QUERIES = 4
QUESTIONS = [wordings[0] for wordings in prompts.QUESTIONS.values()]
# Of different lengths, and parting at the first word.
ODD_QUESTIONS = ["Which parts?", QUESTIONS[0], "Can you mark the object common to these photos?"]


def ask(tokenizer: Tokenizer, questions: list[str], images: int = 2) -> Conversations:
    pool = tuple(range(images))
    turns = [Turn(prompts.conversation(q, images, "A chat."), "", pool) for q in questions]
    return collate_prompts(turns, tokenizer, QUERIES)


def awake(tokenizer: Tokenizer, **changes: object) -> Calico:
    """A model whose CEM, CAMs and LoRA change something."""
    model = build_micro(tokenizer.size, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("cams.", "cem.")) or "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def features_of(model: Calico, images: int) -> ImageFeatures:
    rng = np.random.default_rng(7)
    pictures = [rng.integers(0, 255, (32, 40, 3), dtype=np.uint8) for _ in range(images)]
    with torch.no_grad():
        return model.encode(to_pixels(pictures, model.config))


@contextmanager
def counted_rows(model: Calico) -> Iterator[list[int]]:
    """Notes how many rows each LLM layer is given."""
    rows: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: rows.append(given[0][..., 0].numel()))
        for layer in model.language.model.layers
    ]
    yield rows
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("images", [1, 2, 4])
@pytest.mark.parametrize("questions", [QUESTIONS, ODD_QUESTIONS])
def test_together_equals_one_by_one(
    tokenizer: Tokenizer, questions: list[str], images: int
) -> None:
    model = awake(tokenizer)
    features = features_of(model, images)
    layout = ask(tokenizer, questions, images)
    together, cache = model.prefill_packed(features, layout)
    for row, question in enumerate(questions):
        alone, own_cache = model.prefill_packed(features, ask(tokenizer, [question], images))
        length = alone.shape[1]
        assert int(layout.is_token[row].sum()) == length
        torch.testing.assert_close(together[row, -length:], alone[0], atol=2e-5, rtol=1e-4)
        for shared, own in zip(cache.layers, own_cache.layers, strict=True):
            assert shared.keys.shape[2] == layout.input_ids.shape[1]
            for pair in ((shared.keys, own.keys), (shared.values, own.values)):
                torch.testing.assert_close(pair[0][row, :, -length:], pair[1][0])


def test_one_by_one_equals_the_teacher_forced_pass(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    features = features_of(model, 2)
    alone = ask(tokenizer, QUESTIONS[:1])
    with torch.no_grad():
        forced, _ = model(features, alone)
    torch.testing.assert_close(
        model.prefill_packed(features, alone)[0], forced, atol=2e-5, rtol=1e-4
    )


def test_answers_are_those_of_three_separate_runs(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    features = features_of(model, 3)
    ends = {"seg": tokenizer.seg, "end": tokenizer.end}
    together = model.generate(features, ask(tokenizer, QUESTIONS, 3), **ends)
    for row, question in enumerate(QUESTIONS):
        alone = model.generate(features, ask(tokenizer, [question], 3), **ends)
        assert together.ids[row] == alone.ids[0]
        assert together.probabilities[row] == pytest.approx(alone.probabilities[0], rel=1e-3)


def test_a_conversation_that_has_ended_costs_nothing_more(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    features = features_of(model, 2)
    layout = ask(tokenizer, QUESTIONS)
    seg = tokenizer.seg
    free = model.generate(features, layout, seg=seg, end=-1).ids
    # A token one answer holds early and another never: the first ends there, the other goes on.
    end = next(t for t in free[0] if any(t not in ids for ids in free[1:]))
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert len({len(ids) for ids in expected}) > 1

    with counted_rows(model) as rows:
        ended = model.generate(features, layout, seg=seg, end=end).ids

    assert ended == expected
    layers = len(model.language.model.layers)
    steps = rows[layers::layers]
    assert steps == [sum(len(ids) > k for ids in expected) for k in range(len(steps))]


def test_image_rows_are_computed_once_below_the_first_cam(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    features = features_of(model, 2)
    layout = ask(tokenizer, QUESTIONS)
    lengths = layout.is_token.sum(1)
    ids = [layout.input_ids[k, -n:].tolist() for k, n in enumerate(lengths.tolist())]
    shared = next(i for i, t in enumerate(zip(*ids, strict=False)) if len(set(t)) > 1)
    before_images = ids[0].index(tokenizer.image)
    assert shared > before_images + 2 * QUERIES

    with counted_rows(model) as rows:
        model.prefill_packed(features, layout)

    total, first_cam = int(lengths.sum()), model.config.cam_layers[0]
    assert rows[:first_cam] == [total - 2 * shared - _shared_by_two(ids, shared)] * first_cam
    assert rows[first_cam:] == [total - 2 * before_images] * (len(rows) - first_cam)


def _shared_by_two(ids: list[list[int]], start: int) -> int:
    """Tokens behind `start` that two of three conversations still have in common."""
    pairs = ((0, 1), (0, 2), (1, 2))
    together = [next(i for i, (x, y) in enumerate(zip(ids[a], ids[b], strict=False)) if x != y)
                for a, b in pairs]  # fmt: skip
    return max(together) - start


def test_without_cams_images_are_computed_once_in_all_layers(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer, ablation=AblationConfig(inject=False))
    features = features_of(model, 2)
    with counted_rows(model) as rows:
        model.prefill_packed(features, ask(tokenizer, QUESTIONS))
    assert len(set(rows)) == 1
    assert rows[0] == packed(ask(tokenizer, QUESTIONS), own_images=False).source.numel()


def test_other_images_share_only_what_stands_before_them(tokenizer: Tokenizer) -> None:
    prompt = prompts.conversation(QUESTIONS[0], 2)
    turns = [Turn(prompt, "", (0, 1)), Turn(prompt, "", (0, 2))]
    layout = collate_prompts(turns, tokenizer, QUERIES)
    below = packed(layout, own_images=False)
    first, second = (int(c) for c in layout.image_column[:2])
    assert torch.equal(below.node[0, :second], below.node[1, :second])
    assert not (below.node[0, second:] == below.node[1, second:]).any()
    above = packed(layout, own_images=True)
    assert torch.equal(above.node[0, :first], above.node[1, :first])
    assert not (above.node[0, first:] == above.node[1, first:]).any()


def test_a_node_sees_its_own_conversation_up_to_itself(tokenizer: Tokenizer) -> None:
    layout = ask(tokenizer, ODD_QUESTIONS)
    below = packed(layout, own_images=False)
    assert below.mask is not None
    for row, is_token in enumerate(layout.is_token):
        chain = below.node[row, is_token]
        assert below.depth[0, chain].tolist() == list(range(len(chain)))
        for place, node in enumerate(chain.tolist()):
            seen = below.mask[0, 0, node].nonzero()[:, 0]
            assert sorted(seen.tolist()) == sorted(chain[: place + 1].tolist())


def test_rows_and_positions_are_inverse(tokenizer: Tokenizer) -> None:
    layout = ask(tokenizer, ODD_QUESTIONS)
    values = torch.arange(layout.input_ids.numel()).view(*layout.input_ids.shape, 1)
    right = padded(replace(layout, is_token=layout.is_token.flip(1)))
    assert torch.equal(right.positions(right.rows(values)), values)
    for own_images in (False, True):
        where = packed(layout, own_images=own_images)
        rows = where.rows(values)
        assert torch.equal(where.rows(where.positions(rows)), rows)


class OneByOne(Calico):
    """Calico that answers each conversation of a batch in a run of its own."""

    asked = 0

    def generate(self, features, conversations, **options):  # type: ignore[no-untyped-def]
        self.asked += 1
        runs = []
        for row in range(len(conversations.input_ids)):
            mine = conversations.image_row == row
            own = Conversations(
                conversations.input_ids[row : row + 1],
                conversations.is_token[row : row + 1],
                conversations.guidance[row : row + 1],
                conversations.image_row[mine] * 0,
                conversations.image_column[mine],
                conversations.image_feature[mine],
            )
            runs.append(super().generate(features, own, **options))
        return type(runs[0])(
            [run.ids[0] for run in runs],
            [run.probabilities[0] for run in runs],
            [run.seg_states[0] for run in runs],
        )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_calico_tiny_predicts_the_same_with_and_without_sharing(count: int) -> None:
    rng = synthetic.group_rng(synthetic.Stream.EVALUATION, 5, count)
    scenes = synthetic.draw_group(rng, group_size=count)
    group = synthetic.labeled_group(scenes, list("abcd"[:count])).group
    shared = load_predictor()
    separate: Predictor = load_predictor()
    separate._model.__class__ = OneByOne
    ours, theirs = shared.predict(group), separate.predict(group)

    assert separate._model.asked == 1
    assert ours.answers == theirs.answers
    assert set(ours.answers) == {kind.value for kind in RegionKind}
    assert len(ours.parts) == len(theirs.parts) > 0
    for one, other in zip(ours.parts, theirs.parts, strict=True):
        assert (one.label, one.kind, one.image_index) == (
            other.label,
            other.kind,
            other.image_index,
        )
        assert (one.mask != other.mask).mean() < 1e-3
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_the_query_transformer_sees_each_image_once_at_the_input(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    features = features_of(model, 2)
    batches: list[int] = []
    model.qformer.register_forward_pre_hook(
        lambda _, given, named: batches.append(len(named["query_embeds"])), with_kwargs=True
    )
    model.prefill_packed(features, ask(tokenizer, QUESTIONS))
    # Two images once at the input; two images of three questions at each of the two CAMs.
    assert batches == [2, 6, 6]
