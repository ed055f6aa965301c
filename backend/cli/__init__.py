"""The `calico` command: the table of commands as a command line.

Only the module of the command that was asked for is imported, so `calico --help` needs no torch.
An error this product raises on purpose ends in one line and exit status 2, never in a traceback.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from backend.cli.commands import BRANCHES, COMMANDS, PANELS
from backend.cli.help_text import WholeHelp, flowing
from backend.errors import BackendError, SettingsError
from calico_model.errors import CalicoError

RESEARCH = "research"
PACKAGE = "calico-labeling"
_INTERRUPTED = 130  # what shells expect after Ctrl-C
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)  # writing to an open file names no file
_ROOT_HELP = """Outline and name the parts that groups of images share, inside Label Studio.

Each command explains itself: `calico COMMAND --help`."""


def main() -> None:
    """Runs `calico` with the arguments of this process."""
    arguments = sys.argv[1:]
    try:
        command_tree(arguments)(arguments, prog_name="calico")
    except (BackendError, CalicoError) as error:
        typer.secho(f"calico: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise  # not of a file, so a fault of ours
        place = "" if error.filename is None else f"{error.filename}: "
        typer.secho(f"calico: {place}{error.strerror}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # typer sees to it once a command runs; this is while it is loaded
        sys.exit(_INTERRUPTED)


def command_tree(arguments: Sequence[str]) -> typer.Typer:
    """Builds the command line; of its commands, only the one in `arguments` is loaded."""
    root = typer.Typer(
        cls=_InReadingOrder,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    root.callback(help=_ROOT_HELP)(_root)
    branches = {
        name: typer.Typer(no_args_is_help=True, help=summary)
        for name, (_, summary) in BRANCHES.items()
    }
    for command in COMMANDS:
        parent = branches.get(command.path[0], root)
        is_wanted = tuple(arguments[: len(command.path)]) == command.path
        function = load(command.target) if is_wanted else _not_loaded
        # Without escape, typer takes the extra in calico-labeling[servers] for a style.
        help_text = escape(flowing(function.__doc__ or "")) if is_wanted else command.summary
        panel = command.panel if parent is root else None
        parent.command(command.path[-1], cls=WholeHelp, help=help_text, rich_help_panel=panel)(
            function
        )
    for name, branch in branches.items():
        root.add_typer(branch, name=name, rich_help_panel=BRANCHES[name][0])
    return root


class _InReadingOrder(TyperGroup):
    """Lists the headings of `calico --help` in the order of `PANELS`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Returns the first words of all commands."""
        panels = {command.path[0]: command.panel for command in COMMANDS}
        panels |= {name: panel for name, (panel, _) in BRANCHES.items()}
        return sorted(panels, key=lambda name: PANELS.index(panels[name]))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"calico {installed_version()}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    """Takes the options of `calico` itself."""


def installed_version() -> str:
    """Version of the installed package; "unknown" where it runs without being installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"


def load(target: str) -> Callable[..., Any]:
    """Imports a function by "module:function".

    Raises:
        SettingsError: it belongs to `research`, which only a checkout of the repository has.
    """
    module, _, name = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not module.startswith(f"{RESEARCH}.") or not module.startswith(error.name or " "):
            raise
        raise SettingsError(
            "this command measures the product and is not part of the installed package; "
            "clone the repository, run `make install`, and call .venv/bin/calico there"
        ) from error
    return function


def _not_loaded() -> None:
    raise AssertionError("only the requested command is ever run")
