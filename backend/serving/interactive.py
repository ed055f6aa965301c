"""Clicks and boxes -> regions to suggest, on cached features and without the language model.

A prompt refines the region it points at, which keeps its id, or makes a new one, whose id follows
from the first prompt: asked again with more prompts, the same region comes back. A linked region
is suggested anew beside itself. The label the annotator chose always wins; where there is none, a
click that means something the model has found has its name. Of what is on the canvas, only the
mask that is refined is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.errors import InvalidRleError
from backend.rle import Runs, mask_of, runs_of
from backend.served_model import ServedModel
from backend.serving.caches import BoundedCache
from backend.serving.click_targets import Chain, chains, overlapped, pointed_at
from backend.serving.propagation import spread
from backend.types import Prompt, Region
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary

_KEPT_STEPS, _KEPT_BYTES = 512, 64 * 1024 * 1024


@dataclass(frozen=True)
class OwnWords:
    """What the model itself says of a region that nobody has named.

    Attributes:
        label: its name.
        kind: what it is to the group, or None where the annotator said that.
    """

    label: str
    kind: RegionKind | None

    @property
    def on_several(self) -> OwnWords:
        """The same of a region that several images show: unique it is not."""
        return replace(self, kind=RegionKind.COMMON_PART) if self.is_unique else self

    @property
    def is_unique(self) -> bool:
        """Whether it is said to be on one image alone."""
        return self.kind is RegionKind.UNIQUE_PART


@dataclass(frozen=True, eq=False)
class Suggestions:
    """Regions to suggest.

    Attributes:
        prediction: them.
        ids: one per region.
        absent: images on which something alike was sought and not found, rising.
        own_words: by id, for regions that nobody has named.
    """

    prediction: GroupPrediction
    ids: tuple[str, ...]
    absent: tuple[int, ...] = ()
    own_words: Mapping[str, OwnWords] = field(default_factory=dict)

    def spread(
        self,
        group: ImageGroup,
        predictor: ServedModel,
        group_prediction: GroupPrediction | None,
        canvas: Sequence[Region],
        goes_on: Callable[[], bool] = lambda: True,
        vocabulary: Vocabulary | None = None,
    ) -> Suggestions:
        """Adds what is alike on the other images, unless it is drawn there already.

        Args:
            group: the task's images.
            predictor: the version that answers.
            group_prediction: what it predicted for the group, if that is known.
            canvas: regions that are there.
            goes_on: whether there is time for another region.
            vocabulary: the labels that regions may have; None where any text may be written.
        """
        parts, ids = list(self.prediction.parts), list(self.ids)
        words = dict(self.own_words)
        absent: set[int] = set()
        for own, own_id in zip(self.prediction.parts, self.ids, strict=True):
            if not goes_on():
                break
            found = spread(own, group, group_prediction, predictor, vocabulary)
            absent.update(found.absent)
            for part in found.parts[1:]:
                if overlapped(part, canvas, vocabulary) is None:
                    parts.append(part)
                    # Of alike parts in one image, the part_id says where each is.
                    ids.append(_id_of(own_id, part.image_index, part.part_id))
                    if own_id in words:
                        words[own_id] = words[ids[-1]] = words[own_id].on_several
        shown = replace(self.prediction, parts=tuple(parts))
        return Suggestions(shown, tuple(ids), tuple(sorted(absent)), words)

    def in_own_words(self) -> Suggestions:
        """Has the model name the regions that nobody has named, where it can."""
        parts = list(self.prediction.parts)
        for number, id_ in enumerate(self.ids):
            part, words = parts[number], self.own_words.get(id_)
            if words is not None and not part.label:
                parts[number] = replace(part, label=words.label, kind=words.kind or part.kind)
        return replace(self, prediction=replace(self.prediction, parts=tuple(parts)))


@dataclass(frozen=True, eq=False)
class _Step:
    """The mask after some prompts of a chain, as its runs; and what they mean."""

    runs: Runs
    size_hw: tuple[int, int]
    iou: float
    meant: OwnWords | None

    @property
    def mask(self) -> BoolMask:
        return mask_of(self.runs, self.size_hw)


@dataclass(frozen=True, eq=False)
class _About:
    """Who is asked about what."""

    group: ImageGroup
    predictor: ServedModel
    group_prediction: GroupPrediction | None
    goes_on: Callable[[], bool]
    vocabulary: Vocabulary | None

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What is asked about, and who.

        Not whether the version has spoken about the group yet: the mask that a first click led to
        stays the one that the next click corrects.
        """
        return self.group.keys, self.predictor.version


class InteractiveSegmenter:
    """Answers clicks and boxes; remembers where each chain of prompts stood.

    What is remembered follows from the request, and from what the version had said about the group
    when it was first made. Threads may share it.
    """

    def __init__(self) -> None:
        self._steps: BoundedCache[_Step] = BoundedCache(
            _KEPT_BYTES, lambda step: step.runs.nbytes, max_count=_KEPT_STEPS
        )

    def suggest(
        self,
        group: ImageGroup,
        prompts: Sequence[Prompt],
        canvas: Sequence[Region],
        predictor: ServedModel,
        group_prediction: GroupPrediction | None = None,
        goes_on: Callable[[], bool] = lambda: True,
        vocabulary: Vocabulary | None = None,
    ) -> Suggestions:
        """Outlines what every chain of prompts means, as long as there is time.

        The first prompt is always heeded. What is done is remembered: who asks for the same again
        gets further.

        Args:
            group: the task's images.
            prompts: in the order they were made.
            canvas: regions that are there.
            predictor: the version that answers.
            group_prediction: what it predicted for the group, if that is known.
            goes_on: whether there is time for another prompt; may raise to give up.
            vocabulary: the labels that regions may have; None where any text may be written.
        """
        about = _About(group, predictor, group_prediction, goes_on, vocabulary)
        parts: list[PartMask] = []
        ids: list[str] = []
        words: dict[str, OwnWords] = {}
        for number, chain in enumerate(chains(prompts)):
            if number and not goes_on():
                break
            if not 0 <= chain.first.image_index < len(group):
                continue
            target = self._target(about, chain, canvas)
            if target is None and not chain.first.is_positive:
                continue  # nothing there to take away from
            step = self._walk(about, chain, target)
            if len(step.runs):
                parts.append(_part(chain.first, target, step))
                ids.append(_suggested_id(chain.first, target))
                if step.meant is not None and not parts[-1].label:
                    is_chosen = (chain.first.kind or (target and target.kind)) is not None
                    kind = None if is_chosen else step.meant.kind
                    words[ids[-1]] = OwnWords(step.meant.label, kind)
        shown = GroupPrediction(tuple(parts), predictor.version)
        return Suggestions(shown, tuple(ids), own_words=words)

    def _target(self, about: _About, chain: Chain, canvas: Sequence[Region]) -> Region | None:
        """The region of the canvas that a chain refines; None for a new one."""
        first = chain.first
        size_hw = about.group.sizes_hw[first.image_index]
        target = pointed_at(first, canvas, size_hw, about.vocabulary)
        if target is None and first.is_click and first.is_positive:
            # Where part of a region is missing, the click lies beside it: but alone it would
            # outline that region again.
            alone = self._walk(about, Chain((first,)), None)
            target = overlapped(_part(first, None, alone), canvas, about.vocabulary)
        return target

    def _walk(self, about: _About, chain: Chain, target: Region | None) -> _Step:
        """The mask after a chain: every prompt corrects the mask of those before it."""
        group, index = about.group, chain.first.image_index
        begun = (*about.key, index, None if target is None else target.encoding)
        past: list[Prompt] = []
        step: _Step | None = None
        for prompt in chain.prompts:
            past.append(prompt)
            key = (*begun, tuple((p.box, p.is_positive) for p in past))
            known = self._steps.get(key)
            if known is None:
                if step is not None and not about.goes_on():
                    break
                previous = step.mask if step is not None else _mask_of(target)
                asked = _mask_prompt(past, previous)
                found = about.predictor.refine(group, index, asked, about.group_prediction)
                # Who corrects the outline of something does not mean something else.
                meant = _named(found.meant) or (step.meant if step is not None else None)
                known = _Step(runs_of(found.mask), group.sizes_hw[index], found.iou, meant)
                self._steps.put(key, known)
            step = known
        assert step is not None
        return step


def _named(part: PartMask | None) -> OwnWords | None:
    return OwnWords(part.label, part.kind) if part is not None and part.label else None


def _mask_of(target: Region | None) -> BoolMask | None:
    if target is None:
        return None
    try:
        return target.mask
    except InvalidRleError:
        return None


def _mask_prompt(prompts: Sequence[Prompt], previous: BoolMask | None) -> MaskPrompt:
    boxes = [prompt.box for prompt in prompts if not prompt.is_click]
    clicks = tuple(Click(p.box[0], p.box[1], p.is_positive) for p in prompts if p.is_click)
    is_drawn = previous is not None and bool(previous.any())
    return MaskPrompt(clicks, boxes[-1] if boxes else None, previous if is_drawn else None)


def _part(prompt: Prompt, target: Region | None, step: _Step) -> PartMask:
    """A region with the label that was chosen, else the one it had."""
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
    """The id of what a prompt leads to; with the id of a region, it replaces that one."""
    if target is None:
        return _id_of("prompt", prompt.id, prompt.image_index)
    # Label Studio's editor breaks down over a suggestion whose id one of its relations names.
    return _id_of("instead", target.id) if target.is_linked else target.id


def _id_of(*about: object) -> str:
    return hashlib.sha256("|".join(map(str, about)).encode()).hexdigest()[:12]
