"""Every `calico ...` line of the documentation names a command and options that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from backend.cli import command_tree
from backend.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "backend/*.md", "label_config/*.md", "tests/*/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # the past may name what is gone
)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_CALL = re.compile(r"^\s*(?:\S*/)?calico ((?:(?! #| \||;|&&).)+)")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
_GROUPS = {command.path[0] for command in COMMANDS if len(command.path) > 1}


def calls(text: str) -> Iterator[str]:
    """Yields what follows `calico` in code, one command line each."""
    fenced = [line for block in _FENCE.findall(text) for line in _joined(block)]
    for code in (*fenced, *_SPAN.findall(_FENCE.sub("", text))):
        if (found := _CALL.match(code)) is not None:
            yield found[1].strip()


def _joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def path_of(call: str) -> tuple[str, ...]:
    """The words that name the command of one call."""
    words = call.split()
    return tuple(words[:2]) if words[0] in _GROUPS and len(words) > 1 else tuple(words[:1])


@cache
def options_of(path: tuple[str, ...]) -> frozenset[str]:
    command = get_command(command_tree(path))
    for word in path:
        command = command.commands[word]  # type: ignore[attr-defined]
    return frozenset(
        name for option in command.params for name in (*option.opts, *option.secondary_opts)
    ) | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_documented_commands_and_options_are_there(document: Path) -> None:
    known = {command.path for command in COMMANDS}
    for call in calls((ROOT / document).read_text("utf-8")):
        path = path_of(call)
        if path[0].startswith("-") or path == (path[0],) and path[0] in _GROUPS:
            continue  # `calico --help`, or a whole group
        assert path in known, f"{document}: calico {call}"
        missing = set(_OPTION.findall(call)) - options_of(path)
        assert not missing, f"{document}: calico {call}: no {', '.join(sorted(missing))}"


def test_calls_are_found_in_lines_spans_and_over_line_ends() -> None:
    text = "`calico a --x`\n\n```sh\n.venv/bin/calico b \\\n  --y 1  # why\nls  see calico c\n```\n"
    assert list(calls(text)) == ["b    --y 1", "a --x"]
