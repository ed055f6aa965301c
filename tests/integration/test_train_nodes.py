"""`calico train --nodes`: several machines, which here are run folders on one, train one model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from safetensors.torch import load_file

from backend.cli.label_studio_process import free_port
from backend.storage.shelf import open_shelf
from tests.integration.test_train_records import (  # noqa: F401
    STEPS,
    curve,
    inputs,
    same,
    start,
    state,
    whole,
)


class Nodes:
    """Two machines: each runs the same command, with a disk and a feature cache of its own."""

    def __init__(self, inputs, folder):  # noqa: F811
        self.inputs = inputs
        self.folders = [folder / name for name in ("a", "b")]
        self.url = (folder / "bucket").as_uri()
        self.processes = []

    def start(self, *more, **changed):
        meet = f"127.0.0.1:{free_port()}"
        self.processes = [
            start(
                self.inputs,
                folder / "run",
                *("--nodes", "2", "--rendezvous", meet, "--cache", str(folder / "cache"), *more),
                **changed,
            )
            for folder in self.folders
        ]

    def finish(self):
        """Waits for both; returns what they printed, and the folder of the run."""
        ends = [process.communicate(timeout=600) for process in self.processes]
        for process, (_, stderr) in zip(self.processes, ends, strict=True):
            assert process.returncode == 0, stderr
        first = next(f / "run" for f in self.folders if (f / "run" / "state").is_dir())
        return "".join(stdout for stdout, _ in ends), first

    def wait_until(self, has_come):
        while all(process.poll() is None for process in self.processes):
            if has_come():
                return
            with suppress(subprocess.TimeoutExpired):
                self.processes[0].communicate(timeout=0.02)
        raise AssertionError([process.communicate() for process in self.processes])

    def stored(self):
        """Steps of the states in the bucket."""
        names = open_shelf(self.url).names()  # one is there for a moment: a try to write
        return sorted(int(name.split("-")[1]) for name in names if "step-" in name)

    def lose_disks(self):
        for folder in self.folders:
            shutil.rmtree(folder)

    def kill(self, number):
        """Ends a machine: the launcher and its workers, which are sessions of their own."""
        process = psutil.Process(self.processes[number].pid)
        for one in (*process.children(recursive=True), process):
            one.kill()

    def stop_workers(self, number):
        """Halts all processes of a machine but the launcher."""
        for one in psutil.Process(self.processes[number].pid).children(recursive=True):
            one.suspend()

    def end(self):
        for number, process in enumerate(self.processes):
            if process.poll() is None:
                self.kill(number)
            process.communicate()


@pytest.fixture
def nodes(inputs, tmp_path):  # noqa: F811
    made = Nodes(inputs, tmp_path)
    yield made
    made.end()


def test_two_machines_compute_what_one_does(nodes, whole):  # noqa: F811
    nodes.start("--state-url", nodes.url)
    stdout, out = nodes.finish()
    (line,) = stdout.splitlines()
    assert json.loads(line).items() >= {"step": STEPS, "stored": True}.items()
    assert nodes.stored()[-1] == STEPS
    # Two micro-batches a step: even the order of the sums is the same.
    assert same(state(out), state(whole))
    assert curve(out) == curve(whole)
    caches = [
        {path.name for path in (folder / "cache").rglob("*.safetensors")}
        for folder in nodes.folders
    ]
    assert caches[0] == caches[1]
    assert len(caches[0]) > 10


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_state_ends_both(nodes):
    nodes.start()
    _, first = nodes.finish()
    before = curve(first)
    nodes.start()
    for process in nodes.processes:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 2
        assert f"go on from step 0, others from step {STEPS}" in stderr
    assert curve(first) == before


@pytest.mark.slow
def test_a_machine_that_must_stop_stops_both_and_they_go_on_in_a_shared_folder(nodes, whole):  # noqa: F811
    shared = nodes.folders[0] / "run"
    nodes.folders[1].mkdir()
    (nodes.folders[1] / "run").symlink_to(shared)
    nodes.start()
    nodes.wait_until(lambda: (shared / "curve.csv").is_file() and len(curve(shared)) >= 2)
    nodes.processes[1].send_signal(signal.SIGTERM)
    for process in nodes.processes:
        process.communicate(timeout=600)
    assert nodes.processes[1].returncode == 128 + signal.SIGTERM
    assert nodes.processes[0].returncode == 75, "a job must start it again"
    nodes.start()
    nodes.finish()
    assert same(state(shared), state(whole))
    assert curve(shared) == curve(whole)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_launcher_leaves_no_process_behind_on_any_machine(nodes, killed):
    nodes.start(epochs=200)
    curves = [folder / "run" / "curve.csv" for folder in nodes.folders]
    nodes.wait_until(lambda: any(place.is_file() for place in curves))
    nodes.processes[killed].kill()
    for process in nodes.processes:
        process.communicate(timeout=300)  # until no worker can write there any more
        assert process.returncode != 0
    (out,) = (place.parent for place in curves if place.is_file())
    newest = json.loads((out / "state" / "newest.json").read_text())
    assert int(curve(out)[-1]["step"]) == newest["step"] < 200 * STEPS // 2


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_machine_is_killed_and_both_go_on_from_the_bucket_on_new_disks(nodes, whole, killed):  # noqa: F811
    check_that_they_go_on(nodes, whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_machine_that_is_lost_after_the_last_step_ends_the_other_within_minutes(nodes, how):
    """The first process tries for a minute to store the last state: meanwhile the other is lost."""
    nodes.start("--state-url", nodes.url)
    nodes.wait_until(nodes.stored)
    bucket = nodes.folders[0].parent / "bucket"
    shutil.move(bucket, bucket.with_name("away"))
    bucket.touch()  # where nothing can be stored
    outs = [folder / "run" for folder in nodes.folders]

    # The picture of the curve comes after the last step and its state, when all have met once more.
    nodes.wait_until(lambda: any((out / "curve.png").is_file() for out in outs))
    first, other = (0, 1) if (outs[0] / "state").is_dir() else (1, 0)
    assert state(outs[first])
    if how == signal.SIGKILL:
        nodes.kill(other)
    else:  # its processes keep their connections, and say nothing any more
        nodes.stop_workers(other)
    _, stderr = nodes.processes[first].communicate(timeout=240)
    assert nodes.processes[first].returncode == 75
    # If the lost machine is where they met, the launcher may be the first to notice it.
    sentences = (
        "lost another process of the training:",
        "did not find, or lost, the other machines",
    )
    assert any(sentence in stderr for sentence in sentences), stderr
    assert state(outs[first])
    bucket.unlink()
    shutil.move(bucket.with_name("away"), bucket)
    nodes.end()
    nodes.start("--state-url", nodes.url)
    stdout, _ = nodes.finish()
    assert json.loads(stdout)["step"] == STEPS


def check_that_they_go_on(nodes, whole, killed):  # noqa: F811
    nodes.start("--state-url", nodes.url)
    nodes.wait_until(nodes.stored)
    nodes.kill(killed)
    for process in nodes.processes:
        process.communicate(timeout=600)
        assert process.returncode != 0
    reached = nodes.stored()[-1]
    assert 1 <= reached < STEPS
    nodes.lose_disks()
    nodes.start("--state-url", nodes.url)
    _, out = nodes.finish()
    assert same(state(out), state(whole))
    assert curve(out) == curve(whole)
    kept = [p / "adapter" / "adapter_model.safetensors" for p in (out, whole)]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    (events,) = (out / "tensorboard").iterdir()
    assert events.read_bytes().count(b"gradient") == STEPS - reached, "no step was made again"
    assert nodes.stored()[-1] == STEPS


@pytest.mark.slow
def test_scenes_are_learned_by_two_machines_as_by_one(tmp_path):
    stages = ("encoder", "joint", "refine", "settle", "widen")
    steps = [word for stage in stages for word in (f"--{stage}-steps", "1")]
    given = ["train", *steps, "--pool-scenes", "50"]
    pool = ("--pool", str(tmp_path / "pool"))

    def several(folder, *more):
        """Run folder of the machine with the first process, once two have trained."""
        meet = ("--nodes", "2", "--rendezvous", f"127.0.0.1:{free_port()}", *pool)
        url = ("--state-url", (tmp_path / "bucket").as_uri())
        outs = [folder / name for name in ("a", "b")]
        wait(*(module("backend.cli", *given, *meet, *url, *more, "--out", out) for out in outs))
        return next(out for out in outs if (out / "model").is_dir())

    def same_run(a, b):
        model = [load_file(out / "model" / "model.safetensors") for out in (a, b)]
        return same(*model) and curve(a) == curve(b)

    one, other = tmp_path / "one", tmp_path / "other"
    for count in ("1", "2"):
        more = ("--balance-steps", count)
        wait(module("backend.cli", *given, *pool, "--processes", "2", *more, "--out", one))
        assert same_run(several(tmp_path / count, *more), one), "the second time, from the bucket"
        if count == "1":
            torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
            wait(module(*torchrun, "backend.cli", *given, *more, "--out", other))
            assert same_run(other, one)
    assert len(curve(one)) == 7


def module(*words):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait(*processes):
    for process in processes:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
