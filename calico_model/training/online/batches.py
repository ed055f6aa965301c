"""Examples become training tensors: open-vocabulary questions and answers, weighted by token.

Names are whatever the annotator wrote; no catalogue is used. A token or mask weighs what the
supervision of its region says: a corrected label trains text only, a corrected mask masks only.
Legend: M images in the pool, B turns, T positions, K [SEG] tokens, L logit side.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.config import CalicoConfig
from calico_model.data.collate import TrainingTurns, Turn, collate_turns
from calico_model.inference.images import scaled_size_hw
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.losses import IGNORED
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.training.frozen import rounded
from calico_model.training.online.example import Example
from calico_model.training.supervised.batches import cells_inside, square_target
from calico_model.types import BoolMask, PartMask, RegionKind, Supervision
from calico_model.vocabulary import normalise

REHEARSED = 0.3
"""Weight of what was right already, beside 1 for what was corrected."""
_UNKNOWN_OBJECT = "object"


@dataclass(frozen=True)
class TrainingQuestion:
    """One question about one example.

    Attributes:
        example: its truth is the answer.
        kind: the question.
        is_base: the base model is a teacher too.
    """

    example: Example
    kind: RegionKind
    is_base: bool = False


@dataclass(frozen=True)
class QuestionBatch:
    """The data of one step.

    Attributes:
        turns: questions with answers, teacher-forced.
        features: of the M images, float32.
        token_weights: (B, T) of each label, 0 where there is none.
        is_base: (B,) bool, turns for which the base model is a teacher too.
        absent_row, absent_column, absent_token: (A,) tokens that must not follow a position.
        image: (K,) which of the M images each [SEG] is about.
        target: (K, L, L) share of each cell that belongs to the mask.
        inside: (K, L, L) share of each cell that is image and not padding.
        mask_weights: (K,).
    """

    turns: TrainingTurns
    features: ImageFeatures
    token_weights: Tensor
    is_base: Tensor
    absent_row: Tensor
    absent_column: Tensor
    absent_token: Tensor
    image: Tensor
    target: Tensor
    inside: Tensor
    mask_weights: Tensor


@dataclass(frozen=True)
class _Grounded:
    """One [SEG]: the image it is about, its true mask or None, and the weight of that mask."""

    image: int
    mask: BoolMask | None
    weight: float


@dataclass(frozen=True)
class _Named:
    """One phrase of an answer: its words, their weight, its [SEG] tokens."""

    phrase: Phrase
    weight: float
    grounded: tuple[_Grounded, ...]


@dataclass(frozen=True)
class _Written:
    """One question in words.

    Attributes:
        turn: prompt and answer.
        named: its phrases in the order of the answer.
        template_weight: of all words that are not names.
        absent: names that the answer must not contain.
        sizes_hw: of its images in the order of the conversation.
        order: the example's image in each slot.
    """

    turn: Turn
    named: tuple[_Named, ...]
    template_weight: float
    absent: tuple[str, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    order: tuple[int, ...]


def text_weight(supervision: Supervision) -> float:
    """Returns the weight of a region's name under this supervision."""
    if Supervision.TEXT in supervision:
        return 1.0
    return REHEARSED if Supervision.REHEARSAL in supervision else 0.0


def mask_weight(supervision: Supervision) -> float:
    """Returns the weight of a region's mask under this supervision."""
    if Supervision.MASK in supervision:
        return 1.0
    return REHEARSED if Supervision.REHEARSAL in supervision else 0.0


def question_weight(example: Example, kind: RegionKind) -> float:
    """Returns how often to ask a question, relatively: most where its answer was corrected."""
    changed = Supervision.TEXT | Supervision.MASK | Supervision.ABSENCE
    targets = (target for target in example.targets if target.region.kind is kind)
    is_corrected = any(target.supervision & changed for target in targets)
    return example.weight * (1.0 if is_corrected else REHEARSED)


def question_batch(
    questions: Sequence[TrainingQuestion],
    tokenizer: Tokenizer,
    config: CalicoConfig,
    choose: random.Random | None,
) -> QuestionBatch:
    """Writes questions with their answers and gathers masks and features.

    Args:
        questions: at least one.
        tokenizer: one that knows the rows of new labels.
        config: of the model.
        choose: picks wordings and the order of images; None takes the first and the given one.
    """
    written = []
    first = 0
    for question in questions:
        written.append(_write(question, first, config.system_prompt, choose))
        first += len(question.example)
    turns = collate_turns([w.turn for w in written], tokenizer, config.qformer.queries)
    weights, absent = _weigh(turns.labels, written, tokenizer)
    features = concatenate(
        [
            q.example.features.image(k)
            for q, w in zip(questions, written, strict=True)
            for k in w.order
        ]
    )
    grounded = [seg for w in written for named in w.named for seg in named.grounded]
    if len(grounded) != len(turns.seg_row):
        raise AssertionError("every [SEG] of an answer has one mask")
    sizes = [size for w in written for size in w.sizes_hw]
    image = torch.tensor([seg.image for seg in grounded], dtype=torch.long)
    target, inside = _targets(grounded, sizes, config)
    row, column, token = (torch.tensor(v, dtype=torch.long) for v in absent)
    return QuestionBatch(
        turns=turns,
        features=rounded(features, torch.float32),
        token_weights=weights,
        is_base=torch.tensor([question.is_base for question in questions]),
        absent_row=row,
        absent_column=column,
        absent_token=token,
        image=image,
        target=target,
        inside=inside,
        mask_weights=torch.tensor([seg.weight for seg in grounded]),
    )


def _write(
    question: TrainingQuestion, first: int, system_prompt: str, choose: random.Random | None
) -> _Written:
    example, kind = question.example, question.kind
    order = list(range(len(example)))
    if choose is not None:
        choose.shuffle(order)
    slot_of = {image: slot for slot, image in enumerate(order)}
    objects, parts = [], []
    if kind is RegionKind.COMMON_OBJECT:
        objects = _named_regions(example, kind, slot_of, first)
    else:
        objects = _named_objects(example, slot_of, first)
        parts = _named_regions(example, kind, slot_of, first)
    wordings = prompts.QUESTIONS[kind]
    turn = Turn(
        prompts.conversation(
            choose.choice(wordings) if choose else wordings[0], len(order), system_prompt
        ),
        prompts.write_answer(
            kind, [named.phrase for named in objects], [named.phrase for named in parts], choose
        ),
        tuple(range(first, first + len(order))),
    )
    targets = [target for target in example.targets if target.region.kind is kind]
    absent = {normalise(t.region.label) for t in targets if Supervision.ABSENCE in t.supervision}
    present = {normalise(named.phrase.label) for named in (*objects, *parts)}
    changes_text = any(t.supervision & (Supervision.TEXT | Supervision.ABSENCE) for t in targets)
    only_shapes = bool(targets) and all(t.supervision == Supervision.MASK for t in targets)
    template = 1.0 if changes_text else 0.0 if only_shapes else REHEARSED
    return _Written(
        turn,
        (*objects, *parts),
        example.weight * template,
        tuple(sorted(absent - present)),
        tuple(example.sizes_hw[image] for image in order),
        tuple(order),
    )


def _named_regions(
    example: Example, kind: RegionKind, slot_of: dict[int, int], first: int
) -> list[_Named]:
    """The regions of one subtask: one phrase per name, and per image too where parts are unique."""
    phrases: dict[tuple[str, int], list[tuple[PartMask, Supervision]]] = {}
    present = [
        (slot_of[target.region.image_index], target.region, target.supervision)
        for target in example.targets
        if target.region.kind is kind and Supervision.ABSENCE not in target.supervision
    ]
    for slot, region, supervision in sorted(present, key=lambda row: row[0]):
        key = (normalise(region.label), slot if kind is RegionKind.UNIQUE_PART else 0)
        phrases.setdefault(key, []).append((region, supervision))
    return [
        _Named(
            Phrase(
                label,
                tuple(slot_of[region.image_index] for region, _ in regions),
                kind is RegionKind.COMMON_OBJECT,
            ),
            example.weight * max(text_weight(supervision) for _, supervision in regions),
            tuple(
                _Grounded(
                    first + slot_of[region.image_index],
                    region.mask,
                    example.weight * mask_weight(supervision),
                )
                for region, supervision in regions
            ),
        )
        for (label, _), regions in phrases.items()
    ]


def _named_objects(example: Example, slot_of: dict[int, int], first: int) -> list[_Named]:
    """The compared objects a part answer begins with; an unknown name has weight 0."""
    taught = {
        (target.region.image_index, normalise(target.region.label)): target.supervision
        for target in example.targets
        if target.region.kind is RegionKind.COMMON_OBJECT
    }
    named: dict[str, list[_Grounded]] = {}
    weights: dict[str, float] = {}
    for image in sorted(slot_of, key=lambda image: slot_of[image]):
        compared, at = example.objects[image], first + slot_of[image]
        if compared is None:
            named.setdefault(_UNKNOWN_OBJECT, []).append(_Grounded(at, None, 0.0))
            weights.setdefault(_UNKNOWN_OBJECT, 0.0)
            continue
        label = normalise(compared.label)
        supervision = taught.get((image, label), Supervision.TEXT | Supervision.MASK)
        weight = example.weight * mask_weight(supervision)
        named.setdefault(label, []).append(_Grounded(at, compared.mask, weight))
        weights[label] = max(weights.get(label, 0.0), example.weight * text_weight(supervision))
    return [
        _Named(
            Phrase(label, tuple(seg.image - first for seg in grounded), True),
            weights[label],
            tuple(grounded),
        )
        for label, grounded in named.items()
    ]


def _weigh(
    labels: Tensor, written: Sequence[_Written], tokenizer: Tokenizer
) -> tuple[Tensor, tuple[list[int], list[int], list[int]]]:
    """Weight of every answer token, and the tokens that must not begin a part's name."""
    weights = torch.zeros(labels.shape)
    rows: list[int] = []
    columns: list[int] = []
    tokens: list[int] = []
    for row, question in enumerate(written):
        firsts = [_first_token(named.phrase.label, tokenizer) for named in question.named]
        absent = {_first_token(name, tokenizer) for name in question.absent}
        unwanted = sorted(absent - set(firsts))
        phrase, inside = -1, False
        for column in (labels[row] != IGNORED).nonzero()[:, 0].tolist():
            token = int(labels[row, column])
            if token == tokenizer.phrase_start:
                phrase, inside = phrase + 1, True
            weight = question.named[phrase].weight if inside else question.template_weight
            weights[row, column] = weight
            if inside and token == firsts[phrase] and not question.named[phrase].phrase.is_object:
                rows += [row] * len(unwanted)
                columns += [column - 1] * len(unwanted)
                tokens += unwanted
            inside = inside and token != tokenizer.phrase_end
    return weights, (rows, columns, tokens)


def _first_token(label: str, tokenizer: Tokenizer) -> int:
    """The token a name begins with, after `<p> the`."""
    ids = tokenizer.encode(f"{prompts.PHRASE_START} the {label} {prompts.PHRASE_END}")
    return ids[2]


def _targets(
    grounded: Sequence[_Grounded], sizes_hw: Sequence[tuple[int, int]], config: CalicoConfig
) -> tuple[Tensor, Tensor]:
    side, logit_side = config.image_size, config.mask_side
    targets = [
        torch.zeros(logit_side, logit_side)
        if seg.mask is None
        else square_target(seg.mask, side, logit_side).float()
        for seg in grounded
    ]
    extent = torch.tensor(
        [scaled_size_hw(sizes_hw[seg.image], side) for seg in grounded], dtype=torch.float32
    ).reshape(-1, 2) * (logit_side / side)
    stacked = torch.stack(targets) if targets else torch.zeros(0, logit_side, logit_side)
    return stacked, cells_inside(extent, logit_side)
