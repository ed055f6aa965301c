"""Clicks and boxes -> regions to suggest, on cached features and without the language model.

A prompt refines the region it points at, which keeps its id, or makes a new region, whose id
follows from the first prompt: asked again with more prompts, the same region comes back. A linked
region is suggested anew beside itself. The label the annotator chose always wins; without one, a
region takes the name of the prediction that the click means. Of the regions on the canvas, only the
mask that is refined is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.errors import InvalidRleError
from backend.rle import Runs, mask_of, runs_of
from backend.served_model import ServedModel
from backend.serving.caches import BoundedCache
from backend.serving.click_targets import (
    PromptChain,
    overlapping_region,
    prompt_chains,
    prompted_region,
)
from backend.serving.prompted_sources import PromptedOutline, outline
from backend.serving.propagation import carry_on, propagate
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import NOBODY_JUDGED, TaskTrust
from backend.types import Prompt, Region, stable_id
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary

_BYTES_PER_STEP = 128 * 1024  # generous: some thousand runs


@dataclass(frozen=True)
class PredictedName:
    """The model's own name of a region that nobody has named.

    Attributes:
        label: its name.
        kind: what it is to the group, or None where the annotator chose the kind.
    """

    label: str
    kind: RegionKind | None

    @property
    def on_several_images(self) -> PredictedName:
        """The name of a region that several images show: it is not unique."""
        if self.kind is RegionKind.UNIQUE_PART:
            return replace(self, kind=RegionKind.COMMON_PART)
        return self


@dataclass(frozen=True, eq=False)
class Suggestions:
    """Regions to suggest.

    Attributes:
        prediction: the regions, with the version that answered.
        ids: one per region.
        absent: images on which something alike was sought and not found, rising.
        predicted_names: by id, for regions that nobody has named.
    """

    prediction: GroupPrediction
    ids: tuple[str, ...]
    absent: tuple[int, ...] = ()
    predicted_names: Mapping[str, PredictedName] = field(default_factory=dict)

    def with_parts(self, parts: Sequence[PartMask]) -> Suggestions:
        """Returns the same suggestions with other regions under the same ids."""
        return replace(self, prediction=replace(self.prediction, parts=tuple(parts)))

    def propagated(
        self,
        group: ImageGroup,
        model: ServedModel,
        group_prediction: GroupPrediction | None,
        canvas: Sequence[Region],
        has_time: Callable[[], bool] = lambda: True,
        vocabulary: Vocabulary | None = None,
        *,
        is_series: bool = False,
        sources: SourcePool | None = None,
        trust: TaskTrust = NOBODY_JUDGED,
    ) -> Suggestions:
        """Adds what is alike on the other images, unless it is drawn there already.

        Args:
            group: the task's images.
            model: the version that answers.
            group_prediction: what the model predicted for the group, if that is known.
            canvas: regions that are there.
            has_time: whether there is time for another region.
            vocabulary: the labels that regions may have; None where any text may be written.
            is_series: the images are an ordered series: regions go to the images that follow.
            sources: asked beside the model; None for the model alone.
            trust: in the sources, for this task.
        """
        parts, ids = list(self.prediction.parts), list(self.ids)
        names = dict(self.predicted_names)
        absent: set[int] = set()
        for source, source_id in zip(self.prediction.parts, self.ids, strict=True):
            if not has_time():
                break
            propagated = (
                carry_on(source, group, model, canvas, vocabulary, sources)
                if is_series
                else propagate(
                    source, group, group_prediction, model, vocabulary, sources=sources, trust=trust
                )
            )
            absent.update(propagated.absent)
            for part in propagated.parts[1:]:
                if overlapping_region(part, canvas, vocabulary) is None:
                    parts.append(part)
                    # Of alike parts in one image, the part_id says where each is.
                    ids.append(stable_id(source_id, part.image_index, part.part_id))
                    if source_id in names:
                        names[source_id] = names[ids[-1]] = names[source_id].on_several_images
        prediction = replace(self.prediction, parts=tuple(parts))
        return Suggestions(prediction, tuple(ids), tuple(sorted(absent)), names)

    def with_predicted_names(self) -> Suggestions:
        """Gives the regions without a label the model's own names, where there are some."""
        parts = list(self.prediction.parts)
        for number, id_ in enumerate(self.ids):
            part, name = parts[number], self.predicted_names.get(id_)
            if name is not None and not part.label:
                parts[number] = replace(part, label=name.label, kind=name.kind or part.kind)
        return self.with_parts(parts)


@dataclass(frozen=True, eq=False)
class _ClickStep:
    """The mask after some prompts of a chain, as runs; and the name of what they mean.

    `is_complete` is False where a source of masks was left out; it may answer the next time.
    `trust` is the state of the trust in the sources with which it was made.
    """

    runs: Runs
    size_hw: tuple[int, int]
    iou: float
    name: PredictedName | None
    is_complete: bool
    trust: str

    @property
    def mask(self) -> BoolMask:
        return mask_of(self.runs, self.size_hw)


@dataclass(frozen=True, eq=False)
class _ClickContext:
    """What every chain of one request is about; see `InteractiveSegmenter.suggest`.

    `made` has the keys of the steps that this request made.
    """

    group: ImageGroup
    model: ServedModel
    group_prediction: GroupPrediction | None
    has_time: Callable[[], bool]
    vocabulary: Vocabulary | None
    trust: TaskTrust
    made: set[Hashable] = field(default_factory=set)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Cache key: group and version.

        Without the group's prediction, which may come later: the mask that a first click led to
        stays the mask that the next click corrects.
        """
        return self.group.keys, self.model.version


class InteractiveSegmenter:
    """Answers clicks and boxes; remembers the mask after each step of a chain of prompts.

    A remembered step depends on the request, and on the prediction of the group that was known
    when the step was made. Threads may share it.

    Args:
        sources: asked beside the model; None for the model alone.
        most_steps: remembered at once.
    """

    def __init__(self, sources: SourcePool | None = None, *, most_steps: int = 512) -> None:
        self._sources = sources
        self._steps: BoundedCache[_ClickStep] = BoundedCache(
            most_steps * _BYTES_PER_STEP, lambda step: step.runs.nbytes, max_count=most_steps
        )

    def suggest(
        self,
        group: ImageGroup,
        prompts: Sequence[Prompt],
        canvas: Sequence[Region],
        model: ServedModel,
        group_prediction: GroupPrediction | None = None,
        has_time: Callable[[], bool] = lambda: True,
        vocabulary: Vocabulary | None = None,
        trust: TaskTrust = NOBODY_JUDGED,
    ) -> Suggestions:
        """Outlines what every chain of prompts means, as long as there is time.

        The first prompt is always answered. Every step is remembered: the same request, sent again,
        gets further.

        Args:
            group: the task's images.
            prompts: in the order they were made.
            canvas: regions that are there.
            model: the version that answers.
            group_prediction: what the model predicted for the group, if that is known.
            has_time: whether there is time for another prompt; may raise to give up.
            vocabulary: the labels that regions may have; None where any text may be written.
            trust: in the sources, for this task.
        """
        context = _ClickContext(group, model, group_prediction, has_time, vocabulary, trust)
        parts: list[PartMask] = []
        ids: list[str] = []
        names: dict[str, PredictedName] = {}
        for number, chain in enumerate(prompt_chains(prompts)):
            if number and not has_time():
                break
            if not 0 <= chain.first.image_index < len(group):
                continue
            target = self._target(context, chain, canvas)
            if target is None and not chain.first.is_positive:
                continue  # nothing there to take away from
            step = self._follow(context, chain, target, is_answer=True)
            if len(step.runs):
                parts.append(_part(chain.first, target, step))
                ids.append(_suggested_id(chain.first, target))
                if step.name is not None and not parts[-1].label:
                    is_chosen = (chain.first.kind or (target and target.kind)) is not None
                    names[ids[-1]] = replace(step.name, kind=None) if is_chosen else step.name
        prediction = GroupPrediction(tuple(parts), model.version)
        return Suggestions(prediction, tuple(ids), predicted_names=names)

    def _target(
        self, context: _ClickContext, chain: PromptChain, canvas: Sequence[Region]
    ) -> Region | None:
        """Returns the region of the canvas that a chain refines; None for a new region."""
        first = chain.first
        size_hw = context.group.sizes_hw[first.image_index]
        target = prompted_region(first, canvas, size_hw, context.vocabulary)
        if target is None and first.is_click and first.is_positive:
            # A click on a missing part of a region lies beside it, but alone it would outline the
            # same region again.
            alone = self._follow(context, PromptChain((first,)), None)
            target = overlapping_region(_part(first, None, alone), canvas, context.vocabulary)
        return target

    def _follow(
        self,
        context: _ClickContext,
        chain: PromptChain,
        target: Region | None,
        *,
        is_answer: bool = False,
    ) -> _ClickStep:
        """Returns the step after a chain: every prompt corrects the mask of those before it.

        A step that lacked a source, or was made with another trust in them, is made again if it is
        the answer, but not if a later prompt corrects it: that prompt was made on the mask that is
        remembered.
        """
        group, index = context.group, chain.first.image_index
        chain_key = (*context.key, index, None if target is None else target.encoding)
        prompts: list[Prompt] = []
        last: _ClickStep | None = None
        for prompt in chain.prompts:
            prompts.append(prompt)
            key = (*chain_key, tuple((p.box, p.is_positive) for p in prompts))
            step = self._steps.get(key)
            is_last = is_answer and len(prompts) == len(chain.prompts)
            is_stale = is_last and key not in context.made
            if step is None or (is_stale and not _is_fresh(step, context.trust)):
                if last is not None and not context.has_time():
                    break
                previous = last.mask if last is not None else _target_mask(target)
                mask_prompt = _mask_prompt(prompts, previous, target)
                label = chain.first.label or (None if target is None else target.label)
                outlined = outline(
                    context.model,
                    self._sources,
                    group,
                    index,
                    mask_prompt,
                    context.group_prediction,
                    context.trust,
                    label,
                )
                if outlined.proposals:
                    _record(context, chain.first, outlined, label)
                # Clicks that correct an outline still mean what the first click meant.
                name = _name_of(outlined.meant) or (last.name if last is not None else None)
                step = _ClickStep(
                    runs_of(outlined.mask),
                    group.sizes_hw[index],
                    outlined.score,
                    name,
                    outlined.is_complete,
                    context.trust.state,
                )
                self._steps.put(key, step)
                context.made.add(key)
            last = step
        assert last is not None
        return last


def _is_fresh(step: _ClickStep, trust: TaskTrust) -> bool:
    return step.is_complete and step.trust == trust.state


def _record(
    context: _ClickContext, first: Prompt, outlined: PromptedOutline, label: str | None
) -> None:
    """Leaves what the sources answered for learning; the next prompt of the chain replaces it."""
    context.trust.record(
        first.image_index,
        outlined.ability,
        (first.box, first.is_click),
        context.group.sizes_hw[first.image_index],
        asked=tuple(dict.fromkeys(one.source for one in outlined.proposals)),
        labels=(label,) if label else (),
        proposals=outlined.proposals,
    )


def _name_of(part: PartMask | None) -> PredictedName | None:
    return PredictedName(part.label, part.kind) if part is not None and part.label else None


def _target_mask(target: Region | None) -> BoolMask | None:
    if target is None:
        return None
    try:
        return target.mask
    except InvalidRleError:
        return None


def _mask_prompt(
    prompts: Sequence[Prompt], previous: BoolMask | None, target: Region | None
) -> MaskPrompt:
    boxes = [prompt.box for prompt in prompts if not prompt.is_click]
    clicks = tuple(Click(p.box[0], p.box[1], p.is_positive) for p in prompts if p.is_click)
    is_drawn = previous is not None and bool(previous.any())
    return MaskPrompt(
        clicks,
        boxes[-1] if boxes else None,
        previous if is_drawn else None,
        corrects_region=is_drawn and target is not None,
    )


def _part(prompt: Prompt, target: Region | None, step: _ClickStep) -> PartMask:
    """Returns a region with the label that was chosen, else the label of its target."""
    kind, label = prompt.kind, prompt.label
    if target is not None:
        kind, label = kind or target.kind, label or target.label
    return PartMask(
        image_index=prompt.image_index,
        kind=kind or RegionKind.COMMON_PART,
        label=label or "",
        mask=step.mask,
        score=step.iou,
    )


def _suggested_id(prompt: Prompt, target: Region | None) -> str:
    """Returns the id of a suggestion; with the id of a region, it replaces that region."""
    if target is None:
        return stable_id("prompt", prompt.id, prompt.image_index)
    # Label Studio's editor breaks down over a suggestion whose id one of its relations names.
    return stable_id("instead", target.id) if target.is_linked else target.id
