"""`calico bench prelabel`: a large job whose workers and driver are killed does all, and once."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from PIL import Image

from backend.cli.prelabel import load_model, run_job
from backend.cli.prelabel_manifest import read_manifest
from backend.cli.prelabel_parts import PartFolder
from backend.cli.progress import progress_bar
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.evaluation.protocol import GroupPredictor
from calico_model.types import GroupPrediction, ImageGroup
from research.bench.server import BenchError

_SIDE, _GROUP, _SEED = 128, 2, 6
_LONGEST_S = 7200.0
_DRIVE = "from research.bench.prelabel_kills import drive; drive()"


@dataclass(frozen=True)
class KilledJob:
    """What became of a job that was killed again and again.

    Attributes:
        groups: of the job.
        once: of them, those of which the files hold exactly one prediction.
        begun: predictions that were begun; each beyond `groups` was cut off by a kill.
        seconds: from the first start to the end.
    """

    groups: int
    once: int
    begun: int
    seconds: float


def bench_prelabel(
    groups: Annotated[int, typer.Option("--groups", min=8, help="Drawn pairs of images.")] = 200,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the job.")] = 2,
    kills: Annotated[int, typer.Option("--kills", min=0, help="Workers to kill.")] = 3,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Kill workers and the driver of a large job, run it again, and count what was done.

    The job is that of `calico prelabel`, with a model that notes every prediction it begins.
    Workers are killed (SIGKILL) at even distances, then the driver; then the job is run again.

    Example: calico bench prelabel --groups 1000

    The last line is JSON: groups, once (groups of which the files hold exactly one prediction),
    begun (predictions that were begun), work (begun / groups) and seconds.
    """
    found = measure_killed_job(groups, workers=workers, kills=kills, weights=weights)
    figures = {
        "groups": found.groups,
        "once": found.once,
        "begun": found.begun,
        "work": round(found.begun / found.groups, 4),
        "seconds": round(found.seconds, 1),
    }
    typer.echo(json.dumps(figures))


def measure_killed_job(
    groups: int, *, workers: int = 2, kills: int = 3, weights: Path | None = None
) -> KilledJob:
    """Runs a job; workers and then the driver are killed, and it is run again.

    Args:
        groups: drawn pairs of images.
        workers: processes.
        kills: of workers.
        weights: model folder; the shipped one if None.

    Raises:
        BenchError: the job ended early, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="calico-prelabel-") as place:
        photographs, out, log = (Path(place) / name for name in ("photographs", "out", "log"))
        for number in range(groups):
            _write_group(photographs / f"{number:05}", number)
        log.touch()
        words = [photographs, out, log, weights or "", workers, max(1, groups // 20)]
        command = [sys.executable, "-c", _DRIVE, *map(str, words)]
        began = time.monotonic()
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with progress_bar("Killing", groups, unit="groups") as advance_to:
                for number in range(1, kills + 2):
                    goal = number * groups // (kills + 2)
                    _wait(job, log, goal)
                    advance_to(goal)
                    if number <= kills:
                        oldest_worker(job).kill()
        finally:
            job.kill()
            job.wait()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds = time.monotonic() - began
        counts = Counter(one["group"] for one in PartFolder(out).documents())
        once = sum(count == 1 for count in counts.values())
        return KilledJob(groups, once, _begun(log), seconds)


@dataclass(frozen=True)
class NotedPredictor:
    """Notes every prediction before it is begun.

    Attributes:
        predictor: does the work.
        log: gets a line per prediction, of all processes.
    """

    predictor: GroupPredictor
    log: Path

    @property
    def version(self) -> str:
        """Of the weights."""
        return self.predictor.version

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Predicts a group."""
        with self.log.open("ab") as file:
            file.write(b".\n")
        return self.predictor.predict(group)


def load_noted(weights: Path | None, log: Path) -> NotedPredictor:
    """Loads the model of one worker."""
    return NotedPredictor(load_model(weights, "cpu", 1), log)


def drive() -> None:
    """Runs the job in this process, its driver, with the arguments of the process."""
    manifest, out, log, weights, workers, chunk = sys.argv[1:]
    load = functools.partial(load_noted, Path(weights) if weights else None, Path(log))
    run_job(read_manifest(manifest), Path(out), load, workers=int(workers), size=int(chunk))


def _write_group(folder: Path, number: int) -> None:
    drawn = draw_group(
        group_rng(Stream.EVALUATION, _SEED, number), group_size=_GROUP, size_px=_SIDE
    )
    folder.mkdir(parents=True)
    for index, image in enumerate(labeled_group(drawn).group.images):
        Image.fromarray(image).save(folder / f"{index}.png")


def _wait(job: subprocess.Popen[bytes], log: Path, groups: int) -> None:
    """Waits until so many predictions were begun."""
    deadline = time.monotonic() + _LONGEST_S
    while _begun(log) < groups:
        if job.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"the job began {_begun(log)} predictions, and not {groups}")
        time.sleep(0.05)


def _begun(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def oldest_worker(job: subprocess.Popen[bytes]) -> psutil.Process:
    """Returns the worker of a driver that has run longest; process ids may have begun anew."""
    children = psutil.Process(job.pid).children()
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    return min(workers, key=psutil.Process.create_time)
