"""What the documentation promises is what the code has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from backend.cli.commands import COMMANDS
from backend.settings import describe_settings

ROOT = Path(__file__).parents[2]
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
COMMAND_PAGE = (ROOT / "docs" / "commands.md").read_text()
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "backend/README.md",
    "label_config/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


def settings_table() -> str:
    rows = [
        f"| `{row.variable}` | {f'`{row.default}`' if row.default else ''} | {row.meaning} |"
        for row in describe_settings()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def test_table_of_settings_is_the_one_of_the_code() -> None:
    _, begin, rest = SETTINGS.partition("<!-- settings: begin -->\n")
    table, end, _ = rest.partition("\n<!-- settings: end -->")
    assert begin
    assert end
    assert table == settings_table(), f"docs/settings.md should have:\n{settings_table()}"


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `calico ([\w-]+)", COMMAND_PAGE, flags=re.MULTILINE))
    assert listed == {command.path[0] for command in COMMANDS}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [target for target in targets if not target.startswith("http")]
    missing = [target for target in local if not (path.parent / target).exists()]
    assert not missing


def test_documented_make_targets_exist() -> None:
    text = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.M))
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert named <= targets


def test_changelog_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
