"""Answers without tags: their words as the model reads them, and the phrases a span head finds.

The language model writes `<p> the leg </p> [SEG] (IMAGE1)`. Without tags this is
`the leg (IMAGE1)`: the model reads the whole conversation once more, the span head marks the
phrases, and every phrase with an image behind it gets a query. The marked answer is written in the
grammar of prompts.py again, so that all that reads answers reads these, too.
Legend: A tokens of an answer, D the LLM's width, n images, Q rows per image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.data.collate import Turn, collate_answers
from calico_model.errors import CheckpointError
from calico_model.inference.segments import Segment, segments_of
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import Generated
from calico_model.modeling.losses import IGNORED
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import SpanHead, read_spans
from calico_model.prompts import ParsedAnswer
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind
from calico_model.vocabulary import ARTICLES

_IMAGES = re.compile(r"^\s*((?:\(IMAGE\d+\)\s*)+)")
_IMAGE = re.compile(r"\(IMAGE(\d+)\)")


@dataclass(frozen=True, eq=False)
class PlainAnswer:
    """An answer without tags.

    Attributes:
        ids: token ids.
        probabilities: of these tokens when they were generated; 1.0 each for a given answer.
        spans: (first token, end) of the phrases that its tags marked.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class AnswerStates:
    """What the language model makes of one answer in its conversation.

    Attributes:
        tokens: (A, D) last hidden states of the answer's tokens.
        rows: (n, Q, D) last hidden states of the images' rows.
    """

    tokens: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class SpanAnswer:
    """An answer whose phrases the span head has marked.

    Attributes:
        text: in the grammar of prompts.py, without the end-of-turn tag.
        parsed: phrases of the text.
        segments: regions; their images are positions in the conversation.
    """

    text: str
    parsed: ParsedAnswer
    segments: list[Segment]


def plain_answer(
    ids: Sequence[int], tokenizer: Tokenizer, probabilities: Sequence[float] = ()
) -> PlainAnswer:
    """Takes the tags out of an answer.

    Args:
        ids: tokens of an answer in the grammar of prompts.py.
        tokenizer: of the model.
        probabilities: of the tokens; empty for 1.0 each.
    """
    kept: list[int] = []
    chances: list[float] = []
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for token, chance in zip(ids, probabilities or [1.0] * len(ids), strict=True):
        if token == tokenizer.phrase_start:
            start = len(kept)
        elif token == tokenizer.phrase_end:
            if start is not None and start < len(kept):
                spans.append((start, len(kept)))
            start = None
        elif token not in (tokenizer.seg, tokenizer.end):
            kept.append(token)
            chances.append(chance)
    return PlainAnswer(tuple(kept), tuple(chances), tuple(spans))


def read_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    turns: Sequence[Turn],
    answers: Sequence[Sequence[int]],
) -> list[AnswerStates]:
    """Runs the language model over conversations with given answers.

    Args:
        model: on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the images that the conversations are about.
        turns: prompts and images; their own answers are ignored.
        answers: token ids.
    """
    queries = model.config.qformer.queries
    collated = collate_answers(turns, answers, tokenizer, queries)
    conversations = collated.conversations.to(features.global_tokens.device)
    hidden = model(features, conversations)[0]  # (B, T, D)
    is_answer = (collated.labels != IGNORED).to(hidden.device)
    offsets = torch.arange(queries, device=hidden.device)
    states: list[AnswerStates] = []
    for row in range(len(turns)):
        columns = conversations.image_column[conversations.image_row == row]
        states.append(
            AnswerStates(hidden[row, is_answer[row]], hidden[row, columns[:, None] + offsets])
        )
    return states


def pool_phrase(
    tokens: Tensor, ids: Sequence[int], span: tuple[int, int], tokenizer: Tokenizer
) -> Tensor:
    """Returns the (D,) mean state of a phrase's words; a leading article does not count.

    Args:
        tokens: (A, D) states of an answer.
        ids: its tokens.
        span: (first token, end) of the phrase.
        tokenizer: of the model.
    """
    first, end = span
    if end - first > 1 and tokenizer.decode([ids[first]]).strip().lower() in ARTICLES:
        first += 1
    return tokens[first:end].mean(0)


def images_behind(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> list[tuple[int, ...]]:
    """Returns the 0-based images that are named directly behind each phrase."""
    named: list[tuple[int, ...]] = []
    for (_, end), until in zip(spans, _next_starts(spans, len(ids)), strict=True):
        found = _IMAGES.match(tokenizer.decode(ids[end:until]))
        named.append(tuple(int(k) - 1 for k in _IMAGE.findall(found.group(1))) if found else ())
    return named


def mark_phrases(ids: Sequence[int], spans: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> str:
    """Writes an answer in the grammar of prompts.py, with its phrases and a [SEG] per image.

    Args:
        ids: of an answer without tags.
        spans: (first token, end) of its phrases in order.
        tokenizer: of the model.
    """
    pieces: list[str] = []
    done = 0
    for (first, end), until in zip(spans, _next_starts(spans, len(ids)), strict=True):
        pieces.append(tokenizer.decode(ids[done:first]))
        words = tokenizer.decode(ids[first:end]).strip()
        pieces.append(f"{prompts.PHRASE_START} {words} {prompts.PHRASE_END}")
        rest = tokenizer.decode(ids[end:until])
        found = _IMAGES.match(rest)
        if found:
            pieces.append(_IMAGE.sub(rf"{prompts.SEG} (IMAGE\1)", found.group(1)).strip())
            rest = rest[found.end() :]
        pieces.append(rest)
        done = until
    pieces.append(tokenizer.decode(ids[done:]))
    text = " ".join(" ".join(pieces).split())
    return re.sub(r"\s+([.,])", r"\1", text)


def _next_starts(spans: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    """Where the text behind each phrase ends: at the next phrase, or with the answer."""
    return [*(first for first, _ in spans[1:]), tokens][: len(spans)]


def tag_answers(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    kinds: Sequence[RegionKind],
    turns: Sequence[Turn],
    answers: Sequence[PlainAnswer],
) -> list[SpanAnswer]:
    """Finds the phrases of answers without tags, and the regions they stand for.

    Args:
        model: with a span head, in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the images that the conversations are about.
        kinds: the question of each answer.
        turns: prompts and images of the conversations.
        answers: to tag; what their own tags marked is not looked at.

    Raises:
        CheckpointError: the model has no span head.
    """
    head = span_head_of(model)
    read = read_answers(model, tokenizer, features, turns, [answer.ids for answer in answers])
    return [
        _tag(head, tokenizer, kind, len(turn.images), answer, states)
        for kind, turn, answer, states in zip(kinds, turns, answers, read, strict=True)
    ]


def span_head_of(model: Calico) -> SpanHead:
    """Returns the model's span head.

    Raises:
        CheckpointError: the weights have none.
    """
    if model.span_head is None:
        raise CheckpointError(
            'config.json: query_source is "span", but the weights have no span head; '
            "`calico train-spans` makes one"
        )
    return model.span_head


def plain_answers(generated: Generated, tokenizer: Tokenizer) -> list[PlainAnswer]:
    """Takes the tags out of generated answers."""
    return [
        plain_answer(ids, tokenizer, chances)
        for ids, chances in zip(generated.ids, generated.probabilities, strict=True)
    ]


def _tag(
    head: SpanHead,
    tokenizer: Tokenizer,
    kind: RegionKind,
    images: int,
    answer: PlainAnswer,
    states: AnswerStates,
) -> SpanAnswer:
    if not answer.ids:
        return SpanAnswer("", prompts.parse_answer(kind, ""), [])
    is_token = torch.ones(1, len(answer.ids), dtype=torch.bool, device=states.tokens.device)
    chances, tags = head.tag(states.tokens[None], is_token)[0].float().softmax(-1).max(-1)
    spans = read_spans(tags.tolist())
    text = mark_phrases(answer.ids, spans, tokenizer)
    parsed = prompts.parse_answer(kind, text)
    phrases: list[Tensor] = []
    rows: list[Tensor] = []
    certainties: list[float] = []
    for span, named in zip(spans, images_behind(answer.ids, spans, tokenizer), strict=True):
        pooled = pool_phrase(states.tokens, answer.ids, span, tokenizer)
        inside = range(*span)
        certainty = sum(answer.probabilities[k] * float(chances[k]) for k in inside) / len(inside)
        for image in named:
            phrases.append(pooled)
            # An image that does not exist gets a query, so that [SEG]s can be counted; no region.
            rows.append(states.rows[image if 0 <= image < images else 0])
            certainties.append(certainty)
    if not phrases:
        return SpanAnswer(text, parsed, [])
    queries = head.query(torch.stack(phrases), torch.stack(rows))
    return SpanAnswer(text, parsed, segments_of(kind, parsed, queries, certainties, images))
