"""No position ever sees a later one, and no conversation another: in training and in generation.

Every test changes one token and looks at all states. What stands before it must not move; what
stands behind it must, or the test would prove nothing. CAMs are the one way back the paper wants:
from the first CAM on, image rows know the last token of the prompt. They are off where a token of
the prompt is changed, on where one of the answer is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from calico_model import prompts
from calico_model.config import AblationConfig
from calico_model.data.collate import Turn, collate_prompts, collate_turns
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import Conversations
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.pretraining.run import use_plain_attention
from calico_model.types import RegionKind
from tests.unit.modeling.test_layout import ODD_QUESTIONS, QUERIES, ask, awake, features_of

assert_same = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
MOVED = 1e-3
TURNS = [
    Turn(
        prompts.conversation(question, len(images)),
        prompts.write_answer(RegionKind.COMMON_OBJECT, [prompts.Phrase(name, images, True)], ()),
        images,
    )
    for question, name, images in zip(
        ODD_QUESTIONS, ("chair", "horse", "table"), ((0, 1), (1,), (0, 1, 2)), strict=True
    )
]


def another(conversations: Conversations, row: int, column: int, word: int) -> Conversations:
    """The same conversations with one token exchanged."""
    ids = conversations.input_ids.clone()
    assert ids[row, column] != word
    ids[row, column] = word
    return replace(conversations, input_ids=ids)


def texts(conversations: Conversations, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """(row, column) of every token that is no image row."""
    is_text = conversations.is_token & (conversations.input_ids != tokenizer.image)
    return [(row, column) for row, column in is_text.nonzero().tolist()]


def check_only_later_states_move(
    states: Callable[[Conversations], Tensor],
    conversations: Conversations,
    places: list[tuple[int, int]],
    word: int,
) -> None:
    """Changes each place in turn; states are (B, T, D)."""
    before, is_token = states(conversations), conversations.is_token
    for row, column in places:
        after = states(another(conversations, row, column, word))
        stays = is_token.clone()
        stays[row, column:] = False
        assert_same(after[stays], before[stays])
        behind = (after - before)[row, column:].abs().amax(1)
        assert (behind > MOVED).all(), (row, column)


def forced(model: Calico, features: ImageFeatures) -> Callable[[Conversations], Tensor]:
    def states(conversations: Conversations) -> Tensor:
        with torch.no_grad():
            hidden: Tensor = model(features, conversations)[0]
        return hidden

    return states


def packed_states(model: Calico, features: ImageFeatures) -> Callable[[Conversations], Tensor]:
    return lambda conversations: model.prefill_packed(features, conversations)[0]


@pytest.mark.parametrize("prepare", [lambda model: None, use_plain_attention])
def test_training_sees_nothing_ahead(
    tokenizer: Tokenizer, prepare: Callable[[Calico], None]
) -> None:
    model = awake(tokenizer, ablation=AblationConfig(inject=False))
    prepare(model)  # training on a CPU swaps attention kernels
    conversations = collate_turns(TURNS, tokenizer, QUERIES).conversations
    assert len(set(conversations.is_token.sum(1).tolist())) == len(TURNS)
    places = texts(conversations, tokenizer)[::5]
    assert {row for row, _ in places} == {0, 1, 2}
    word = tokenizer.encode("lid")[0]
    check_only_later_states_move(forced(model, features_of(model, 3)), conversations, places, word)


def test_training_with_cams_sees_nothing_of_the_answer_ahead(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    conversations = collate_turns(TURNS, tokenizer, QUERIES).conversations
    answers = [
        (row, column)
        for row, column in texts(conversations, tokenizer)
        if column > conversations.guidance[row]
    ]
    word = tokenizer.encode("lid")[0]
    check_only_later_states_move(forced(model, features_of(model, 3)), conversations, answers, word)


def test_shared_prefill_sees_nothing_ahead(tokenizer: Tokenizer) -> None:
    """Prompts of different lengths, padded on the left, in one packed pass."""
    model = awake(tokenizer, ablation=AblationConfig(inject=False))
    conversations = ask(tokenizer, ODD_QUESTIONS)
    assert not conversations.is_token[:, 0].all()
    places = texts(conversations, tokenizer)[::3]
    word = tokenizer.encode("lid")[0]
    states = packed_states(model, features_of(model, 2))
    check_only_later_states_move(states, conversations, places, word)


def test_shared_prefill_with_cams_sees_nothing_of_other_questions(tokenizer: Tokenizer) -> None:
    model = awake(tokenizer)
    conversations = ask(tokenizer, ODD_QUESTIONS)
    states = packed_states(model, features_of(model, 2))
    before, word = states(conversations), tokenizer.encode("lid")[0]
    for row, column in texts(conversations, tokenizer)[::3]:
        after = states(another(conversations, row, column, word))
        first_image = int(conversations.image_column[conversations.image_row == row][0])
        stays = conversations.is_token.clone()
        # Its own images may know the end of the question; what stands before them may not.
        stays[row, min(column, first_image) :] = False
        assert_same(after[stays], before[stays])
        assert (after - before)[row, first_image:].abs().max() > MOVED


def test_left_and_right_padding_give_the_same_states(tokenizer: Tokenizer) -> None:
    """The prefill of padded prompts is the training forward of the same prompts."""
    model = awake(tokenizer)
    features = features_of(model, 3)
    prompts_only = [replace(turn, answer="") for turn in TURNS]
    left = collate_prompts(prompts_only, tokenizer, QUERIES)
    right = collate_turns(prompts_only, tokenizer, QUERIES).conversations
    assert not torch.equal(left.is_token, right.is_token)
    torch.testing.assert_close(
        model.prefill_packed(features, left)[0][left.is_token],
        forced(model, features)(right)[right.is_token],
        atol=2e-5,
        rtol=1e-4,
    )


def test_training_refuses_padding_on_the_left(tokenizer: Tokenizer) -> None:
    """A causal pass would let every token see the padding before it."""
    model = awake(tokenizer)
    with pytest.raises(AssertionError, match="right"):
        forced(model, features_of(model, 2))(ask(tokenizer, ODD_QUESTIONS))


def test_the_check_notices_a_missing_mask(tokenizer: Tokenizer) -> None:
    """Plain attention without a mask sees everything: what `build_language` rules out."""
    model = awake(tokenizer, ablation=AblationConfig(inject=False))
    assert model.language.config._attn_implementation == "sdpa"
    model.language.config._attn_implementation = "eager"
    conversations = collate_turns(TURNS, tokenizer, QUERIES).conversations
    places = texts(conversations, tokenizer)[-1:]
    word = tokenizer.encode("lid")[0]
    states = forced(model, features_of(model, 3))
    with pytest.raises(AssertionError, match="not close"):
        check_only_later_states_move(states, conversations, places, word)
