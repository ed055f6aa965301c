"""The one thing to call to see: a group of images in, named masks out.

Owns the loaded model and its feature cache; one prediction runs at a time, guarded by a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.checkpoints import fingerprint, load_model
from calico_model.data.collate import Turn, collate_prompts
from calico_model.errors import InvalidConfigError
from calico_model.features import FeatureCache, ImageFeatures, concatenate, image_key
from calico_model.fitting import plan_folder, usual_placement
from calico_model.forced import read_answers
from calico_model.images import to_mask, to_pixels
from calico_model.likelihood import Likelihood
from calico_model.memory import FEATURE_CACHE_BYTES, MemoryPlan
from calico_model.modeling.generation import Generated
from calico_model.modeling.model import Calico
from calico_model.precision import Precision
from calico_model.prompts import ParsedAnswer
from calico_model.quantisation import check_kernels
from calico_model.tokenizer import Tokenizer
from calico_model.types import MAX_GROUP_SIZE, GroupPrediction, ImageGroup, PartMask, RegionKind

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "calico-tiny"


@dataclass(frozen=True)
class _Segment:
    """One [SEG] that becomes a region.

    Attributes:
        kind, label, image: of the region.
        object_label: the compared object of that image, or None.
        state: (D,) hidden state before the [SEG].
        certainty: mean probability of the phrase's tokens.
    """

    kind: RegionKind
    label: str
    image: int
    object_label: str | None
    state: Tensor
    certainty: float


class Predictor:
    """CALICO with one set of weights.

    Attributes:
        version: names the weights; stamped on every prediction.
    """

    def __init__(
        self,
        model: Calico,
        tokenizer: Tokenizer,
        *,
        version: str,
        device: str = "cpu",
        cache_bytes: int = FEATURE_CACHE_BYTES,
        images_at_once: int = MAX_GROUP_SIZE,
    ) -> None:
        self.version = version
        self._images_at_once = images_at_once
        self.features = FeatureCache(cache_bytes)
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._empty_marks = [i for word in prompts.empty_marks() for i in tokenizer.encode(word)]
        self._lock = threading.Lock()  # guards the model: one forward at a time

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Asks all three questions about a group.

        Args:
            group: 1 to 8 images.

        Returns:
            Regions in the original pixel frame of their image, objects first; empty masks are
            left out.
        """
        return self.predict_reworded(group, 0)

    @torch.inference_mode()
    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        """Asks the three questions in the given one of their wordings; else as `predict`."""
        with self._lock:
            features = self._encode(group)
            kinds = tuple(RegionKind)
            answers = self._ask(features, [prompts.QUESTIONS[kind][wording] for kind in kinds])
            texts = [self._tokenizer.decode(ids) for ids in answers.ids]
            segments: list[_Segment] = []
            for row, (kind, text) in enumerate(zip(kinds, texts, strict=True)):
                parsed = prompts.parse_answer(kind, text)
                chances = _certainties(answers, row, self._tokenizer)
                segments += _segments(kind, parsed, answers.seg_states[row], chances, len(group))
            parts = self._decode(group, features, _settle(segments))
        texts_of = {kind.value: text for kind, text in zip(kinds, texts, strict=True)}
        return GroupPrediction(parts, self.version, texts_of)

    @torch.inference_mode()
    def force(self, group: ImageGroup, answers: Mapping[RegionKind, str]) -> GroupPrediction:
        """Draws the masks of given answers, as if the model had said them (teacher forcing).

        Args:
            group: 1 to 8 images.
            answers: per question, text in the grammar of prompts.py.

        Returns:
            Regions in answer order; unlike in `predict`, empty masks are kept.
        """
        questions = [prompts.QUESTIONS[kind][0] for kind in answers]
        with self._lock:
            features = self._encode(group)
            texts = list(answers.values())
            read = read_answers(self._model, self._tokenizer, features, questions, texts)
            segments: list[_Segment] = []
            for (kind, text), states in zip(answers.items(), read.seg_states, strict=True):
                parsed = prompts.parse_answer(kind, text)
                segments += _segments(kind, parsed, states, [1.0] * len(states), len(group))
            parts = self._decode(group, features, segments, keep_empty=True)
        return GroupPrediction(parts, self.version, {k.value: t for k, t in answers.items()})

    @torch.inference_mode()
    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        """Returns how likely the model finds each answer to one question about a group."""
        questions = [prompts.QUESTIONS[kind][0]] * len(answers)
        with self._lock:
            features = self._encode(group)
            read = read_answers(self._model, self._tokenizer, features, questions, answers)
        return read.likelihoods

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        keys = [image_key(image) for image in group.images]
        found = [self.features.get(key) for key in keys]
        missing = [i for i, item in enumerate(found) if item is None]
        for start in range(0, len(missing), self._images_at_once):
            several = missing[start : start + self._images_at_once]
            pixels = to_pixels([group.images[i] for i in several], self._model.config)
            fresh = self._model.encode(pixels.to(self._device))
            for row, i in enumerate(several):
                one = fresh.image(row)
                found[i] = one
                self.features.put(keys[i], one)
        return concatenate([item for item in found if item is not None])

    def _ask(self, features: ImageFeatures, questions: Sequence[str]) -> Generated:
        config = self._model.config
        images = tuple(range(len(features)))
        turns = [
            Turn(prompts.conversation(q, len(images), config.system_prompt), "", images)
            for q in questions
        ]
        layout = collate_prompts(turns, self._tokenizer, config.qformer.queries)
        return self._model.generate(
            features,
            layout.to(self._device),
            seg=self._tokenizer.seg,
            end=self._tokenizer.end,
            held_back=self._empty_marks,
        )

    def _decode(
        self,
        group: ImageGroup,
        features: ImageFeatures,
        segments: Sequence[_Segment],
        *,
        keep_empty: bool = False,
    ) -> tuple[PartMask, ...]:
        if not segments:
            return ()
        states = torch.stack([segment.state for segment in segments])
        images = torch.tensor([segment.image for segment in segments], device=self._device)
        logits, iou = self._model.segment(features, states, images)
        parts: list[PartMask] = []
        for segment, mask_logits, quality in zip(segments, logits, iou, strict=True):
            size = group.sizes_hw[segment.image]
            mask = to_mask(mask_logits, size, self._model.config.image_size)
            if not (keep_empty or mask.any()):
                continue
            is_shared = segment.kind is not RegionKind.UNIQUE_PART
            parts.append(
                PartMask(
                    image_index=segment.image,
                    kind=segment.kind,
                    label=segment.label,
                    mask=mask,
                    object_label=segment.object_label,
                    part_id=f"{segment.kind.value}:{segment.label}" if is_shared else None,
                    score=float(quality.clamp(0.0, 1.0)) * segment.certainty,
                )
            )
        return tuple(parts)


def load_predictor(
    folder: Path = DEFAULT_WEIGHTS,
    *,
    device: str = "cpu",
    threads: int | None = None,
    precision: Precision | None = None,
    on_plan: Callable[[MemoryPlan], None] = lambda _: None,
) -> Predictor:
    """Loads a model folder, after making sure that it fits.

    Args:
        folder: config.json, model.safetensors, tokenizer.json; or released checkpoints.
        device: torch device.
        threads: CPU threads of one forward; None leaves torch's choice.
        precision: of the weights; None takes the best that fits the device.
        on_plan: told what will be held where, before a large model is loaded.

    Raises:
        CheckpointError: missing or damaged weights.
        InvalidConfigError: a wrong configuration, or a device this machine does not have.
        InsufficientMemoryError: the model does not fit the device.
    """
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_folder(folder, device, precision=precision)
    if plan is not None:
        on_plan(plan)
    placement = usual_placement(device, precision) if plan is None else plan.placement
    if placement.precision.is_quantised:
        check_kernels(placement.precision, torch.device(device))
    model, tokenizer = load_model(folder, placement=placement)
    version = f"{model.config.name}-{fingerprint(folder)[:8]}"
    if placement.precision is not Precision.FP32:
        version += f"-{placement.precision}"  # other numbers, other answers
    return Predictor(
        model,
        tokenizer,
        version=version,
        device=device,
        images_at_once=placement.images_at_once,
    )


def check_device(device: str) -> None:
    """Makes sure this machine has a device.

    Raises:
        InvalidConfigError: it has not.
    """
    gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    has = device == "cpu" or device in gpus or (device == "cuda" and bool(gpus))
    if not has:
        raise InvalidConfigError(
            f"device: expected cpu, or cuda with one of this machine's {len(gpus)} GPUs, "
            f"got {device!r}"
        )


def _certainties(answers: Generated, row: int, tokenizer: Tokenizer) -> list[float]:
    """Mean token probability of each `<p> ... </p>` of an answer, by its first [SEG]."""
    certainty = 1.0
    inside: list[float] = []
    found: list[float] = []
    for token, chance in zip(answers.ids[row], answers.probabilities[row], strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.phrase_end:
            certainty = sum(inside) / len(inside) if inside else 1.0
        elif token == tokenizer.seg:
            found.append(certainty)
        else:
            inside.append(chance)
    return found


def _segments(
    kind: RegionKind,
    parsed: ParsedAnswer,
    states: Tensor,
    certainties: Sequence[float],
    images: int,
) -> list[_Segment]:
    """The [SEG] tokens of one answer that are regions: objects of the first, parts of the rest."""
    object_of = {k: p.label for p in parsed.phrases if p.is_object for k in p.images}
    wants_objects = kind is RegionKind.COMMON_OBJECT
    found: list[_Segment] = []
    if parsed.segments != len(states):
        return found  # a tag spelled letter by letter: nothing says which mask is whose
    for phrase, first in zip(parsed.phrases, parsed.first_segments, strict=True):
        if phrase.is_object != wants_objects or not phrase.label:
            continue
        for offset, image in enumerate(phrase.images):
            if 0 <= image < images:
                owner = None if wants_objects else object_of.get(image)
                at = first + offset
                found.append(
                    _Segment(kind, phrase.label, image, owner, states[at], certainties[at])
                )
    return found


def _settle(segments: Sequence[_Segment]) -> list[_Segment]:
    """Keeps one region per name and image, and one kind per part name: the surer one.

    A part is common or unique in the whole group, so that a common part never loses single images.
    """
    objects = [s for s in segments if s.kind is RegionKind.COMMON_OBJECT]
    parts = [s for s in segments if s.kind is not RegionKind.COMMON_OBJECT]
    surest: dict[str, _Segment] = {}
    for segment in parts:
        if segment.label not in surest or segment.certainty > surest[segment.label].certainty:
            surest[segment.label] = segment
    agreed = [s for s in parts if s.kind is surest[s.label].kind]
    first: dict[tuple[RegionKind, str, int], _Segment] = {}
    for segment in (*objects, *agreed):
        first.setdefault((segment.kind, segment.label, segment.image), segment)
    return list(first.values())
