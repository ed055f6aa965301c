"""`calico train --data` as people run it: killed, resumed, on several processes, with bad input."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calico_model.config import LoraConfig
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.modeling.model import Calico
from calico_model.presets import small_tokenizer
from tests.conftest import micro_config

STEPS = 6
OPTIONS = {
    "--epochs": 2,
    "--steps-per-epoch": STEPS // 2,
    "--batch": 4,
    "--micro-batch": 2,
    "--learning-rate": 0.01,
    "--warmup-steps": 1,
    "--holdout": 0.3,
    "--checkpoint-every": 1,
    "--log-every": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Options that name micro weights and the records of six 64-px groups."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = small_tokenizer()
    torch.manual_seed(5)
    config = replace(micro_config(tokenizer.size), lora=LoraConfig(rank=4, dropout=0.1))
    model = Calico(config)
    model.initialise()
    save_model(model, tokenizer, folder / "weights", dtype=torch.float32)
    sizes = {"group_sizes": (2, 3), "size_px": 64}
    write_groups(folder / "set", groups=6, seed=11, split=SceneSplit.SEEN, **sizes)
    return ["--weights", str(folder / "weights"), "--data", str(folder / "set")]


def start(inputs, out, *more, **changed):
    given = OPTIONS | {f"--{name.replace('_', '-')}": v for name, v in changed.items()}
    options = [str(word) for pair in given.items() for word in pair]
    command = [sys.executable, "-m", "backend.cli", "train", *inputs, "--out", str(out)]
    return subprocess.Popen(
        [*command, *options, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run(inputs, out, *more, **changed):
    process = start(inputs, out, *more, **changed)
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout, stderr


def finish(inputs, out, *more, **changed):
    code, stdout, stderr = run(inputs, out, *more, **changed)
    assert code == 0, stderr
    outcome = json.loads(stdout.splitlines()[-1])
    assert outcome["finished"] is True
    return outcome


def state(out):
    newest = json.loads((out / "state" / "newest.json").read_text())
    assert newest["step"] == STEPS
    return load_file(out / "state" / newest["folder"] / "state.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curve(out):
    with (out / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def kill_at(process, out, rows):
    """Kills a training when its curve has so many rows; the process may be doing anything."""
    while process.poll() is None:
        try:
            process.communicate(timeout=0.02)
        except subprocess.TimeoutExpired:
            if (out / "curve.csv").is_file() and len(curve(out)) >= rows:
                process.kill()
                break
    process.communicate()
    return process.returncode


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = finish(inputs, out, "--merge")
    model, _ = load_model(Path(outcome["model"]))
    assert model.config.name == "calico-micro"
    return out


def test_killed_and_resumed_it_ends_in_the_same_bits(inputs, whole, tmp_path):
    out = tmp_path / "run"
    assert kill_at(start(inputs, out), out, rows=2) == -signal.SIGKILL
    finish(inputs, out)
    assert same(state(out), state(whole))
    assert curve(out) == curve(whole)
    kept = [p / "adapter" / "adapter_model.safetensors" for p in (out, whole)]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_the_processes_of_a_killed_launcher_stop_and_save(inputs, tmp_path):
    out = tmp_path / "run"
    begun = start(inputs, out, epochs=200, processes=2)
    while not (out / "curve.csv").is_file() or not curve(out):
        with pytest.raises(subprocess.TimeoutExpired):
            begun.communicate(timeout=0.02)
    begun.kill()
    stdout, _ = begun.communicate(timeout=100)  # until nobody can write there any more
    ended = json.loads(stdout.splitlines()[-1])
    assert not ended["finished"]
    assert ended["step"] < 200 * STEPS // 2
    assert int(curve(out)[-1]["step"]) == ended["step"]
    assert json.loads((out / "state" / "newest.json").read_text())["step"] == ended["step"]


def test_two_processes_compute_what_one_does(inputs, whole, tmp_path):
    out = tmp_path / "run"
    outcome = finish(inputs, out, "--cache", str(tmp_path / "cache"), processes=2)
    # Two micro-batches a step: even the order of the sums is the same.
    assert same(state(out), state(whole))
    assert curve(out) == curve(whole)
    assert outcome["step"] == STEPS
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) > 10


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero2", "fsdp"])
def test_divided_weights_compute_what_whole_ones_do(inputs, whole, tmp_path, sharding):
    out = tmp_path / "run"
    finish(inputs, out, processes=2, sharding=sharding)
    assert same(state(out), state(whole))
    assert curve(out) == curve(whole)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(8))
def test_killed_again_and_again_it_ends_in_the_same_bits(inputs, whole, tmp_path, attempt):
    out, kills, choose = tmp_path / "run", 0, random.Random(attempt)
    while True:
        process = start(inputs, out)
        try:
            process.communicate(timeout=choose.uniform(2, 12))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0
        break
    assert same(state(out), state(whole)), kills
    assert curve(out) == curve(whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": 5}, "batch: expected a multiple of micro_batch"),
        ({"processes": 3}, "multiple of micro_batch times processes, 6"),
        ({"encoder_steps": 3}, "--encoder-steps: is for training from scratch"),
        ({"cache_gb": 0}, "--cache-gb: expected a number above 0"),
    ],
)
def test_options_that_cannot_be_are_one_line(inputs, tmp_path, changed, said):
    code, stdout, stderr = run(inputs, tmp_path / "run", **changed)
    assert (code, stdout) == (2, "")
    assert said in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_broken_records_are_one_line(inputs, tmp_path):
    broken = tmp_path / "set"
    shutil.copytree(inputs[3], broken)
    text = (broken / "records.json").read_text()
    (broken / "records.json").write_text(text.replace('"img_ids":[', '"img_ids":[999,', 1))
    code, stdout, stderr = run([*inputs[:3], str(broken)], tmp_path / "run")
    assert (code, stdout) == (2, "")
    assert "records.json: [0].img_ids: no image 999" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_without_data_there_is_nothing_to_fine_tune(tmp_path):
    command = [sys.executable, "-m", "backend.cli", "train", "--out", str(tmp_path / "run")]
    for option in (["--epochs", "2"], ["--preset", "7b"]):
        done = subprocess.run([*command, *option], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"{option[0]}: fine-tunes on records: give --data too" in done.stderr
