"""`calico doctor`: checks a live set-up and says what to fix.

With --model it prints the memory that a model needs instead, without loading the model. The checks
are in diagnosis.py and backend_checks.py; this module prints their results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from backend.cli.backend_checks import CheckResult, Level
from backend.cli.connect import (
    BackendUrlOption,
    KeyOption,
    PasswordOption,
    UrlOption,
    UserOption,
)
from backend.cli.diagnosis import examine
from backend.cli.options import ServerDeviceOption, command_settings
from backend.cli.tables import print_fitted, wrapped
from backend.settings import Settings
from calico_model.loading.precision import Precision
from calico_model.types import MAX_GROUP_SIZE

if TYPE_CHECKING:
    from calico_model.config import CalicoConfig

_INDENT = " " * 6
_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    project: Annotated[
        int | None, typer.Option(help="Look at this project; default: every connected one.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    backend_url: BackendUrlOption = None,
    user: UserOption = None,
    password: PasswordOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Plan a model's memory instead: 7b, or a folder.", metavar="7b|DIR"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Look at a source of masks instead: a name of docs/sources.md, or a folder.",
            metavar="NAME|DIR",
        ),
    ] = None,
    gpu_gb: Annotated[
        float | None, typer.Option(help="Plan for a GPU of this size instead of this machine.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Plan for this number format; the best that fits if not given."),
    ] = None,
    device: ServerDeviceOption = None,
    images: Annotated[
        int, typer.Option(help="Images of the largest group.", min=1, max=MAX_GROUP_SIZE)
    ] = MAX_GROUP_SIZE,
) -> None:
    """Check a live set-up and say what to fix. Run it where the backend runs.

    Set the same variables as for `calico serve`. What this shell cannot know is reported as not
    checked. The exit status is 1 if something does not work.

    Example: calico doctor --project 7

    With --model it plans memory instead and loads nothing. It shows the parameters of the model,
    the memory that each precision takes, and where its parts would go on this machine or on a GPU
    of --gpu-gb. The exit status is 2 if the model does not fit.

    Example: calico doctor --model 7b --gpu-gb 24

    With --source it shows the licence, size and memory of a source of masks, and the seconds per
    image on this machine: measured where its weights are here, else expected. The exit status is 1
    if its folder cannot be used.

    Example: calico doctor --source sam2.1-tiny
    """
    settings = command_settings(
        device=device,
        label_studio_url=url,
        label_studio_api_key=api_key,
        basic_auth_user=user,
        basic_auth_password=password,
    )
    if source is not None:
        from backend.cli.source_check import check_source

        raise typer.Exit(0 if check_source(source, settings) else 1)
    if model is not None:
        _plan(model, settings, gpu_gb, precision, images)
        return
    findings = list(examine(settings, backend_url, project))
    has_failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        report = {"ok": not has_failed, "findings": findings}
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show(findings)
    raise typer.Exit(1 if has_failed else 0)


def _plan(
    model: str, settings: Settings, gpu_gb: float | None, precision: Precision | None, images: int
) -> None:
    """Prints a model's parameters and memory; the last line of stdout is JSON."""
    # torch takes seconds to import: a check of a live set-up does not need it.
    from backend.cli import memory_tables
    from calico_model.loading.fitting import card_bytes, choose_placement, usable_bytes
    from calico_model.predictor import check_device

    config = _config(model)
    print_fitted(
        memory_tables.parameter_rows(config),
        memory_tables.precision_rows(config, images),
        memory_tables.card_rows(config, images),
    )
    if gpu_gb is None:
        check_device(settings.device)
        device, available = settings.device, usable_bytes(settings.device)
    else:
        device, available = "cuda", card_bytes(gpu_gb)
    plan = choose_placement(config, device, available, precision=precision, images=images)
    print_fitted(memory_tables.plan_table(plan))
    outcome = {
        "model": config.name,
        "device": device,
        "precision": plan.placement.precision,
        "encoders_on_cpu": plan.placement.are_encoders_offloaded,
        "images_at_once": min(images, plan.placement.images_at_once),
        "weights_gib": round(plan.weight_bytes / 2**30, 2),
        "peak_gib": round(plan.peak_bytes(device) / 2**30, 2),
        "available_gib": round(available / 2**30, 2),
    }
    typer.echo(json.dumps(outcome))


def _config(model: str) -> CalicoConfig:
    from calico_model.loading.fitting import folder_config
    from calico_model.presets import full

    return full() if model == "7b" else folder_config(Path(model))


def _show(findings: list[CheckResult]) -> None:
    """Prints what each check found, and below it what to do; no name is ever broken or cut."""
    console = Console(markup=False, highlight=False)
    for finding in findings:
        level = finding.level.value.ljust(len(_INDENT))
        lines = wrapped(f"{level}{finding.check}: {finding.found}", console.width, _INDENT)
        if finding.fix:
            lines += wrapped(f"{_INDENT}To do: {finding.fix}", console.width, _INDENT)
        text = Text("\n".join(lines))
        text.stylize(_COLOURS[finding.level], 0, len(_INDENT))
        console.print(text, soft_wrap=True)
