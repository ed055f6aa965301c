"""What `calico doctor --source` says about a source: licence, size, memory and seconds.

Where the weights are on this machine, an image is encoded and clicked on; else the seconds are
expected from the arithmetic of the encoder and how fast this machine multiplies matrices.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from backend.cli.tables import print_fitted
from backend.settings import Settings
from calico_model.errors import CalicoError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.known import KnownSource, SourceKind
from calico_model.sources.registry import SourceChoice, open_source, read_choices
from calico_model.sources.source import PromptSource, Source

_SIDE = 1024  # of the measured image, in pixels
_MATRIX, _MATRIX_REPEATS = 1024, 5
_SHARE_OF_PEAK = 0.5  # of the speed of matrix products, that a whole encoder reaches
_MIB = 2**20


@dataclass(frozen=True)
class SourceFigures:
    """What is known of a source; None where it is not.

    Attributes:
        source: name.
        folder: where its weights are, or should be.
        state: ready, missing, or why it cannot be used.
        licence: of the weights.
        parameters: number of parameters.
        weights_mib: of the weights in memory.
        encoding_mib: of one encoded image.
        encode_s: seconds to encode an image, once per image.
        prompt_s: seconds of a click on an encoded image.
        is_measured: whether the seconds were measured; else they are expected.
    """

    source: str
    folder: str
    state: str
    licence: str
    parameters: int | None
    weights_mib: float | None
    encoding_mib: float | None
    encode_s: float | None
    prompt_s: float | None
    is_measured: bool


def check_source(entry: str, settings: Settings) -> bool:
    """Prints the figures of a source; the last line of stdout is JSON.

    Args:
        entry: as in CALICO_SOURCES.
        settings: device, and the folder of known names.

    Returns:
        Whether the source can be used, or could if it were fetched.

    Raises:
        InvalidConfigError: no such source.
    """
    (choice,) = read_choices([entry], settings.sources_dir)
    parts = [choice] if choice.masks is None else [choice, choice.masks]
    rows = _rows(choice)
    if rows and not all(_is_there(part.folder) for part in parts):
        figures, is_usable = _expected(choice, rows, settings.device), True
    else:
        figures, is_usable = _measured(choice, settings.device)
    print_fitted(_table(figures))
    if figures.state == "missing":
        for part in parts:
            if part.known is not None and not _is_there(part.folder):
                typer.echo(f"calico fetch --source {part.known.name} brings the weights.")
        if any(row.kind is SourceKind.CASS for row in rows):
            typer.echo("The figures are those of CLIP with the DINO of facebook/dino-vitb8.")
    typer.echo(json.dumps(asdict(figures)))
    return is_usable


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:
        return True  # opening it says why it cannot be read


def _rows(choice: SourceChoice) -> tuple[KnownSource, ...]:
    """The rows that a source and its source of masks are known by; () if one is unknown.

    The row of CLIP counts the DINO that it needs as well.
    """
    if choice.known is None:
        return ()
    if choice.known.kind is SourceKind.CASS or choice.masks is None:
        return (choice.known,)
    return () if choice.masks.known is None else (choice.known, choice.masks.known)


def _expected(choice: SourceChoice, rows: Sequence[KnownSource], device: str) -> SourceFigures:
    speed = _multiplications_per_s(device) * _SHARE_OF_PEAK
    tflop = _sum([row.encode_tflop for row in rows])
    licences = [
        row.licence + (" (its owners must grant access)" if row.is_gated else "") for row in rows
    ]
    parameters = sum(row.parameters for row in rows) * 1e6
    return SourceFigures(
        choice.name,
        " and ".join(
            str(part.folder)
            for part in (choice, choice.masks)
            if part and not _is_there(part.folder)
        ),
        "missing",
        "; ".join(dict.fromkeys(licences)),
        round(parameters),
        round(parameters * 4 / _MIB, 1),
        _sum([row.encoding_mib for row in rows]),
        None if tflop is None else round(tflop * 1e12 / speed, 2),
        None,
        is_measured=False,
    )


def _sum(figures: Sequence[float | None]) -> float | None:
    """The sum, None where a figure is unknown."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None


def _measured(choice: SourceChoice, device: str) -> tuple[SourceFigures, bool]:
    try:
        source = open_source(choice, device)
    except CalicoError as error:
        failed = SourceFigures(
            choice.name,
            str(choice.folder),
            str(error),
            "" if choice.known is None else choice.known.licence,
            *(None, None, None, None, None),
            is_measured=False,
        )
        return failed, False
    described = source.describe()
    encoding_bytes, encode_s, prompt_s = _timed(source)
    figures = SourceFigures(
        choice.name,
        str(choice.folder),
        "ready",
        described.licence,
        described.parameters,
        round(described.parameters * 4 / _MIB, 1),
        round(encoding_bytes / _MIB, 2),
        round(encode_s, 3),
        None if prompt_s is None else round(prompt_s, 3),
        is_measured=True,
    )
    return figures, True


def _timed(source: Source) -> tuple[int, float, float | None]:
    """Bytes of an encoding, and seconds of encoding an image and of a click on it."""
    image = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    source.encode(image)  # the first call prepares what later ones use
    began = time.perf_counter()
    encoding = source.encode(image)
    encode_s = time.perf_counter() - began
    if not isinstance(source, PromptSource):
        return encoding.bytes, encode_s, None
    click = MaskPrompt((Click(_SIDE / 2, _SIDE / 2),))
    source.segment_prompt(encoding, click)
    began = time.perf_counter()
    source.segment_prompt(encoding, click)
    return encoding.bytes, encode_s, time.perf_counter() - began


def _multiplications_per_s(device: str) -> float:
    """Floating point operations per second of a float32 matrix product."""
    # torch takes seconds to import; a check of a live set-up does not need it.
    import torch

    matrix = torch.rand(_MATRIX, _MATRIX, device=device)
    best = float("inf")
    for _ in range(_MATRIX_REPEATS):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the result on a GPU, too
        best = min(best, time.perf_counter() - began)
    return 2 * _MATRIX**3 / best


def _table(figures: SourceFigures) -> Table:
    table = Table(title=f"Source {figures.source}: {figures.state}", show_header=False)
    table.add_column("what")
    table.add_column("value")
    unknown = "unknown"
    kind = "measured" if figures.is_measured else "expected"

    def shown(value: float | None, unit: str) -> str:
        return unknown if value is None else f"{value:g} {unit}"

    millions = None if figures.parameters is None else round(figures.parameters / 1e6, 2)
    table.add_row("folder", figures.folder)
    table.add_row("licence", figures.licence or unknown)
    table.add_row("parameters", shown(millions, "million"))
    table.add_row("memory of the weights", shown(figures.weights_mib, "MiB"))
    table.add_row("memory per encoded image", shown(figures.encoding_mib, "MiB"))
    table.add_row(f"seconds per image, {kind}", shown(figures.encode_s, "s"))
    table.add_row(f"seconds per click, {kind}", shown(figures.prompt_s, "s"))
    return table
