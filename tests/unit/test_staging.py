"""A folder is replaced whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from calico_model.errors import CheckpointError
from calico_model.staging import file_sha256, recover, replace_text, staged_file, staged_folder

FULL_DISK = """
import resource, sys
from pathlib import Path
from calico_model.errors import CheckpointError
from calico_model.staging import replace_text, staged_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
target = Path(sys.argv[1])
try:
    if target.suffix:
        replace_text(target, "n" * 5000)
    else:
        with staged_folder(target) as staged:
            (staged / "small").write_bytes(b"s" * 10)
            (staged / "large").write_bytes(b"x" * 5000)
except CheckpointError as error:
    print(error)
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from calico_model import staging
folder, steps = Path(sys.argv[1]), 0
def dying(real):
    def call(*arguments):
        global steps
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return real(*arguments)
    return call
real = os.fsync, Path.rename
for limit in range(100):
    child = os.fork()
    if not child:
        os.fsync, Path.rename = map(dying, real)
        with staging.staged_folder(folder) as staged:
            (staged / "a").write_text(f"{limit}")
            (staged / "b").write_text(f"{limit}")
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    staging.recover(folder)
    held = sorted((p.name, p.read_text()) for p in folder.iterdir())
    beside = [p.name for p in folder.parent.iterdir() if p != folder]
    print(died, held, beside)
    if not died:
        break
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "run" / "adapter"
    found.mkdir(parents=True)
    (found / "a").write_text("old")
    (found / "b").write_text("old")
    return found


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_new_content_takes_the_place_of_the_old(folder: Path) -> None:
    with staged_folder(folder) as staged:
        (staged / "a").write_text("new")
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("a", "new")]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_leaves_the_old_content(folder: Path) -> None:
    def write() -> None:
        with staged_folder(folder) as staged:
            (staged / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert (folder / "a").read_text() == "old"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_disk_that_refuses_leaves_the_old_content(folder: Path) -> None:
    said = run(FULL_DISK, folder)
    assert "adapter: could not be written" in said
    assert {p.read_text() for p in folder.iterdir()} == {"old"}
    assert list(folder.parent.iterdir()) == [folder]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "newest.json"
    replace_text(path, "old")
    assert "newest.json: could not be written" in run(FULL_DISK, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    path.write_text("old")
    with pytest.raises(TypeError), staged_file(path) as staged:
        staged.write_bytes("half")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    with staged_file(path) as staged:
        assert staged.suffix == ".svg"  # whoever draws goes by it
        staged.write_text("new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("chart.svg", "new")]


def test_a_kill_before_any_system_call_leaves_old_or_new(folder: Path) -> None:
    lines = [line for line in run(KILLED, folder).splitlines() if line]
    kept = "[('a', 'old'), ('b', 'old')] []"
    for index, line in enumerate(lines[:-1]):
        new = f"[('a', '{index}'), ('b', '{index}')] []"
        assert line in (f"True {kept}", f"True {new}")
        kept = line.removeprefix("True ")
    assert len(lines) > 5
    assert lines[-1].startswith("False")


def test_a_folder_that_never_was_is_not_recovered(tmp_path: Path) -> None:
    recover(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(CheckpointError, match="could not be written"),
        staged_folder(tmp_path / "adapter"),
    ):
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"calico" * 100_000)
    assert file_sha256(tmp_path / "large") == sha256(b"calico" * 100_000).hexdigest()
    with pytest.raises(OSError, match="No such file"):
        file_sha256(tmp_path / "gone")
