from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend import cli
from backend.cli import PACKAGE, command_tree, flowing, load, main
from backend.cli.commands import BRANCHES, COMMANDS, PANELS, Command
from calico_model.errors import CheckpointError
from tests.unit.test_documented_commands import options_of, path_of

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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_help_flows_and_has_an_example(command: Command) -> None:
    """Whole paragraphs at a wide terminal; each example names a command and options that exist."""
    text = flowing(load(command.target).__doc__ or "")
    examples = re.findall(r"^(?:Example: )?calico (.+)$", text, re.MULTILINE)
    assert any(example.startswith(" ".join(command.path)) for example in examples)
    for example in examples:
        if (path := path_of(example)) in {known.path for known in COMMANDS}:
            assert set(re.findall(r"(?<!\S)--[a-z-]+", example)) <= options_of(path)
    shown = CliRunner(env={"COLUMNS": "1000"}).invoke(
        command_tree(command.path), [*command.path, "--help"]
    )
    lines = {line.strip() for line in shown.output.splitlines()}
    for paragraph in text.split("\n\n"):
        assert set(paragraph.split("\n")) <= lines


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_nothing_is_cut_in_a_narrow_terminal(command: Command, width: int) -> None:
    shown = CliRunner(env={"COLUMNS": str(width)}).invoke(
        command_tree(command.path), [*command.path, "--help"]
    )
    words = set(re.findall(r"(?<!\S)--[a-z-]+", shown.output)) | {"--parent"}  # which is hidden
    assert {name for name in options_of(command.path) if name.startswith("--")} <= words
    assert re.findall(r"[^\s,]…", shown.output) == []
    too_wide = [line for line in shown.output.splitlines() if len(line) > width]
    assert all(len(line.split()) == 1 for line in too_wide)  # one long word is copied as it is
    text = " ".join(flowing(load(command.target).__doc__ or "").split())
    assert text in " ".join(shown.output.split())


def test_flowing_text_keeps_lists_and_command_lines() -> None:
    text = """First line
    goes on.

    Say:
    calico a --b
    --c
    then

    - one
      more
    - two
    """
    assert flowing(text) == (
        "First line goes on.\n\nSay:\ncalico a --b --c\nthen\n\n- one more\n- two"
    )


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == PACKAGE
    result = CliRunner().invoke(command_tree(["--version"]), ["--version"])
    assert (result.exit_code, result.output) == (0, f"calico {project['version']}\n")


def test_help_lists_commands_by_what_people_do() -> None:
    shown = CliRunner().invoke(command_tree([]), ["--help"]).output
    places = [shown.index(f" {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert shown.index("serve") < shown.index(" Work ─") < shown.index("predict")


def test_help_lists_every_command() -> None:
    root = CliRunner().invoke(command_tree([]), ["--help"]).output
    branches = {
        name: CliRunner().invoke(command_tree([]), [name, "--help"]).output for name in BRANCHES
    }

    assert all(command.path[0] in root for command in COMMANDS)
    assert all(c.path[1] in branches[c.path[0]] for c in COMMANDS if len(c.path) == 2)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_needs_no_heavy_library(word: str) -> None:
    heavy = "{'torch', 'numpy', 'flask', 'sqlalchemy', 'transformers'}"
    code = (
        "import sys; from backend.cli import main; sys.argv = ['calico', sys.argv[1]]\n"
        "try: main()\n"
        f"finally: sys.exit(str({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True)

    assert result.stderr.strip() == "set()"
    assert "calico" in result.stdout


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "calico: /x/y: Permission denied\n"),
        (OSError(28, "No space left on device"), "calico: No space left on device\n"),
    ],
)
def test_a_disk_that_refuses_is_one_line(
    error: OSError,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "load", lambda command: fail)
    monkeypatch.setattr(sys, "argv", ["calico", "export"])

    with pytest.raises(SystemExit) as stopped:
        main()

    assert stopped.value.code == 2
    assert capsys.readouterr().err == line


def test_ctrl_c_while_a_command_is_loaded_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", stop)
    monkeypatch.setattr(sys, "argv", ["calico", "predict"])

    with pytest.raises(SystemExit) as stopped:
        main()

    assert stopped.value.code == 130


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError("no file is named")])
def test_an_error_that_is_not_ours_keeps_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "load", lambda command: fail)
    monkeypatch.setattr(sys, "argv", ["calico", "serve"])

    with pytest.raises(type(error)):
        main()
