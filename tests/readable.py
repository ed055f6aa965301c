"""Whether what a command prints can be read and copied at some width of the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table

from backend.cli.tables import fitted

WIDTHS = (60, 80)


def rendered(width: int, *shown: RenderableType) -> str:
    """What a terminal of that width, without colours, shows of tables and texts."""
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for part in fitted(console, *shown):
        console.print(part, soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def check_readable(width: int, *shown: RenderableType) -> str:
    """Asserts that every word of every cell is whole, and every line as wide as the terminal.

    Returns:
        The text, for further checks.
    """
    text = rendered(width, *shown)
    words = set(text.split())
    for table in _tables(shown):
        for column in table.columns:
            for cell in (column.header, *column.cells):
                missing = set(str(cell).split()) - words
                assert not missing, f"cut at {width} columns: {missing} in\n{text}"
    assert "…" not in text
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) == 1, f"wider than {width}: {line}"
    return text


def _tables(shown: tuple[RenderableType, ...]) -> Iterator[Table]:
    for part in shown:
        if isinstance(part, Group):
            yield from _tables(tuple(part.renderables))
        elif isinstance(part, Table):
            yield part
