"""The sources that can be added: their names, their public repositories, and who reads them.

Loads without torch or `transformers`; a class of either is imported when a source is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from calico_model.errors import CalicoError, CheckpointError, InvalidConfigError
from calico_model.sources.hub_folder import HubFolder, look_into
from calico_model.sources.known import KNOWN_SOURCES, KnownSource, SourceKind
from calico_model.sources.source import OWN_SOURCE

if TYPE_CHECKING:
    from calico_model.sources.detection import Detector
    from calico_model.sources.source import Source

LOADING = threading.RLock()
"""Held by every thread while it imports and reads a network of `transformers`.

Neither is safe in two threads at once: while `transformers` is imported, a lazy module takes its
place, and another thread cannot import from it; while a network is read, tensors of another one
that is read beside it can count as missing.
"""

Opener = Callable[[str, HubFolder, str, str], "Source"]
"""Name, folder, licence and device -> the source."""

_UNSTATED = "not stated: see the page of its weights"


@dataclass(frozen=True)
class SourceChoice:
    """One source that a deployment wants.

    Attributes:
        name: unique among them.
        folder: in the hub's layout.
        known: the row of that name, or None for weights of one's own.
        masks: the source of masks of a detector, written DETECTOR+MASKS, or the DINO of a CLIP,
            written CLIP+DINO; else None.
    """

    name: str
    folder: Path
    known: KnownSource | None
    masks: SourceChoice | None = None


def read_choices(entries: Sequence[str], sources_dir: Path) -> tuple[SourceChoice, ...]:
    """Returns what a list of sources means; opens nothing.

    Args:
        entries: each a known name, a folder, or NAME=FOLDER; DETECTOR+MASKS for a detector.
        sources_dir: where the folder of a known name lies.

    Raises:
        InvalidConfigError: an unknown name, or a name that is there twice.
    """
    choices: dict[str, SourceChoice] = {}
    for entry in entries:
        choice = _read_choice(entry, sources_dir)
        if choice.name in choices or choice.name == OWN_SOURCE:
            raise InvalidConfigError(
                f"{entry!r}: the name {choice.name!r} is taken; give another with NAME=FOLDER"
            )
        choices[choice.name] = choice
    return tuple(choices.values())


def _read_choice(entry: str, sources_dir: Path) -> SourceChoice:
    head, plus, tail = entry.partition("+")
    if plus:
        detector, masks = _read_choice(head, sources_dir), _read_choice(tail, sources_dir)
        name = detector.name if "=" in head else f"{detector.name}+{masks.name}"
        return replace(detector, name=name, masks=masks)
    name, separator, folder = entry.partition("=")
    if separator:
        if not name or not folder:
            raise InvalidConfigError(f"{entry!r}: expected NAME=FOLDER")
        return SourceChoice(name, _as_folder(folder), KNOWN_SOURCES.get(name))
    if (known := KNOWN_SOURCES.get(entry)) is not None:
        return SourceChoice(entry, sources_dir / entry, known)
    path = _as_folder(entry)
    if path.is_absolute() or len(path.parts) > 1 or entry.startswith("."):
        return SourceChoice(path.resolve().name, path, None)
    raise InvalidConfigError(f"{entry!r}: expected a folder, or one of {', '.join(KNOWN_SOURCES)}")


def _as_folder(text: str) -> Path:
    """The folder that is written; a shell expands no ~ behind NAME= or a comma."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        raise InvalidConfigError(f"{text!r}: expected a folder, got the home of nobody") from None


def open_source(choice: SourceChoice, device: str = "cpu") -> Source:
    """Reads the weights of a source.

    Raises:
        CheckpointError: no folder, or not the files of a class that is known here.
        InvalidConfigError: a detector with a source of masks that answers no boxes.
    """
    try:
        with LOADING:
            return _open(choice, device)
    except CalicoError:
        raise
    except Exception as error:  # a configuration may hold anything, and classes trust it
        raise CheckpointError(
            f"{choice.folder}: cannot be read: {type(error).__name__}: {error}"
        ) from error


def _open(choice: SourceChoice, device: str) -> Source:
    try:
        folder = look_into(choice.folder)
    except CheckpointError as error:
        if choice.known is None:
            raise
        raise CheckpointError(f"{error}, of {choice.known.repository} on the hub") from error
    kind = kind_of(choice, folder)
    licence = folder.licence or (choice.known.licence if choice.known else _UNSTATED)
    if kind is SourceKind.CASS:
        return _open_cass(choice, folder, licence, device)
    if kind.is_detector or choice.masks is not None:
        return _open_detector(choice, kind, folder, licence, device)
    return _opener(kind)(choice.name, folder, licence, device)


def _open_cass(choice: SourceChoice, folder: HubFolder, licence: str, device: str) -> Source:
    if choice.masks is None:
        raise CheckpointError(
            f"{choice.name}: expected CLIP and the folder of a DINO, such as "
            "cass=/models/clip-vit-base-patch16+/models/dino-vitb8, got CLIP alone"
        )
    from calico_model.sources.cass_source import open_cass

    return open_cass(choice.name, folder, look_into(choice.masks.folder), licence, device)


def _open_detector(
    choice: SourceChoice, kind: SourceKind, folder: HubFolder, licence: str, device: str
) -> Source:
    if choice.masks is None or not kind.is_detector:
        raise CheckpointError(
            f"{choice.name}: expected a detector and a source of masks, such as "
            f"owlv2-base+sam-base, got {kind} {'alone' if choice.masks is None else 'as detector'}"
        )
    from calico_model.sources.detection import open_detector_source

    masks = open_source(choice.masks, device)
    return open_detector_source(
        choice.name, _load_detector(kind, folder, device), masks, folder.digest(), licence
    )


def _load_detector(kind: SourceKind, folder: HubFolder, device: str) -> Detector:
    if kind is SourceKind.OWLV2:
        from calico_model.sources.owlv2 import load_owlv2

        return load_owlv2(folder, device)
    from calico_model.sources.grounding_dino import load_grounding_dino

    return load_grounding_dino(folder, device)


def kind_of(choice: SourceChoice, folder: HubFolder) -> SourceKind:
    """Returns which class reads a folder.

    Raises:
        CheckpointError: none does, or not the class of the source's name.
    """
    fitting = _KINDS_OF_TYPE.get(folder.model_type, ())
    if not fitting:
        raise CheckpointError(
            f"{folder.path}: no source has the model type {folder.model_type!r}; expected one of "
            f"{', '.join(_KINDS_OF_TYPE)}"
        )
    if choice.known is None:
        return fitting[0]
    if choice.known.kind not in fitting:
        raise CheckpointError(
            f"{folder.path}: {choice.name} is {choice.known.kind}, and its config.json says "
            f"{folder.model_type}"
        )
    return choice.known.kind


# The hub keeps one folder for several uses: the first kind reads it where no name says which.
_KINDS_OF_TYPE: Mapping[str, tuple[SourceKind, ...]] = {
    "sam": (SourceKind.SAM,),
    "sam_hq": (SourceKind.SAM_HQ,),
    "sam3": (SourceKind.SAM3,),
    "sam3_lite_text": (SourceKind.SAM3,),
    "sam3_video": (SourceKind.SAM3, SourceKind.SAM3_TRACKER),
    "grounding-dino": (SourceKind.GROUNDING_DINO,),
    "owlv2": (SourceKind.OWLV2,),
    "clip": (SourceKind.CASS,),
    "sam2": (SourceKind.SAM2,),
    "sam2_video": (SourceKind.SAM2,),
    "edgetam": (SourceKind.EDGETAM,),
    "edgetam_video": (SourceKind.EDGETAM,),
    "sam3_tracker": (SourceKind.SAM3_TRACKER,),
    "sam3_tracker_video": (SourceKind.SAM3_TRACKER,),
}


def _opener(kind: SourceKind) -> Opener:
    match kind:
        case SourceKind.SAM | SourceKind.SAM_HQ:
            from calico_model.sources.sam import open_sam

            return open_sam
        case SourceKind.SAM3:
            from calico_model.sources.sam3 import open_sam3

            return open_sam3
        case SourceKind.SAM2:
            from calico_model.sources.sam2_series import open_sam2_series

            return open_sam2_series
        case SourceKind.EDGETAM:
            from calico_model.sources.sam2 import open_edgetam

            return open_edgetam
        case SourceKind.SAM3_TRACKER:
            from calico_model.sources.sam2 import open_sam3_tracker

            return open_sam3_tracker
        case _:
            raise CheckpointError(f"{kind}: expected a class that answers alone")
