"""How `--help` is written: paragraphs that flow, and no option or name that is cut.

Typer's table of options cuts words that are wider than their column. Where a terminal is too narrow
for it, every option gets a line, and its explanation stands below.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand

from backend.cli.tables import wrapped

_LINE_STARTS = ("- ", "calico ")
_CUT = re.compile(r"[^\s,]…")  # "N,…" is a metavar
_INDENT = "    "


class WholeHelp(TyperCommand):
    """A command whose help is whole at any width of the terminal."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help: typer's tables, or plain lines where these would cut a word."""
        drawn = io.StringIO()
        with redirect_stdout(drawn):
            super().format_help(ctx, formatter)
        if _CUT.search(drawn.getvalue()) is None:
            super().format_help(ctx, formatter)
            return
        for line in self._lines(ctx, Console().width):
            formatter.write(f"{line}\n")

    def _lines(self, ctx: Any, width: int) -> Iterator[str]:
        yield from wrapped(" ".join(self.get_usage(ctx).split()), width, _INDENT)
        yield ""
        for line in Text.from_markup(self.help or "").plain.split("\n"):
            yield from wrapped(line, width, "  " if line.startswith(_LINE_STARTS) else "")
        records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        for names, text in filter(None, records):
            yield ""
            yield from wrapped(names, width, _INDENT)
            yield from wrapped(f"{_INDENT}{text}", width, _INDENT)


def flowing(docstring: str) -> str:
    """Joins the lines of every paragraph, so that a terminal of any width can break them.

    Items of lists and command lines keep lines of their own.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join("\n".join(_joined(part.split("\n"))) for part in paragraphs)


def _joined(lines: Sequence[str]) -> list[str]:
    joined: list[str] = []
    for line in lines:
        begins = line.startswith(_LINE_STARTS)
        follows_command = bool(joined) and joined[-1].startswith("calico ")
        if joined and not begins and not (follows_command and not line.startswith("--")):
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    return joined
