"""Adapters: the trainable tensors of a model, selected by name, written, read and checked.

An adapter holds LoRA, CAMs, CEM, query tokens, the dense head and, by choice, SAM's mask decoder.
An untrained adapter changes nothing: LoRA's second matrix, CEM's output and both CAM maps are zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.errors import CheckpointError
from calico_model.modeling.dense_head import WIDTH, DenseNames, DenseRows, ObjectClassifier
from calico_model.modeling.domain import Domain, style_width
from calico_model.modeling.model import Calico
from calico_model.staging import file_sha256, staged_folder

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LORA = (".lora_A.", ".lora_B.")
INPUT_ROWS, OUTPUT_ROWS = "label_rows.input", "label_rows.output"
DOMAIN_WEIGHT, DOMAIN_BIAS = "domain.weight", "domain.bias"
DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST = "dense_rows", "dense_pairs", "dense_trust"
DENSE_SHIFT = "dense_shift"
DENSE_CLASSIFIER = tuple(f"dense_classifier.{f.name}" for f in fields(ObjectClassifier))


@dataclass(frozen=True)
class AdapterScope:
    """The parts of a model that an adapter holds.

    Attributes:
        lora, cam, cem, queries: the paper's trainable parts.
        mask_decoder: SAM's decoder, trained in the paper, too.
        projection: layers from a [SEG] state to a prompt; the paper counts them as frozen.
        dense_head: the dense head, if the model has one.
    """

    lora: bool = True
    cam: bool = True
    cem: bool = True
    queries: bool = True
    mask_decoder: bool = True
    projection: bool = False
    dense_head: bool = True


@dataclass(frozen=True, eq=False)
class Adapter:
    """Trained tensors as an immutable value.

    Attributes:
        scope: the parts it holds.
        tensors: by parameter name, float32 on the CPU. Besides the parameters of the scope:
            with labels (n, D) `INPUT_ROWS` and `OUTPUT_ROWS`, the rows of the n labels in the
            embedding and in the output head; with a domain `DOMAIN_WEIGHT` and `DOMAIN_BIAS`;
            with dense names (rows, W) `DENSE_ROWS`, (parts, parts) `DENSE_PAIRS`, (1,)
            `DENSE_TRUST` and (2,) `DENSE_SHIFT` of `DenseRows` (older adapters lack the shift),
            and, with two or more objects, `DENSE_CLASSIFIER` of `ObjectClassifier`.
        labels: names that have a reserved token, in the order of the rows.
        dense: names of the rows of the dense head.
    """

    scope: AdapterScope
    tensors: Mapping[str, Tensor]
    labels: tuple[str, ...] = ()
    dense: DenseNames = field(default_factory=DenseNames)

    @property
    def domain(self) -> Domain | None:
        """The pictures that the adapter is for; None means all."""
        if DOMAIN_WEIGHT not in self.tensors:
            return None
        return Domain(self.tensors[DOMAIN_WEIGHT], self.tensors[DOMAIN_BIAS])

    @property
    def dense_rows(self) -> DenseRows | None:
        """The class rows for the dense head; None without dense names."""
        if not self.dense:
            return None
        tensors = self.tensors
        classifier = None
        if DENSE_CLASSIFIER[0] in tensors:
            classifier = ObjectClassifier(*(tensors[name] for name in DENSE_CLASSIFIER))
        trust = float(tensors[DENSE_TRUST])
        shift = tensors[DENSE_SHIFT].tolist() if DENSE_SHIFT in tensors else (0.0, 0.0)
        return DenseRows(
            self.dense,
            tensors[DENSE_ROWS],
            tensors[DENSE_PAIRS],
            trust,
            classifier,
            (shift[0], shift[1]),
        )

    def renamed(self, names: Mapping[str, str]) -> Adapter:
        """Returns the adapter with other names for what it has learned; its tensors stay.

        Args:
            names: old name -> new name. A new name that the adapter knows already is left out: two
                rows cannot have one name.
        """
        dense = self.dense
        return replace(
            self,
            labels=_renamed(self.labels, names),
            dense=DenseNames(_renamed(dense.parts, names), _renamed(dense.objects, names)),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


def _renamed(known: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
    taken = set(known)
    renamed = []
    for name in known:
        new = names.get(name, name)
        renamed.append(name if new in taken else new)
        taken.add(renamed[-1])
    return tuple(renamed)


def classifier_tensors(classifier: ObjectClassifier) -> dict[str, Tensor]:
    """Returns the tensors of an object classifier under their names in an adapter."""
    values = (classifier.mean, classifier.scale, classifier.weight, classifier.bias)
    return dict(zip(DENSE_CLASSIFIER, values, strict=True))


def adapter_names(model: Calico, scope: AdapterScope | None = None) -> tuple[str, ...]:
    """Names of the parameters of a scope, in model order."""
    scope = scope or AdapterScope()
    wanted = {
        "cams.": scope.cam,
        "cem.": scope.cem,
        "query_tokens": scope.queries,
        "mask_decoder.mask_decoder.": scope.mask_decoder,
        "segmentation_projection.": scope.projection,
        "dense_head.": scope.dense_head,
    }
    return tuple(
        name
        for name, _ in model.named_parameters()
        if (scope.lora and _is_lora(name))
        or any(on and name.startswith(prefix) for prefix, on in wanted.items())
    )


def mark_trainable(model: Calico, scope: AdapterScope | None = None) -> int:
    """Freezes all parameters outside a scope; returns how many numbers are trainable."""
    names = set(adapter_names(model, scope))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trainable_count(config: CalicoConfig) -> int:
    """Size of the paper's trainable parts by arithmetic alone (LoRA on q and v).

    SAM's prompt encoder is not trainable.
    """
    width, query = config.language.width, config.qformer.width
    lora = 2 * config.lora.rank * 2 * width * config.language.layers
    cam = config.cams * (2 * width * query + query + width)
    learned = config.qformer.queries * query
    return lora + _cem_count(config) + cam + learned + _decoder_count(config)


def _cem_count(config: CalicoConfig) -> int:
    eva, dino = config.eva.width, config.dino.width
    norms = 2 * eva + 2 * dino if config.cem_norms else 0
    projection = (dino + 1) * eva if config.cem_projection else 0
    keys = eva if config.cem_projection else dino
    return 2 * eva * (eva + 1) + 2 * keys * eva + 2 * eva + norms + projection


def _decoder_count(config: CalicoConfig) -> int:
    c, mlp = config.mask.prompt_width, config.mask.decoder_mlp
    full = 4 * c * (c + 1)
    half = 3 * (c * c // 2 + c // 2) + c // 2 * c + c
    block = full + 2 * half + 2 * c * mlp + mlp + c + 4 * 2 * c
    transformer = 2 * block + half + 2 * c
    up = c * (c // 4) * 4 + c // 4 + 2 * (c // 4) + (c // 4) * (c // 8) * 4 + c // 8
    hyper = 4 * (2 * c * (c + 1) + c * (c // 8) + c // 8)
    iou = c * 256 + 256 + 256 * 257 + 256 * 4 + 4
    return transformer + up + hyper + iou + 5 * c


def base_state(model: Calico) -> dict[str, Tensor]:
    """Returns the weights without LoRA by canonical name, free of peft's `.base_layer`."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not _is_lora(name)
    }


def write_adapter(
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    config: CalicoConfig,
    base: str,
    scope: AdapterScope,
    labels: Sequence[str] = (),
    dense: DenseNames | None = None,
) -> str:
    """Writes an adapter folder, whole or not at all.

    Args:
        state: as in `Adapter.tensors`.
        folder: replaced when it exists.
        config: of the model.
        base: fingerprint of the base weights that the adapter belongs to.
        scope: the parts it holds.
        labels, dense: as in `Adapter`.

    Returns:
        sha256 of the weights file.

    Raises:
        CheckpointError: the disk is full or refuses; an older folder stays.
    """
    notes = _lora_notes(config) | {"base": base, "scope": asdict(scope), "labels": list(labels)}
    notes["dense"] = asdict(dense or DenseNames())
    with staged_folder(folder) as staged:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, staged / _WEIGHTS)
        (staged / _WEIGHTS).chmod(0o644)  # written private; a service runs as another user
        (staged / _CONFIG).write_text(json.dumps(notes, indent=2) + "\n", "utf-8")
    return file_sha256(folder / _WEIGHTS)


def _lora_notes(config: CalicoConfig) -> dict[str, object]:
    """The settings without which LoRA's tensors have no meaning."""
    lora = config.lora
    return {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.targets),
    }


def load_adapter(model: Calico, folder: Path, *, base: str) -> None:
    """Copies a saved adapter into a model after checking base, LoRA, names, shapes and values.

    Raises:
        CheckpointError: missing or damaged file, another base, another LoRA rank, alpha or
            targets, wrong names or shapes, or rows of labels, which only `AdapterSet` serves.
    """
    adapter = read_adapter(model, folder, base=base)
    if adapter.labels or adapter.dense:
        raise CheckpointError(
            f"{folder.name}/{_CONFIG}: labels: expected none, got "
            f"{len(adapter.labels) or adapter.dense.rows}: rows of names stay beside the weights"
        )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            parameters[name].copy_(tensor)


def read_adapter(model: Calico, folder: Path, *, base: str) -> Adapter:
    """Reads a saved adapter and checks that it fits a model, which stays as it is.

    Raises:
        CheckpointError: as in `load_adapter`, labels excepted.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        labels = tuple(str(label) for label in config.get("labels", ()))
        dense = DenseNames(**{k: tuple(map(str, v)) for k, v in config.get("dense", {}).items()})
        scope = AdapterScope(**config["scope"])
        adapter = Adapter(scope, load_file(folder / _WEIGHTS), labels, dense)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder.name}: not a readable adapter: {error}") from error
    if config.get("base") != base:
        raise CheckpointError(
            f"{folder.name}/{_CONFIG}: base: expected {base[:12]}, "
            f"got {str(config.get('base'))[:12]}: the adapter belongs to other weights"
        )
    for key, expected in _lora_notes(model.config).items():
        if adapter.scope.lora and config.get(key) != expected:
            raise CheckpointError(
                f"{folder.name}/{_CONFIG}: {key}: expected {expected!r} as in the model, "
                f"got {config.get(key)!r}"
            )
    check_adapter(model, adapter, where=folder.name)
    return adapter


def check_adapter(model: Calico, adapter: Adapter, *, where: str = "adapter") -> None:
    """Checks that an adapter fits a model.

    Raises:
        CheckpointError: wrong names, shapes or values; `where` begins the message.
    """
    parameters = dict(model.named_parameters())
    wanted = {name: parameters[name].shape for name in adapter_names(model, adapter.scope)}
    wanted |= _extra_shapes(model, adapter)
    if odd := sorted(set(wanted) ^ set(adapter.tensors)):
        raise CheckpointError(f"{where}: {odd[0]}: missing or unexpected")
    for name, shape in wanted.items():
        tensor = adapter.tensors[name]
        if tensor.shape != shape or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: {name}: wrong shape or values")


def _extra_shapes(model: Calico, adapter: Adapter) -> dict[str, torch.Size]:
    """Shapes of an adapter's tensors that are no parameters: rows, classifier and domain."""
    wanted: dict[str, torch.Size] = {}
    if adapter.labels:
        rows = torch.Size((len(adapter.labels), model.config.language.width))
        wanted |= {INPUT_ROWS: rows, OUTPUT_ROWS: rows}
    if adapter.dense:
        wanted[DENSE_ROWS] = torch.Size((adapter.dense.rows, WIDTH))
        wanted[DENSE_TRUST] = torch.Size((1,))
        wanted[DENSE_PAIRS] = torch.Size((len(adapter.dense.parts),) * 2)
        if DENSE_SHIFT in adapter.tensors:
            wanted[DENSE_SHIFT] = torch.Size((2,))
    if set(DENSE_CLASSIFIER) & set(adapter.tensors) and model.dense_head is not None:
        width, count = model.dense_head.inputs[-1], len(adapter.dense.objects)
        sizes = ((width,), (width,), (count, width), (count,))
        wanted |= zip(DENSE_CLASSIFIER, map(torch.Size, sizes), strict=True)
    if {DOMAIN_WEIGHT, DOMAIN_BIAS} & set(adapter.tensors):
        wanted[DOMAIN_WEIGHT] = torch.Size((style_width(model.config),))
        wanted[DOMAIN_BIAS] = torch.Size((1,))
    return wanted


def _is_lora(name: str) -> bool:
    return any(mark in name for mark in _LORA)
