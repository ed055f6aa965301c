"""A click or a box through CALICO's own decoder and every source beside it, and one believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.served_model import ServedModel
from backend.serving.source_pool import SourceAnswers, SourcePool, SourceSession, checked
from backend.serving.source_trust import NOBODY_JUDGED, TaskTrust
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
        score: chance that the annotator keeps it, in [0, 1]; of the model alone its predicted IoU.
        meant: the predicted part that the prompt means, or None.
        source: name of the source that is believed most among those that give the mask.
        is_complete: False if a source was left out.
        ability: what the sources were asked for.
        proposals: all masks, the model's own first; () where there is no source beside it.
    """

    mask: BoolMask
    score: float
    meant: PartMask | None
    source: str
    is_complete: bool
    ability: Ability
    proposals: tuple[SourceProposal, ...] = ()


def outline(
    model: ServedModel,
    sources: SourcePool | None,
    group: ImageGroup,
    image_index: int,
    prompt: MaskPrompt,
    group_prediction: GroupPrediction | None,
    trust: TaskTrust = NOBODY_JUDGED,
    label: str | None = None,
) -> PromptedOutline:
    """Asks the model and all sources what a prompt means, and believes those who were right.

    The sources work while the model does. What the prompt is called is the model's to say.

    Args:
        model: the version that answers.
        sources: asked beside it; None for the model alone.
        group: the task's images.
        image_index: 0-based.
        prompt: in pixels of that image.
        group_prediction: what the model predicted for the group, if that is known.
        trust: in the sources.
        label: that the annotator chose for the region; without one the model's name counts.
    """

    def ask(session: SourceSession) -> tuple[SourceMask, ...]:
        source = session.source
        assert isinstance(source, PromptSource)
        masks = source.segment_prompt(session.encode(group, image_index), prompt)
        return checked(masks, group.sizes_hw[image_index])

    ability = Ability.CLICK if prompt.box is None else Ability.BOX
    pending = sources.begin(ability, ask) if sources else None
    refined = model.refine(group, image_index, prompt, group_prediction)
    answers: SourceAnswers[tuple[SourceMask, ...]] = (
        SourceAnswers((), ()) if pending is None else pending.collect()
    )
    if not answers.answers:
        is_complete = not answers.left_out
        return PromptedOutline(
            refined.mask, refined.iou, refined.meant, OWN_SOURCE, is_complete, ability
        )
    own = SourceProposal(OWN_SOURCE, refined.mask, refined.iou)
    proposals = (own, *_proposals(answers))
    name = trust.name_of(label or (refined.meant.label if refined.meant else None))
    chosen = choose(proposals, trust.table, ability, label=name)
    return PromptedOutline(
        chosen.mask,
        chosen.score,
        refined.meant,
        chosen.sources[0],
        not answers.left_out,
        ability,
        proposals,
    )


def _proposals(answers: SourceAnswers[tuple[SourceMask, ...]]) -> Iterable[SourceProposal]:
    for answer in answers.answers:
        for mask in answer.value:
            yield SourceProposal(answer.source, mask.mask, mask.score)
