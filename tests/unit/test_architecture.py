"""docs/ARCHITECTURE.md is true: every file and every name it mentions is in the repository."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
CODE = re.findall(r"`([^`\n]+)`", PAGE)
PATHS = sorted(
    {text.partition("::")[0].rstrip("/") for text in CODE if "/" in text and " " not in text}
)
NAMES = sorted({text for text in CODE if "::" in text})


def is_defined(path: Path, qualified_name: str) -> bool:
    """Whether a file defines a function, class or method."""
    body = ast.parse(path.read_text("utf-8")).body
    for name in qualified_name.split("."):
        node = next(
            (
                child
                for parent in body
                for child in ast.walk(parent)
                if isinstance(child, ast.ClassDef | ast.FunctionDef) and child.name == name
            ),
            None,
        )
        if node is None:
            return False
        body = node.body
    return True


def test_the_page_names_files_and_functions() -> None:
    assert len(PATHS) > 40
    assert len(NAMES) > 25


def test_every_path_exists() -> None:
    urls = ("http", "/")  # addresses and routes
    missing = [path for path in PATHS if not path.startswith(urls) and not (ROOT / path).exists()]
    assert not missing


def test_every_name_is_defined() -> None:
    missing = []
    for text in NAMES:
        path, _, name = text.partition("::")
        if not is_defined(ROOT / path, name):
            missing.append(text)
    assert not missing


def test_a_name_that_is_not_there_is_noticed() -> None:
    path = ROOT / "backend" / "serving" / "routes.py"
    assert is_defined(path, "build_routes.predict")
    assert not is_defined(path, "build_routes.telepathy")
