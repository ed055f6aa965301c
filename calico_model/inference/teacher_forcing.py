"""Given answers instead of generated ones: where their masks come from and how likely they are.

Legend: B answers, T positions, V words, D the LLM's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from calico_model import prompts
from calico_model.data.collate import Turn, collate_turns
from calico_model.inference.likelihood import Likelihood
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.losses import IGNORED
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class ReadAnswers:
    """Answers as the model reads them.

    Attributes:
        seg_states: per answer, (n, D) hidden state before each [SEG], in order.
        likelihoods: per answer.
    """

    seg_states: list[Tensor]
    likelihoods: list[Likelihood]


def read_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    questions: Sequence[str],
    answers: Sequence[str],
) -> ReadAnswers:
    """Runs the model over whole conversations, as in training.

    Args:
        model: on the device of the features.
        tokenizer: of the model.
        features: of the images all conversations are about.
        questions: B questions.
        answers: B answers in the grammar of prompts.py.
    """
    images = tuple(range(len(features)))
    config = model.config
    turns = [
        Turn(prompts.conversation(question, len(images), config.system_prompt), answer, images)
        for question, answer in zip(questions, answers, strict=True)
    ]
    collated = collate_turns(turns, tokenizer, config.qformer.queries)
    conversations = collated.conversations.to(features.global_tokens.device)
    hidden, logits = model(features, conversations)  # (B, T, D), (B, T, V)
    chances = logits[:, :-1].float().log_softmax(-1)
    targets = conversations.input_ids[:, 1:, None]
    chances = chances.gather(-1, targets).squeeze(-1).cpu()  # (B, T - 1) of each next token
    is_answer = collated.labels[:, 1:] != IGNORED
    ids, is_token = conversations.input_ids[:, 1:].cpu(), conversations.is_token[:, 1:].cpu()
    is_word = is_token & (ids != tokenizer.image) & ~is_answer
    return ReadAnswers(
        seg_states=[
            hidden[row, collated.seg_column[collated.seg_row == row].to(hidden.device)]
            for row in range(len(turns))
        ],
        likelihoods=[
            Likelihood(tuple(row[words].tolist()), tuple(row[told].tolist()))
            for row, words, told in zip(chances, is_word, is_answer, strict=True)
        ],
    )
