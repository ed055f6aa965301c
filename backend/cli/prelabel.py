"""`calico prelabel`: predicts a large list of groups into files, with several processes."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import DeviceOption, WeightsOption, load_weights
from backend.cli.prelabel_manifest import ListedGroup, read_manifest
from backend.cli.prelabel_parts import PartFolder
from backend.cli.prelabel_workers import Load, WorkerPool
from backend.cli.progress import progress_bar, stop_requests
from calico_model.evaluation.protocol import GroupPredictor


def prelabel(
    manifest: Annotated[
        str, typer.Argument(help="Folder, CSV file, or s3:// or gs:// address of either.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.", metavar="DIR")],
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes, each with a model of its own.")
    ] = 1,
    chunk: Annotated[int, typer.Option("--chunk", min=1, help="Groups in one file.")] = 100,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="CPU threads of one process.")
    ] = 1,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Predict thousands of groups without Label Studio; run it again to continue.

    In a folder, every folder with images is a group. In a CSV file every row is a group, and its
    cells are images: paths from the file's folder, or s3:// and gs:// addresses, for which
    calico-labeling[servers] is needed.

    DIR gets files part-HASH.jsonl. Their first line names the version and the groups, every other
    line holds one group's regions, as prediction.json of `calico predict` does, or its problem.
    A file is there once it is whole. Whatever is killed, each group is predicted once but for those
    under way.

    Example: calico prelabel photographs --out predictions --workers 2

    The last line of the output is JSON: groups, done, problems, already, seconds and stopped.
    """
    groups = read_manifest(manifest)
    load = functools.partial(load_model, weights, device, threads)
    typer.echo(json.dumps(run_job(groups, out, load, workers=workers, size=chunk)))


def load_model(weights: Path | None, device: str, threads: int) -> GroupPredictor:
    """Loads the model of one worker."""
    import torch

    torch.set_num_threads(threads)
    return load_weights(weights, device)


def run_job(
    groups: tuple[ListedGroup, ...], out: Path, load: Load, *, workers: int, size: int
) -> dict[str, int | float | bool]:
    """Predicts what is not done yet; returns the counts of the last line.

    Args:
        groups: each once.
        out: folder of the files.
        load: makes the model in a worker.
        workers: processes.
        size: groups in one file.

    Raises:
        SettingsError: the folder cannot be used.
        PrelabelError: workers die of a chunk, or an image cannot be reached.
    """
    began, parts = time.monotonic(), PartFolder(out)
    is_stopping = stop_requests()
    with parts.alone():
        with WorkerPool(load, out, workers) as pool:
            chunks = parts.chunks(groups, pool.version, size)
            todo = sum(len(one.groups) for one in chunks)
            already = done = len(groups) - todo
            with progress_bar("Predicting", len(groups), unit="groups") as advance_to:

                def count() -> None:
                    nonlocal done
                    done += 1
                    advance_to(done)

                advance_to(done)
                pool.run(chunks, count, is_stopping)
        wanted = {group.key for group in groups}
        found = [one for one in parts.documents() if one["group"] in wanted]
    return {
        "groups": len(groups),
        "done": len(found),
        "problems": sum("problem" in one for one in found),
        "already": already,
        "seconds": round(time.monotonic() - began, 1),
        "stopped": is_stopping(),
    }
