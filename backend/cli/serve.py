"""`calico serve`: the ML backend on gunicorn; options win over the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from backend._wsgi import run_server
from backend.cli.options import (
    DataDirOption,
    LogFormatOption,
    LogLevelOption,
    ServerDeviceOption,
    StudioUrlOption,
    command_settings,
)
from backend.errors import SettingsError
from backend.served_model import SHIPPED_WEIGHTS
from backend.settings import Settings, misspelt_variables
from calico_model.loading.precision import Precision

_WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")
_LARGE_BYTES = 2**30  # smaller weights fit wherever Python does


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [CALICO_HOST, 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on. [CALICO_PORT, 9090]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="DIR", help="Model folder. [CALICO_WEIGHTS, calico-tiny]"
        ),
    ] = None,
    device: ServerDeviceOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="Number format of the weights. [CALICO_PRECISION, the best that fits]",
        ),
    ] = None,
    data_dir: DataDirOption = None,
    label_studio_url: StudioUrlOption = None,
    trainer: Annotated[
        bool | None,
        typer.Option(
            "--trainer/--no-trainer",
            help="Learn from corrections in a process beside this one. [CALICO_TRAINER, yes]",
        ),
    ] = None,
    allow_open_bind: Annotated[
        bool,
        typer.Option("--allow-open-bind", help="Serve other machines without credentials."),
    ] = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Run the ML backend until Ctrl-C or SIGTERM.

    It says "ready at URL" and the next step when the model is loaded. On a terminal the log is
    plain text; in a file or a pipe every line is JSON.

    A second process beside it learns from corrections. With --no-trainer nothing is learned here:
    then `calico trainer` learns, elsewhere, on the same database and data folder.

    For large weights it prints first how much memory goes where, and refuses weights that do not
    fit.

    Example: calico serve --port 9090 --data-dir .calico

    Passwords and all other settings are environment variables: docs/settings.md lists them.
    """
    settings = command_settings(
        {"label_studio_url": "--label-studio-url"},
        host=host,
        port=port,
        weights=weights,
        device=device,
        precision=precision,
        data_dir=data_dir,
        label_studio_url=label_studio_url,
        trainer=trainer,
        allow_open_bind=allow_open_bind or None,
        log_level=log_level,
        log_format=None if log_format is None else log_format.value,
    )
    for name, likely in misspelt_variables().items():
        typer.secho(f"{name}: no such setting; did you mean {likely}?", fg="yellow", err=True)
    place = "CALICO_WEIGHTS" if weights is None else "--weights"
    _check_weights(settings.weights or SHIPPED_WEIGHTS, place)
    if settings.weights is not None and _is_large(settings.weights):
        _check_memory(settings)
    run_server(settings)


def _check_weights(folder: Path, place: str) -> None:
    """Refuses a folder without weights; whether they can be used is known when they are loaded."""
    if not folder.is_dir():
        raise SettingsError(f"{place}: expected a model folder, got {folder}")
    if not any(file.suffix in _WEIGHT_FILES for file in folder.rglob("*")):
        raise SettingsError(
            f"{place}: expected a model folder, but {folder} holds no weights "
            f"({', '.join(_WEIGHT_FILES)})"
        )


def _is_large(folder: Path) -> bool:
    return sum(file.stat().st_size for file in folder.rglob("*")) > _LARGE_BYTES


def _check_memory(settings: Settings) -> None:
    """Plans the weights in a process of its own: CUDA must not start before the server forks."""
    words = ["doctor", "--model", str(settings.weights), "--device", settings.device]
    if settings.precision is not None:
        words += ["--precision", settings.precision]
    checked = subprocess.run([sys.executable, "-m", "backend.cli", *words], stdout=sys.stderr)
    if checked.returncode:
        raise typer.Exit(checked.returncode)
