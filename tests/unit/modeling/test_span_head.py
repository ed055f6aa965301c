"""Phrases of tags, queries that start as the mean of their words, losses with known values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calico_model.config import CalicoConfig
from calico_model.errors import InvalidConfigError
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import SpanHead, Tag, anchor_loss, read_spans, tag_loss

OUT, B, IN = Tag.OUTSIDE, Tag.BEGIN, Tag.INSIDE


@pytest.fixture
def head(model: Calico) -> SpanHead:
    torch.manual_seed(0)
    return SpanHead(model.config).eval()


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ((B, IN, IN, OUT), [(0, 3)]),
        ((IN, IN, OUT), []),
        ((B, B), [(0, 1), (1, 2)]),
        ((OUT, B, IN), [(1, 3)]),
        ((B, OUT, IN, B), [(0, 1), (3, 4)]),
        ((), []),
    ],
)
def test_a_phrase_begins_with_b_and_goes_on_with_i(
    tags: tuple[Tag, ...], spans: list[tuple[int, int]]
) -> None:
    assert read_spans(tags) == spans


@torch.no_grad()
def test_an_untrained_query_is_the_mean_state(head: SpanHead) -> None:
    width = head.phrase_norm.weight.numel()
    phrases = torch.randn(3, width)

    assert torch.equal(head.query(phrases, torch.randn(3, 4, width)), phrases)


@torch.no_grad()
def test_a_trained_query_depends_on_the_image(head: SpanHead) -> None:
    width = head.phrase_norm.weight.numel()
    torch.nn.init.normal_(head.move[-1].weight)  # type: ignore[arg-type]
    phrases = torch.randn(1, width).expand(2, -1)

    first, second = head.query(phrases, torch.randn(2, 4, width))

    assert not torch.allclose(first, second, atol=1e-3)


@torch.no_grad()
def test_tags_depend_on_later_words_and_not_on_padding(head: SpanHead) -> None:
    width = head.phrase_norm.weight.numel()
    states = torch.randn(1, 5, width)
    is_token = torch.tensor([[True, True, True, True, False]])
    tags = head.tag(states, is_token)

    padded = states.clone()
    padded[0, 4] += 1.0
    later = states.clone()
    later[0, 3] += 1.0

    assert torch.allclose(head.tag(padded, is_token)[0, :4], tags[0, :4], atol=1e-6)
    assert not torch.allclose(head.tag(later, is_token)[0, 0], tags[0, 0], atol=1e-4)


def test_answers_without_a_phrase_do_not_teach_tags() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    nothing = torch.full((2, 4), int(OUT))
    assert tag_loss(logits, nothing).item() == 0.0

    tags = nothing.clone()
    tags[1, 1] = int(B)
    loss = tag_loss(logits, tags)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0].any()
    assert logits.grad[1].any()


def test_the_anchor_is_the_divergence_per_feature() -> None:
    queries = torch.zeros(2, 3)
    assert float(anchor_loss(queries, queries)) == 0.0
    assert float(anchor_loss(queries, queries + 2.0)) == pytest.approx(2.0)


def test_a_configuration_names_a_known_source_of_queries(model: Calico) -> None:
    assert CalicoConfig.__dataclass_fields__["query_source"].default == "seg"
    with pytest.raises(InvalidConfigError, match="query_source: expected one of seg, span"):
        replace(model.config, query_source="words")
