"""The one thing to call to see: a group of images in, named masks out.

Owns the loaded model and its feature cache; one prediction runs at a time, guarded by a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.answers import answer, draw
from calico_model.inference.confidence import Confidence, read_confidence
from calico_model.inference.images import to_photo, to_pixels
from calico_model.inference.likelihood import Likelihood
from calico_model.inference.teacher_forcing import read_answers
from calico_model.interactive.name_prompts import CalledParts
from calico_model.loading.checkpoints import fingerprint, load_model
from calico_model.loading.fitting import plan_folder, usual_placement
from calico_model.loading.memory_plan import FEATURE_CACHE_BYTES, MemoryPlan
from calico_model.loading.precision import Precision
from calico_model.loading.quantisation import check_kernels
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.features import FeatureCache, ImageFeatures, concatenate
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import MAX_GROUP_SIZE, GroupPrediction, ImageGroup, RegionKind, RgbImage

_STACKED_SHARE = 8  # of the feature cache, one eighth holds the groups that were asked about last
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "calico-tiny"


@dataclass(frozen=True, eq=False)
class ModelSession:
    """The model on a group, for as long as it is held.

    Attributes:
        model: wears the adapter that was asked for.
        tokenizer: of the model and the adapter.
        features: of the group's images, in order.
        speaks: whether the language model is to be asked about them.
        is_familiar: whether they are like those that the base learned from.
    """

    model: Calico
    tokenizer: Tokenizer
    features: ImageFeatures
    speaks: bool = True
    is_familiar: bool = True


class Predictor:
    """CALICO with one set of weights and any number of adapters.

    Attributes:
        version: names the weights; stamped on every prediction of the bare base.
        adapters: what can be named in `predict`; any thread may add and drop.
        called: names that were called on groups; use it while `acquire`.
        confidence: turns what the network says about its regions into scores; None leaves the
            plain product of predicted IoU and phrase probability.
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
        self.features = FeatureCache(cache_bytes - cache_bytes // _STACKED_SHARE)
        self._stacked = FeatureCache(cache_bytes // _STACKED_SHARE)  # of whole groups
        self.adapters = AdapterSet(model, tokenizer)
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self.called = CalledParts()
        self._lock = threading.Lock()  # guards the model, and `called`: one forward at a time

    def predict(self, group: ImageGroup, *, adapter: str | None = None) -> GroupPrediction:
        """Asks all three questions about a group.

        Args:
            group: 1 to 8 images.
            adapter: version in `adapters` to answer with, None for the bare base. The answer is
                of that version and says so, whatever is added or dropped meanwhile.

        Returns:
            Regions in the original pixel frame of their image, objects first; empty masks are
            left out.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        return self._answer(group, 0, adapter)

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        """Asks the three questions in the given one of their wordings; else as `predict`."""
        return self._answer(group, wording, None)

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

    def force(self, group: ImageGroup, answers: Mapping[RegionKind, str]) -> GroupPrediction:
        """Draws the masks of given answers, as if the model had said them (teacher forcing).

        Args:
            group: 1 to 8 images.
            answers: per question, text in the grammar of prompts.py.

        Returns:
            Regions in answer order; unlike in `predict`, empty masks are kept.
        """
        with self.acquire(group) as session:
            parts = draw(
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
            read = read_answers(
                session.model, session.tokenizer, session.features, questions, answers
            )
        return read.likelihoods

    @contextmanager
    def acquire(self, group: ImageGroup, *, adapter: str | None = None) -> Iterator[ModelSession]:
        """Holds the model on a group's features; nothing else uses it until the block ends.

        Args:
            group: 1 to 8 images; only those without cached features are encoded.
            adapter: version in `adapters`, None for the bare base; the base answers where the
                adapter's domain ends, too.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        chosen = None if adapter is None else self.adapters.get(adapter)
        if adapter is not None and chosen is None:
            raise CheckpointError(f"adapter: {adapter!r} is not loaded")
        with self._lock, torch.inference_mode():
            features = self._encode(group)
            tokenizer = self.adapters.select(chosen, features)
            speaks, is_familiar = (
                self.adapters.uses_language_model(features),
                self.adapters.is_familiar(features),
            )
            yield ModelSession(self._model, tokenizer, features, speaks, is_familiar)

    def _answer(self, group: ImageGroup, wording: int, version: str | None) -> GroupPrediction:
        with self.acquire(group, adapter=version) as session:
            answered = answer(
                session.model,
                session.tokenizer,
                session.features,
                group.sizes_hw,
                images=group.images,
                wording=wording,
                asks=session.speaks,
                is_familiar=session.is_familiar,
            )
        texts = {kind.value: text for kind, text in answered.texts.items()}
        found = GroupPrediction(answered.parts, version or self.version, texts)
        return found if self.confidence is None else self.confidence.apply(found)

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        key = " ".join(group.keys)
        stacked = self._stacked.get(key)
        if stacked is not None:
            self.features.touch(group.keys)  # a click asks about one image of the group
        else:
            stacked = concatenate(self._encode_each(group))
            if len(group) > 1:
                self._stacked.put(key, stacked)
        return stacked

    def _encode_each(self, group: ImageGroup) -> list[ImageFeatures]:
        found = [self.features.get(key) for key in group.keys]
        missing = [i for i, item in enumerate(found) if item is None]
        for start in range(0, len(missing), self._images_at_once):
            several = missing[start : start + self._images_at_once]
            pixels = to_pixels([group.images[i] for i in several], self._model.config)
            fresh = self._model.encode(pixels.to(self._device))
            for row, i in enumerate(several):
                one = fresh.image(row)
                found[i] = one
                self.features.put(group.keys[i], one)
        return [item for item in found if item is not None]


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
        confidence=read_confidence(folder),
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
