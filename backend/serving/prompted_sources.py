"""A click or a box through CALICO's own decoder and every source beside it, and one mask chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.served_model import ServedModel
from backend.serving.source_pool import SourceAnswers, SourcePool, SourceSession
from calico_model.inference.prompt import MaskPrompt
from calico_model.sources.choice import choose
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import OWN_SOURCE, Ability, PromptSource, SourceMask
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask


@dataclass(frozen=True, eq=False)
class PromptedOutline:
    """What a prompt means in one image.

    Attributes:
        mask: (H, W) bool.
        score: of the source that is believed, in [0, 1].
        meant: the predicted part that the prompt means, or None.
        source: name of the source that is believed.
        is_complete: False if a source was left out.
    """

    mask: BoolMask
    score: float
    meant: PartMask | None
    source: str
    is_complete: bool


def outline(
    model: ServedModel,
    sources: SourcePool | None,
    group: ImageGroup,
    image_index: int,
    prompt: MaskPrompt,
    group_prediction: GroupPrediction | None,
) -> PromptedOutline:
    """Asks the model and all sources what a prompt means, and believes one of them.

    The sources work while the model does. What the prompt is called is the model's to say.

    Args:
        model: the version that answers.
        sources: asked beside it; None for the model alone.
        group: the task's images.
        image_index: 0-based.
        prompt: in pixels of that image.
        group_prediction: what the model predicted for the group, if that is known.
    """

    def ask(session: SourceSession) -> tuple[SourceMask, ...]:
        source = session.source
        assert isinstance(source, PromptSource)
        return tuple(source.segment_prompt(session.encode(group, image_index), prompt))

    ability = Ability.CLICK if prompt.box is None else Ability.BOX
    pending = sources.begin(ability, ask) if sources else None
    refined = model.refine(group, image_index, prompt, group_prediction)
    answers: SourceAnswers[tuple[SourceMask, ...]] = (
        SourceAnswers((), ()) if pending is None else pending.collect()
    )
    own = SourceProposal(OWN_SOURCE, refined.mask, refined.iou)
    chosen = choose((own, *_proposals(answers)))
    return PromptedOutline(
        chosen.mask, chosen.score, refined.meant, chosen.source, not answers.left_out
    )


def _proposals(answers: SourceAnswers[tuple[SourceMask, ...]]) -> Iterable[SourceProposal]:
    for answer in answers.answers:
        for mask in answer.value:
            yield SourceProposal(answer.source, mask.mask, mask.score)
