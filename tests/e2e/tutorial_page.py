"""The steps of docs/tutorial.md as the tests type them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
PROJECT_ON_PAGE = "--project 7"
_STEP = re.compile(r"^## (\d+)\. .*?$(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def read_steps(page: Path = PAGE) -> dict[int, list[str]]:
    """Returns the lines of shell that a person types, by the number of the step."""
    text = page.read_text(encoding="utf-8")
    return {
        int(number): [line for block in _BLOCK.findall(step) for line in block.splitlines()]
        for number, step in _STEP.findall(text)
    }


def exported(lines: list[str]) -> dict[str, str]:
    """Returns the variables that lines of shell export, or set before a command."""
    found = {}
    for line in lines:
        words = shlex.split(line)
        if words[0] == "export":
            words = words[1:]
        for word in words:
            name, is_set, value = word.partition("=")
            if not (is_set and name.isupper()):
                break
            found[name] = value
    return found


@dataclass
class Typist:
    """Types the commands of the page in a folder.

    Attributes:
        folder: where the commands run.
        environment: all of it.
        project_id: what the page's number of the project stands for; set once it is known.
        typed: numbers of the steps that were typed.
    """

    folder: Path
    environment: Mapping[str, str]
    project_id: int | None = None
    typed: set[int] = field(default_factory=set)
    _steps: dict[int, list[str]] = field(default_factory=read_steps)

    def step(self, number: int) -> list[str]:
        """Returns the `calico` lines of a step, with the number of the real project."""
        self.typed.add(number)
        lines = [line for line in self._steps[number] if line.startswith("calico ")]
        if self.project_id is not None:
            lines = [
                line.replace(PROJECT_ON_PAGE, f"--project {self.project_id}") for line in lines
            ]
        return lines

    def words(self, line: str) -> list[str]:
        """Returns the command of a line as this environment starts it."""
        _, *words = shlex.split(line)
        return [sys.executable, "-m", "backend.cli", *words]

    def type(self, line: str) -> tuple[dict[str, Any], str]:
        """Runs a line; returns its last line, which is JSON, and everything that it printed."""
        done = subprocess.run(
            self.words(line),
            cwd=self.folder,
            env=dict(self.environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        print(f"$ {line}\n{done.stdout}")  # noqa: T201
        assert done.returncode == 0
        last = [found for found in done.stdout.splitlines() if found.startswith("{")][-1]
        said: dict[str, Any] = json.loads(last)
        return said, done.stdout


def environment_of(
    lines: list[str], values: Mapping[str, str], more: Mapping[str, str]
) -> dict[str, str]:
    """Returns the environment of a terminal in which lines of the page were typed.

    Args:
        lines: of the page.
        values: what the variables that the page exports are set to here.
        more: what else is in the environment.
    """
    named = exported(lines)
    assert named.keys() == values.keys(), "the page exports what the commands need, and no more"
    home = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath))}
    return home | dict(more) | dict(values)
