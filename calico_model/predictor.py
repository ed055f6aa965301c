"""The entry point of inference: a group of images in, named masks out.

`Predictor` owns the loaded model and the caches of its features and name prompts. A lock guards
them: one prediction runs at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from cachetools import LRUCache
from torch import Tensor

from calico_model import prompts
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.confidence import Confidence, read_confidence
from calico_model.inference.generation import generate_together, predict_regions
from calico_model.inference.images import to_photo, to_pixels
from calico_model.inference.pairwise import GeneratedAnswer
from calico_model.inference.span_answers import span_head_of
from calico_model.inference.teacher_forcing import draw_answers, force_answers
from calico_model.loading.checkpoints import fingerprint, load_model
from calico_model.loading.fitting import plan_folder, usual_placement
from calico_model.loading.memory_plan import FEATURE_CACHE_BYTES, MemoryPlan
from calico_model.loading.precision import Precision
from calico_model.loading.quantisation import check_kernels
from calico_model.modeling.adapter import Adapter
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.features import FeatureCache, ImageFeatures, concatenate
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import (
    MAX_GROUP_SIZE,
    GroupPrediction,
    ImageGroup,
    Likelihood,
    RegionKind,
    RgbImage,
)

_GROUP_SHARE = 8
"""One eighth of the feature cache holds the features of whole groups, of the latest requests."""
_MOST_NAME_PROMPTS = 256  # of a few kilobytes each
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "calico-tiny"


@dataclass(frozen=True, eq=False)
class ModelSession:
    """The model with one active adapter, held for one group; see `Predictor.acquire`.

    Attributes:
        model: with the requested adapter.
        tokenizer: of the model with that adapter.
        features: of the group's images, in order.
        adapters: hold the active adapter.
    """

    model: Calico
    tokenizer: Tokenizer
    features: ImageFeatures
    adapters: AdapterSet

    @property
    def asks_language(self) -> bool:
        """Whether to ask the language model about these images."""
        return self.adapters.uses_language_model(self.features)

    @property
    def is_familiar(self) -> bool:
        """Whether the images are like those that the base learned from."""
        return self.model.is_familiar(self.features)


class Predictor:
    """CALICO with one set of weights and any number of adapters.

    Attributes:
        version: of the weights; version of every prediction without an adapter.
        confidence: turns the evidence of regions into scores; None leaves the plain product of
            predicted IoU and phrase probability.
        features: cache of the features of single images, by content hash.
        adapters: adapters that `predict` can use; any thread may add and drop them.
        name_prompts: latest [SEG] prompts of names on groups, see `Assistant.transfer`; use the
            cache only inside `acquire`.
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
        confidence: Confidence | None = None,
    ) -> None:
        self.version = version
        self.confidence = confidence
        self._images_at_once = images_at_once
        self.features = FeatureCache(cache_bytes - cache_bytes // _GROUP_SHARE)
        self._group_features = FeatureCache(cache_bytes // _GROUP_SHARE)
        self.adapters = AdapterSet(model, tokenizer)
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self.name_prompts: LRUCache[Hashable, Tensor] = LRUCache(_MOST_NAME_PROMPTS)
        self._lock = threading.Lock()  # guards the model and `name_prompts`: one forward at a time

    @property
    def parameters(self) -> int:
        """Number of parameters of the network, without adapters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def predict(self, group: ImageGroup, *, adapter: str | None = None) -> GroupPrediction:
        """Asks all three questions about a group.

        Args:
            group: 1 to 8 images.
            adapter: version of an adapter in `adapters`, None for the base. The prediction comes
                from that version, whatever is added or dropped meanwhile.

        Returns:
            Regions in the original pixel frame of their image, objects first, without those of an
            empty mask.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        return self._predict(group, 0, adapter)

    def predict_groups(
        self, groups: Sequence[ImageGroup], *, adapter: str | None = None
    ) -> list[GroupPrediction]:
        """Asks all three questions about several groups; the language model answers them together.

        Faster than one after another. The answers are those of `predict`, but for rounding: in
        larger batches the last bits of scores differ, and single pixels at the edge of a mask may.

        Args:
            groups: 1 to 8 images each.
            adapter: as in `predict`.

        Returns:
            One per group, in order.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        chosen = self._adapter(adapter)
        found: dict[int, GroupPrediction] = {}
        with self._lock, torch.inference_mode():
            features = [self._encode(group) for group in groups]
            covered = [self.adapters.covers(chosen, one) for one in features]
            for is_covered in sorted(set(covered)):
                places = [k for k, one in enumerate(covered) if one is is_covered]
                tokenizer = self.adapters.select(chosen, features[places[0]])
                sessions = {
                    k: ModelSession(self._model, tokenizer, features[k], self.adapters)
                    for k in places
                }
                asked = [k for k in places if sessions[k].asks_language]
                generated = generate_together(self._model, tokenizer, [features[k] for k in asked])
                answers = dict(zip(asked, generated, strict=True))
                for k in places:
                    found[k] = self._finish(
                        groups[k], sessions[k], 0, adapter, answers=answers.get(k)
                    )
        return [found[k] for k in range(len(groups))]

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        """Predicts without an adapter from other wordings of the questions, 0-based."""
        return self._predict(group, wording, None)

    def encode(self, group: ImageGroup) -> ImageFeatures:
        """Returns the frozen features of a group's images, from the cache where it has them."""
        with self._lock, torch.inference_mode():
            return self._encode(group)

    def encode_photo(self, image: RgbImage) -> tuple[Tensor, ...]:
        """Returns the photo trunk's maps of an (H, W, 3) uint8 image; see `ImageFeatures.photo`."""
        trunk = self._model.config.photo_trunk
        if trunk is None:
            return ()
        with self._lock, torch.inference_mode():
            return self._model.encode_photos([to_photo(image, trunk.side).to(self._device)])

    def predict_forced(
        self, group: ImageGroup, answers: Mapping[RegionKind, str]
    ) -> GroupPrediction:
        """Draws the masks of given answers, as if the model had generated them (teacher forcing).

        Args:
            group: 1 to 8 images.
            answers: per question, text in the grammar of prompts.py.

        Returns:
            Regions in answer order, with those of an empty mask.
        """
        with self.acquire(group) as session:
            parts = draw_answers(
                session.model,
                session.tokenizer,
                session.features,
                group.sizes_hw,
                answers,
                images=group.images,
            )
        return GroupPrediction(parts, self.version, {k.value: t for k, t in answers.items()})

    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        """Returns how likely the model finds each answer to one question about a group."""
        questions = [prompts.QUESTIONS[kind][0]] * len(answers)
        with self.acquire(group) as session:
            forced = force_answers(
                session.model, session.tokenizer, session.features, questions, answers
            )
        return forced.likelihoods

    @contextmanager
    def acquire(self, group: ImageGroup, *, adapter: str | None = None) -> Iterator[ModelSession]:
        """Locks the model and yields it for one group; other callers wait until the block ends.

        Args:
            group: 1 to 8 images; only those without cached features are encoded.
            adapter: version of an adapter in `adapters`, None for the base. Images outside the
                adapter's domain get the base, too.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        chosen = self._adapter(adapter)
        with self._lock, torch.inference_mode():
            features = self._encode(group)
            tokenizer = self.adapters.select(chosen, features)
            yield ModelSession(self._model, tokenizer, features, self.adapters)

    def _adapter(self, version: str | None) -> Adapter | None:
        chosen = None if version is None else self.adapters.get(version)
        if version is not None and chosen is None:
            raise CheckpointError(f"adapter: {version!r} is not loaded")
        return chosen

    def _predict(self, group: ImageGroup, wording: int, version: str | None) -> GroupPrediction:
        with self.acquire(group, adapter=version) as session:
            return self._finish(group, session, wording, version)

    def _finish(
        self,
        group: ImageGroup,
        session: ModelSession,
        wording: int,
        version: str | None,
        *,
        answers: Sequence[GeneratedAnswer] | None = None,
    ) -> GroupPrediction:
        predicted = predict_regions(
            session.model,
            session.tokenizer,
            session.features,
            group.sizes_hw,
            images=group.images,
            wording=wording,
            asks_language=session.asks_language,
            is_familiar=session.is_familiar,
            answers=answers,
        )
        texts = {kind.value: text for kind, text in predicted.texts.items()}
        prediction = GroupPrediction(
            predicted.parts, version or self.version, texts, predicted.phrases
        )
        return prediction if self.confidence is None else self.confidence.apply(prediction)

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        """Features of a group's images, from the caches where these have them."""
        key = " ".join(group.keys)
        features = self._group_features.get(key)
        if features is not None:
            self.features.touch(group.keys)  # the next click is on a single image of the group
        else:
            features = concatenate(self._encode_each(group))
            if len(group) > 1:
                self._group_features.put(key, features)
        return features

    def _encode_each(self, group: ImageGroup) -> list[ImageFeatures]:
        """Features of each image of a group; those that are not cached are encoded in batches."""
        cached = [self.features.get(key) for key in group.keys]
        missing = [i for i, features in enumerate(cached) if features is None]
        for start in range(0, len(missing), self._images_at_once):
            batch = missing[start : start + self._images_at_once]
            pixels = to_pixels([group.images[i] for i in batch], self._model.config)
            encoded = self._model.encode(pixels.to(self._device))
            for row, i in enumerate(batch):
                features = encoded.image(row)
                cached[i] = features
                self.features.put(group.keys[i], features)
        return [features for features in cached if features is not None]


def load_predictor(
    folder: Path = DEFAULT_WEIGHTS,
    *,
    device: str = "cpu",
    threads: int | None = None,
    precision: Precision | None = None,
    encodes_apart: bool = False,
    cache_bytes: int = FEATURE_CACHE_BYTES,
    on_plan: Callable[[MemoryPlan], None] = lambda _: None,
) -> Predictor:
    """Loads a model folder, after a check that the model fits the device.

    Args:
        folder: config.json, model.safetensors, tokenizer.json; or released checkpoints.
        device: torch device.
        threads: CPU threads of one forward; None leaves torch's choice.
        precision: of the weights; None takes the best that fits the device.
        encodes_apart: encode every image by itself, so that not even the last bit of its features
            depends on the images beside it; slower on a GPU.
        cache_bytes: of the features of images kept on the device.
        on_plan: called with the memory plan before a large model is loaded.

    Raises:
        CheckpointError: missing or damaged weights.
        InvalidConfigError: a wrong configuration, or a device this machine does not have.
        InsufficientMemoryError: the model does not fit the device.
    """
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_folder(folder, device, precision=precision, cache_bytes=cache_bytes)
    if plan is not None:
        on_plan(plan)
    placement = usual_placement(device, precision) if plan is None else plan.placement
    if placement.precision.is_quantised:
        check_kernels(placement.precision, torch.device(device))
    model, tokenizer = load_model(folder, placement=placement)
    version = f"{model.config.name}-{fingerprint(folder)[:8]}"
    if placement.precision is not Precision.FP32:
        version += f"-{placement.precision}"  # other precisions give other predictions
    if model.config.query_source != "seg":
        span_head_of(model)  # refuses weights without one at once
        version += f"-{model.config.query_source}"
    return Predictor(
        model,
        tokenizer,
        version=version,
        device=device,
        cache_bytes=cache_bytes,
        images_at_once=1 if encodes_apart else placement.images_at_once,
        confidence=read_confidence(folder),
    )


def check_device(device: str) -> None:
    """Checks that this machine has a device.

    Raises:
        InvalidConfigError: the machine does not have the device.
    """
    gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    is_available = device == "cpu" or device in gpus or (device == "cuda" and bool(gpus))
    if not is_available:
        raise InvalidConfigError(
            f"device: expected cpu, or cuda with one of this machine's {len(gpus)} GPUs, "
            f"got {device!r}"
        )
