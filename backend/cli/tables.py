"""Tables that can be read and copied from at any width of the terminal.

A table that is wider than the terminal is turned on its side, rows for columns. If that is too
wide as well, every row becomes a block with one line per value. So no value is ever cut, and an
identifier is never broken over two lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from copy import copy

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_INDENT, _GAP = "  ", 2
_ANY_WIDTH = 10_000
_LISTED = 20


def print_fitted(*shown: RenderableType, to_stderr: bool = False) -> None:
    """Prints tables and texts, fitted to the width of the terminal.

    Args:
        shown: tables, texts, or groups of them. The cells are plain text, not rich's markup.
        to_stderr: for tables beside a command's result.
    """
    console = Console(stderr=to_stderr, markup=False, highlight=False, emoji=False)
    for part in fitted(console, *shown):
        console.print(part, soft_wrap=True)


def tell_list(what: str, lines: Sequence[str]) -> None:
    """Says a list to people, cut where it gets long; nothing if it is empty."""
    if not lines:
        return
    typer.echo(f"{what}: {len(lines)}", err=True)
    for line in lines[:_LISTED]:
        typer.echo(f"  {line}", err=True)
    if len(lines) > _LISTED:
        typer.echo(f"  and {len(lines) - _LISTED} more", err=True)


def fitted(console: Console, *shown: RenderableType) -> Iterator[RenderableType]:
    """Yields what `console` shows of tables and texts: each is at most as wide as it.

    A word that is longer than the console is wide is kept whole: the terminal folds it, and it
    is copied as one.
    """
    for index, part in enumerate(_flat(shown)):
        if isinstance(part, Table):
            if index and part.title is not None:
                yield Text()
            yield from _lines(part.title, console.width)
            yield _fitted_table(console, part)
            yield from _lines(part.caption, console.width)
        elif isinstance(part, str):
            yield from _lines(part, console.width)
        else:
            yield part


def _flat(shown: Iterable[RenderableType]) -> Iterator[RenderableType]:
    for part in shown:
        if isinstance(part, Group):
            yield from _flat(part.renderables)
        else:
            yield part


def _fitted_table(console: Console, table: Table) -> RenderableType:
    """Returns the table as it is, on its side, or as blocks: the first that fits."""
    bare = copy(table)
    bare.title = bare.caption = None
    for candidate in (bare, _on_its_side(bare)):
        options = console.options.update(max_width=_ANY_WIDTH)
        if console.measure(candidate, options=options).maximum <= console.width:
            return candidate
    return Text("\n".join(_blocks(bare, console.width)))


def _on_its_side(table: Table) -> Table:
    """Returns the same table with one column for each row."""
    heads, rows = _heads(table), _rows(table)
    turned = Table(show_header=table.show_header)
    turned.add_column(heads[0])
    for row in rows:
        turned.add_column(row[0], justify="right")
    for index, head in enumerate(heads[1:], start=1):
        turned.add_row(head, *(row[index] for row in rows))
    return turned


def _blocks(table: Table, width: int) -> Iterator[str]:
    """Yields the lines of a table as one block per row: its first cell, then name and value."""
    heads = _heads(table)
    label_width = max(map(len, heads[1:]), default=0) + _GAP
    for row in _rows(table):
        yield from wrapped(f"{heads[0]} {row[0]}".strip(), width, _INDENT)
        for head, value in zip(heads[1:], row[1:], strict=True):
            if value:
                start = _INDENT + head.ljust(label_width)
                yield from wrapped(start + " ".join(value.split()), width, " " * len(start))


def _heads(table: Table) -> list[str]:
    """Names of the columns in one line each, for where they are names of rows."""
    return [" ".join(str(column.header).split()) for column in table.columns]


def _rows(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*(map(str, column.cells) for column in table.columns), strict=True))


def _lines(text: object, width: int) -> Iterator[Text]:
    """Yields a text with its own line ends kept, and further ones where it is too wide."""
    if text is not None:
        lines = (line for own in str(text).split("\n") for line in wrapped(own, width, ""))
        yield Text("\n".join(lines))


def wrapped(line: str, width: int, indent: str) -> list[str]:
    """Returns a line broken at spaces alone; further lines begin with `indent`."""
    broken = textwrap.wrap(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return broken or [""]
