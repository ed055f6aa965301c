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
VARIABLE = re.compile(r"\bCALICO_[A-Z0-9_]+")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "backend/README.md",
    "label_config/README.md",
    "CHANGELOG.md",
    "calico_model/weights/calico-tiny/MODEL_CARD.md",
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


def test_variables_of_the_documentation_are_read_somewhere() -> None:
    read = {row.variable for row in describe_settings()}
    others = ("docker-compose.yml", ".env.example", "deploy/haproxy.cfg", "tests/e2e/conftest.py")
    for name in others:
        read |= set(VARIABLE.findall((ROOT / name).read_text()))
    for document in DOCUMENTS:
        if document != "CHANGELOG.md":  # the past may name what is gone
            named = set(VARIABLE.findall((ROOT / document).read_text()))
            assert named <= read, f"{document}: {named - read}"


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `calico ([\w-]+)", COMMAND_PAGE, flags=re.MULTILINE))
    assert listed == {command.path[0] for command in COMMANDS}


def anchors(text: str) -> set[str]:
    """The anchors of a page, which GitHub makes of its headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text())
    for target, anchor in links:
        if target.startswith("http"):
            continue
        page = path.parent / target if target else path
        assert page.exists(), f"{document}: no {target}"
        if anchor:
            assert anchor in anchors(page.read_text()), f"{document}: no #{anchor} in {page.name}"


def test_anchors_are_those_of_github() -> None:
    text = "# `--sources`: a [b](c.md), d's\n```sh\n# no heading\n```\n## What's in 3 files?\n"
    assert anchors(text) == {"--sources-a-b-ds", "whats-in-3-files"}


def test_documented_make_targets_exist() -> None:
    text = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.M))
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert named <= targets


def test_changelog_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
