from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend import cli
from backend.cli import BRANCHES, COMMANDS, Command, command_tree, load, main
from calico_model.errors import CheckpointError

BROKEN = f"{__name__}:broken"
ROOT = Path(__file__).parents[3]


def broken() -> None:
    """Ends the way a command does whose weights are damaged."""
    raise CheckpointError("model.safetensors: truncated")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_every_command_loads_and_explains_itself(command: Command) -> None:
    result = CliRunner().invoke(command_tree(command.path), [*command.path, "--help"])

    assert result.exit_code == 0, result.output
    assert load(command.target).__doc__


def test_help_lists_every_command() -> None:
    root = CliRunner().invoke(command_tree([]), ["--help"]).output
    branches = {
        name: CliRunner().invoke(command_tree([]), [name, "--help"]).output for name in BRANCHES
    }

    assert all(command.path[0] in root for command in COMMANDS)
    assert all(c.path[1] in branches[c.path[0]] for c in COMMANDS if len(c.path) == 2)


def test_help_needs_no_heavy_library() -> None:
    heavy = "{'torch', 'numpy', 'flask', 'sqlalchemy', 'transformers'}"
    code = (
        "import sys; from backend.cli import main; sys.argv = ['calico', '--help']\n"
        "try: main()\n"
        f"finally: sys.exit(str({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.stderr.strip() == "set()"
    assert "serve" in result.stdout


@pytest.mark.parametrize("has_namesake", [False, True])
def test_a_measurement_without_a_checkout_says_where_it_is(
    tmp_path: Path, has_namesake: bool
) -> None:
    for package in ("backend", "calico_model"):
        (tmp_path / package).symlink_to(ROOT / package)
    if has_namesake:
        (tmp_path / "research").mkdir()
        (tmp_path / "research" / "__init__.py").touch()
    code = "import sys; sys.argv = ['calico', 'flops']; from backend.cli import main; main()"
    command = [
        sys.executable,
        "-S",
        "-c",
        f"import sys; sys.path[:] = {import_path(tmp_path)}; {code}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert result.returncode == 2
    assert "clone the repository" in result.stderr
    assert "Traceback" not in result.stderr


def import_path(first: Path) -> list[str]:
    """What this interpreter imports from, with `first` in the place of every checkout."""
    return [str(first), *(path for path in sys.path if not (Path(path) / "research").is_dir())]


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(command_tree(["paint"]), ["paint"])

    assert result.exit_code == 2
    assert "No such command 'paint'" in result.output


def test_an_error_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (Command(("predict",), BROKEN, "Fail."), *COMMANDS[:1]))
    monkeypatch.setattr(sys, "argv", ["calico", "predict"])

    with pytest.raises(SystemExit) as stopped:
        main()

    assert stopped.value.code == 2
    assert capsys.readouterr().err == "calico: model.safetensors: truncated\n"


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "load", lambda command: fail)
    monkeypatch.setattr(sys, "argv", ["calico", "serve"])

    with pytest.raises(ZeroDivisionError):
        main()
