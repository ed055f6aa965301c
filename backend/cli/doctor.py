"""`calico doctor`: looks at a live set-up from both ends and says what to fix, in plain words.

Changes nothing anywhere. The checks are in diagnosis.py; here they are shown.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from backend.cli.connect import (
    BackendUrlOption,
    KeyOption,
    PasswordOption,
    UrlOption,
    UserOption,
)
from backend.cli.diagnosis import Finding, Level, examine
from backend.settings import load_settings

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
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, no table.")] = False,
) -> None:
    """Check a live set-up and say what to fix. Run it where the backend runs.

    Ends with status 1 if something does not work.
    """
    settings = load_settings(
        label_studio_url=url,
        label_studio_api_key=api_key,
        basic_auth_user=user,
        basic_auth_password=password,
    )
    findings = list(examine(settings, backend_url, project))
    has_failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        report = {"ok": not has_failed, "findings": findings}
        typer.echo(msgspec.json.encode(report).decode())
    else:
        Console().print(_table(findings))
    raise typer.Exit(1 if has_failed else 0)


def _table(findings: list[Finding]) -> Table:
    table = Table("", "check", "found", "what to do", show_lines=False)
    for finding in findings:
        level = f"[{_COLOURS[finding.level]}]{finding.level.value}[/]"
        table.add_row(level, finding.check, finding.found, finding.fix)
    return table
