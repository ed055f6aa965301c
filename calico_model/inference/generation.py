"""Questions about some images of a group, all answered in one batch of conversations.

Works on features, so that whoever holds them, a service or a trainer, asks in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calico_model import prompts
from calico_model.data.collate import Turn, collate_prompts
from calico_model.inference.segments import Segment, certainties, segments_of
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind


@dataclass(frozen=True)
class Question:
    """One of the three questions, about some images of a group.

    Attributes:
        kind: the question.
        images: 0-based positions in the group, in the order of the conversation; an image may be
            shown twice.
    """

    kind: RegionKind
    images: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GeneratedAnswer:
    """What the model said.

    Attributes:
        question: that it answers.
        text: the raw answer.
        segments: its regions; their images are positions in the group.
    """

    question: Question
    text: str
    segments: tuple[Segment, ...]


def ask(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    questions: Sequence[Question],
    *,
    wording: int = 0,
) -> list[GeneratedAnswer]:
    """Lets the model answer.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the group's images.
        questions: at least one.
        wording: which of the known wordings to use.

    Returns:
        One per question, in order.
    """
    config = model.config
    turns = [
        Turn(
            prompts.conversation(
                prompts.QUESTIONS[q.kind][wording], len(q.images), config.system_prompt
            ),
            "",
            q.images,
        )
        for q in questions
    ]
    layout = collate_prompts(turns, tokenizer, config.qformer.queries)
    answers = model.generate(
        features,
        layout.to(features.global_tokens.device),
        seg=tokenizer.seg,
        end=tokenizer.end,
        penalised=[i for word in prompts.empty_marks() for i in tokenizer.encode(word)],
    )
    found: list[GeneratedAnswer] = []
    for row, question in enumerate(questions):
        text = tokenizer.decode(answers.ids[row])
        segments = segments_of(
            question.kind,
            prompts.parse_answer(question.kind, text),
            answers.seg_states[row],
            certainties(answers, row, tokenizer),
            len(question.images),
        )
        shown = tuple(replace(one, image=question.images[one.image]) for one in segments)
        found.append(GeneratedAnswer(question, text, shown))
    return found
