"""States on disk: whole or not there, checked when read, refused for another recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.training.state import Position, StateFolder, gather

RECIPE = {"training": "records", "seed": 1, "betas": [0.9, 0.95]}

# Saves state after state; each is killed at a later system call than the one before.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from calico_model.training.state import Position, StateFolder
folder, step = Path(sys.argv[1]), 0
def dying(real):
    def call(*arguments):
        global calls
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return real(*arguments)
    return call
real = os.fsync, Path.rename, Path.replace
for limit in range(100):
    child, calls = os.fork(), 0
    if not child:
        os.fsync, Path.rename, Path.replace = map(dying, real)
        tensors = {"weight/a": torch.full((5,), float(step + 1))}
        StateFolder(folder, {"seed": 1}).save(Position(step + 1), tensors)
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = StateFolder(folder, {"seed": 1}).load()
    kept = 0 if found is None else found[0].step
    whole = found is None or set(found[1]["weight/a"].tolist()) == {float(kept)}
    print(died, whole, kept in (step, step + 1))
    step = kept
    if not died:
        break
print(sorted(p.name for p in folder.iterdir()) == ["newest.json", f"step-{step:07d}"])
"""

FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from calico_model.errors import CheckpointError
from calico_model.training.state import Position, StateFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    StateFolder(Path(sys.argv[1]), {"seed": 1}).save(Position(2), {"weight/a": torch.ones(1000)})
except CheckpointError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def save(folder: Path, step: int = 1) -> dict[str, torch.Tensor]:
    tensors = {"weight/a": torch.randn(3, 2), "step/a": torch.tensor(1.0)}
    history = ({"loss": 1 / 3, "text": 0.1},)
    StateFolder(folder, RECIPE).save(Position(step, 0.7, 1, history), tensors)
    return tensors


def test_a_new_run_has_no_state(folder: Path) -> None:
    assert StateFolder(folder, RECIPE).load() is None
    assert not folder.exists()


def test_what_was_saved_comes_back_to_the_bit(folder: Path) -> None:
    save(folder)
    tensors = save(folder, 2)
    found = StateFolder(folder, RECIPE).load()
    assert found is not None
    assert found[0] == Position(2, 0.7, 1, ({"loss": 1 / 3, "text": 0.1},))
    assert all(torch.equal(found[1][name], tensors[name]) for name in tensors)
    assert sorted(path.name for path in folder.iterdir()) == ["newest.json", "step-0000002"]


@pytest.mark.parametrize("changed", [{"seed": 2}, {"training": "scenes"}, {"betas": [0.9, 0.9]}])
def test_another_recipe_is_refused(folder: Path, changed: dict[str, object]) -> None:
    save(folder)
    with pytest.raises(InvalidConfigError, match=f"{next(iter(changed))}: the run was started"):
        StateFolder(folder, RECIPE | changed).load()


def test_a_state_of_another_kind_of_training_is_refused(folder: Path) -> None:
    folder.mkdir()
    newest = {"step": 3, "folder": "step-0000003", "recipe": {"seed": 1, "stages": []}}
    (folder / "newest.json").write_text(json.dumps(newest))
    with pytest.raises(InvalidConfigError, match="training: the run was started with None"):
        StateFolder(folder, RECIPE).load()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(p.read_bytes()[:-1]), _flip, Path.unlink]
)
def test_damaged_tensors_are_named(folder: Path, damage: Callable[[Path], object]) -> None:
    save(folder)
    damage(folder / "step-0000001" / "state.safetensors")
    with pytest.raises(CheckpointError, match="state/step-0000001/state.safetensors: not a read"):
        StateFolder(folder, RECIPE).load()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"recipe": 3, "folder": "a"}'])
def test_an_unreadable_note_is_named(folder: Path, text: str) -> None:
    save(folder)
    (folder / "newest.json").write_text(text)
    with pytest.raises(CheckpointError, match="state/newest.json: not a readable state"):
        StateFolder(folder, RECIPE).load()


def test_a_full_disk_leaves_the_state_before(folder: Path) -> None:
    StateFolder(folder, {"seed": 1}).save(Position(1), {"weight/a": torch.zeros(3)})
    said = _run(FULL_DISK, folder)
    assert "step-0000002: could not be written" in said
    found = StateFolder(folder, {"seed": 1}).load()
    assert found is not None
    assert found[0].step == 1
    assert sorted(path.name for path in folder.iterdir()) == ["newest.json", "step-0000001"]


def test_a_kill_before_any_system_call_leaves_a_whole_state(folder: Path) -> None:
    *saves, last, is_swept = _run(KILLED, folder).split("\n")[:-1]
    assert len(saves) > 6
    assert set(saves) == {"True True True"}
    assert last == "False True True"
    assert is_swept == "True"


def _run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_weights_in_channels_last_order_can_be_saved(tmp_path: Path) -> None:
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    gathered = gather(convolution.weight)
    assert gathered.is_contiguous()
    assert torch.equal(gathered, convolution.weight)
    save_file({"weight": gathered}, tmp_path / "state.safetensors")
