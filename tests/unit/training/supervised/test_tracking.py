"""Numbers for TensorBoard and MLflow."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tensorboardX.proto.event_pb2 import Event

from calico_model.errors import InvalidConfigError
from calico_model.training.supervised.tracking import MlflowTracker, TensorBoardTracker


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """Reads event files as TensorBoard does: what a later START event takes back is gone."""
    found: list[tuple[int, str, float]] = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.HasField("session_log"):
                found = [one for one in found if one[0] < event.step]
            found += [(event.step, v.tag, round(v.simple_value, 4)) for v in event.summary.value]
    return found


def test_tensorboard_sees_one_curve_after_an_interruption(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        first.log(step, {"loss": step / 10})
    first.close()
    second = TensorBoardTracker(tmp_path, resume_step=2)
    second.log(3, {"loss": 0.9, "text": 0.5})
    second.close()
    assert scalars(tmp_path) == [
        (1, "loss", 0.1),
        (2, "loss", 0.2),
        (3, "loss", 0.9),
        (3, "text", 0.5),
    ]


def test_without_mlflow_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InvalidConfigError, match="mlflow: not installed; pip install mlflow"):
        MlflowTracker("calico", "run", {})


def test_mlflow_gets_recipe_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, object]] = []
    fake = ModuleType("mlflow")
    for name in ("set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(fake, name, lambda *a, _name=name, **k: said.append((_name, [*a, *k.values()])))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracker = MlflowTracker("calico", "run", {"seed": 1})
    tracker.log(3, {"loss": 0.5})
    tracker.close()
    assert said == [
        ("set_experiment", ["calico"]),
        ("start_run", ["run"]),
        ("log_params", [{"seed": 1}]),
        ("log_metrics", [{"loss": 0.5}, 3]),
        ("end_run", []),
    ]
