"""A large job of `calico prelabel` whose worker and driver die: is every group there once?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from PIL import Image

from backend.cli.prelabel_parts import PartFolder
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from research.bench.server import BenchError

_SIDE, _GROUP, _SEED = 128, 2, 6
_WORKERS = 2
_LONGEST_S = 900.0


def share_predicted_once(groups: int, weights: Path | None = None) -> float:
    """Runs a job with two workers; a worker and the driver are killed, and it is run again.

    Args:
        groups: drawn pairs of images.
        weights: model folder; the shipped one if None.

    Returns:
        Share of the groups of which the files hold exactly one prediction.

    Raises:
        BenchError: the job ended early, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="calico-prelabel-") as place:
        photographs, out = Path(place) / "photographs", Path(place) / "out"
        for number in range(groups):
            _write_group(photographs / f"{number:05}", number)
        command = [sys.executable, "-m", "backend.cli", "prelabel", str(photographs)]
        command += ["--out", str(out), "--workers", str(_WORKERS), "--chunk", str(groups // 4 or 1)]
        command += [] if weights is None else ["--weights", str(weights)]
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait(job, out, groups // 4)
            _a_worker(job).kill()
            _wait(job, out, groups // 2)
        finally:
            job.kill()
            job.wait()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        counts = Counter(one["group"] for one in PartFolder(out).documents())
    return sum(count == 1 for count in counts.values()) / groups


def _write_group(folder: Path, number: int) -> None:
    drawn = draw_group(
        group_rng(Stream.EVALUATION, _SEED, number), group_size=_GROUP, size_px=_SIDE
    )
    folder.mkdir(parents=True)
    for index, image in enumerate(labeled_group(drawn).group.images):
        Image.fromarray(image).save(folder / f"{index}.png")


def _wait(job: subprocess.Popen[bytes], out: Path, groups: int) -> None:
    """Waits until so many groups have a line in whole or begun files."""
    deadline = time.monotonic() + _LONGEST_S
    while _lines(out) < groups:
        if job.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"calico prelabel predicted {_lines(out)} groups, and not {groups}")
        time.sleep(0.05)


def _lines(out: Path) -> int:
    files = list(out.rglob("part-*.jsonl"))
    return sum(max(0, file.read_bytes().count(b"\n") - 1) for file in files)


def _a_worker(job: subprocess.Popen[bytes]) -> psutil.Process:
    children = psutil.Process(job.pid).children()
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
