"""`calico bench spans`: masks of the words of true answers beside those of their [SEG] tokens.

Both read the same true answers about drawn pairs that no training saw; only the query of the mask
decoder differs. Masks are compared as the decoder draws them, without the refiner.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from backend.cli.options import WeightsOption
from backend.cli.progress import progress_bar
from backend.errors import SettingsError
from calico_model.data.scene import Scene
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng
from calico_model.inference.span_answers import span_head_of
from calico_model.loading.checkpoints import load_model
from calico_model.modeling.losses import hard_iou
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.span_head import read_spans
from calico_model.predictor import DEFAULT_WEIGHTS
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.span_lessons import SpanLessons, make_lessons

GROUP_SIZE = 2
_AT_ONCE = 32  # masks


@dataclass(frozen=True)
class SpanFigures:
    """Masks and phrases of true answers; shares and IoU in percent.

    Attributes:
        masks: how many were drawn.
        seg_miou, span_miou: mean IoU of the masks of [SEG] tokens, and of words.
        seg_recall, span_recall: masks of IoU 0.5 or more.
        phrases: how many there are.
        phrase_precision, phrase_recall: of the phrases that the tagger marks; right is the same
            first and last word.
    """

    masks: int
    seg_miou: float
    span_miou: float
    seg_recall: float
    span_recall: float
    phrases: int
    phrase_precision: float
    phrase_recall: float


def bench_spans(
    weights: WeightsOption = None,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="Kind of groups to draw.")
    ] = SceneSplit.SEEN,
    groups: Annotated[int, typer.Option("--groups", min=1, help="Pairs to draw.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 1,
) -> None:
    """Compare the masks of words with those of [SEG] tokens, on true answers.

    The weights need a span head, as `calico train-spans` makes it.

    Example: calico bench spans --weights run/model --split seen

    The last line of stdout is JSON: masks, mean IoU and recall of both, phrases and how many the
    tagger finds.
    """
    if split in (SceneSplit.UNSEEN_CATEGORY, SceneSplit.UNSEEN_DOMAIN):
        raise SettingsError(
            "--split: expected groups of trained categories, whose true answers can be read, got "
            f"{split.value}; calico evaluate measures it"
        )
    model, tokenizer = load_model(weights or DEFAULT_WEIGHTS)
    span_head_of(model)
    chunks = []
    with progress_bar("Reading answers", groups) as advance_to:
        for index in range(groups):
            rng = group_rng(Stream.EVALUATION, seed, index)
            side = model.config.image_size
            scenes = draw_group(rng, split=split, group_size=GROUP_SIZE, size_px=side)
            chunks.append(measure_group(model, tokenizer, scenes, index))
            advance_to(index + 1)
    typer.echo(json.dumps(asdict(summarise(chunks))))


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """One group: (K,) IoU of each mask by [SEG] and by words, and counts of phrases."""

    seg: Tensor
    span: Tensor
    phrases: int
    marked: int
    right: int


@torch.inference_mode()
def measure_group(
    model: Calico, tokenizer: Tokenizer, scenes: Sequence[Scene], seed: int
) -> GroupFigures:
    """Draws the masks of the true answers about one group, by [SEG] and by words.

    Args:
        model: with a span head, in evaluation mode.
        tokenizer: of the model.
        scenes: the group.
        seed: picks the wordings.
    """
    head = span_head_of(model)
    lessons = make_lessons(model, tokenizer, [scenes], random.Random(seed))
    target = lessons.target.float() / 255
    queries = head.query(lessons.phrase.float(), lessons.rows.float())
    is_token = lessons.tags >= 0
    tags = head.tag(lessons.states.float(), is_token).argmax(-1)
    phrases = marked = right = 0
    for row, is_word in enumerate(is_token):
        true = set(read_spans(lessons.tags[row, is_word].tolist()))
        found = set(read_spans(tags[row, is_word].tolist()))
        phrases, marked, right = (
            phrases + len(true),
            marked + len(found),
            right + len(true & found),
        )
    return GroupFigures(
        hard_iou(_draw(model, lessons, lessons.anchor.float()), target),
        hard_iou(_draw(model, lessons, queries), target),
        phrases,
        marked,
        right,
    )


def summarise(groups: Sequence[GroupFigures]) -> SpanFigures:
    """Returns the figures of all masks and phrases of some groups."""
    seg = torch.cat([group.seg for group in groups])
    span = torch.cat([group.span for group in groups])
    phrases = sum(group.phrases for group in groups)
    marked = sum(group.marked for group in groups)
    right = sum(group.right for group in groups)
    return SpanFigures(
        masks=len(seg),
        seg_miou=_percent(seg),
        span_miou=_percent(span),
        seg_recall=_percent((seg >= 0.5).float()),
        span_recall=_percent((span >= 0.5).float()),
        phrases=phrases,
        phrase_precision=round(100 * right / max(1, marked), 1),
        phrase_recall=round(100 * right / max(1, phrases), 1),
    )


def _percent(values: Tensor) -> float:
    return round(100 * values.mean().item(), 1) if len(values) else 0.0


def _draw(model: Calico, lessons: SpanLessons, states: Tensor) -> Tensor:
    """(K, L, L) logits of the masks that states ask for."""
    drawn = []
    features = MaskFeatures(
        lessons.features.embedding.float(), tuple(fine.float() for fine in lessons.features.fine)
    )
    for first in range(0, len(states), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        sparse = model.segmentation_projection(states[some])[:, None]
        drawn.append(model.mask_decoder(features, lessons.image[some], sparse)[0][:, 0])
    side = model.config.mask_side
    return torch.cat(drawn) if drawn else states.new_zeros(0, side, side)
