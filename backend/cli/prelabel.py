"""`calico prelabel`: predicts a large list of groups with several processes: files or tasks.

With --address the processes are on all machines of a fleet.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import typer

from backend.cli.connect import KeyOption, UrlOption
from backend.cli.options import (
    DataDirOption,
    DeviceOption,
    WeightsOption,
    command_settings,
    guest_store,
    is_given,
    load_weights,
    refuse_options,
)
from backend.cli.prelabel_manifest import ListedGroup, read_manifest
from backend.cli.prelabel_parts import Chunk, PartFolder
from backend.cli.prelabel_workers import Load, WorkerPool, begin_files
from backend.cli.progress import progress_bar, stop_requests
from backend.errors import SettingsError
from backend.settings import Settings
from backend.storage.adapter_files import adapter_files
from backend.storage.versions import AdapterVersion, Versions, verified_folder
from calico_model.evaluation.protocol import GroupPredictor


class JobPool(Protocol):
    """Workers of a job, as a context manager."""

    version: str

    def __enter__(self) -> JobPool:
        """Starts one worker and learns the version of its weights."""

    def __exit__(self, *_: object) -> None:
        """Ends all."""

    def run(
        self,
        shares: Sequence[Chunk],
        on_group: Callable[[], None],
        is_stopping: Callable[[], bool],
        /,
    ) -> None:
        """Has the chunks predicted."""


def prelabel(
    context: typer.Context,
    manifest: Annotated[
        str | None,
        typer.Argument(help="Folder, CSV file, or s3:// or gs:// address of either."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results.", metavar="DIR")
    ] = None,
    project: Annotated[
        int | None,
        typer.Option("--project", help="Predict the tasks of this project into Label Studio."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="VERSION", help="Learned version that predicts the groups."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes, each with a model of its own. [1, or what a fleet has room for]",
        ),
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", min=1, help="Groups in one file, or tasks at once.")
    ] = 100,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="CPU threads of one process.")
    ] = 1,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Groups that a model answers at once.")
    ] = 1,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    data_dir: DataDirOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="Predict on the machines of this fleet."
        ),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(
            "--cpus", min=0.1, help="Cores of a fleet that one worker counts for. [--threads]"
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus",
            min=0,
            help="Graphics cards of a fleet that one worker counts for. [1 with --device cuda]",
        ),
    ] = None,
) -> None:
    """Predict thousands of groups without a server; run it again to continue.

    In a folder, every folder with images is a group. In a CSV file every row is a group, and its
    cells are images: paths from the file's folder, or s3:// and gs:// addresses, for which
    calico-labeling[servers] is needed.

    DIR gets files part-HASH.jsonl. Their first line names the version and the groups, every other
    line holds one group's regions, as prediction.json of `calico predict` does, or its problem.
    A file is there once it is whole. Whatever is killed, each group is predicted once but for those
    under way. --batch 8 answers eight groups in one pass of the language model, which reads its
    weights once for all of them; it takes more memory. --version takes what a project has learned:
    a name of `calico versions`.

    --address predicts on the machines of a fleet (`calico fleet up`), and writes DIR here. Run it
    on the head, or where `calico fleet join` runs, with the same data folder and
    CALICO_DATABASE_URL. Images have to be where all machines see them: at s3:// or gs://, or in a
    shared folder under one name. --weights is on every machine, too.

    --project predicts the tasks that nobody has begun instead, by the version that is served for
    the project, and stores the predictions in Label Studio, each once. Run it where the backend's
    database and settings are.

    Examples:
    calico prelabel photographs --out predictions --workers 2
    calico prelabel s3://BUCKET/photographs --out predictions --address 10.0.0.1:6390
    calico prelabel --project 7 --workers 2

    The last line of the output is JSON: groups, done, problems, already, seconds and stopped; with
    --project version, tasks, done, left, problems, seconds and stopped.
    """
    given: dict[str, object] = {"model_threads": threads}
    if weights is not None:
        given["weights"] = weights
    if is_given(context, "device"):
        given["device"] = device
    if project is not None:
        others = ("out", "version", "address", "cpus", "gpus")
        wrong = {name for name in others if is_given(context, name)}
        refuse_options(wrong, "expected it with MANIFEST, not with --project")
        if manifest is not None:
            raise SettingsError("MANIFEST: expected none with --project: its tasks are the groups")
        if is_given(context, "batch"):
            given["groups_at_once"] = batch
        settings = command_settings(
            data_dir=data_dir, label_studio_url=url, label_studio_api_key=api_key, **given
        )
        from backend.cli.prelabel_project import run_project

        counts: Mapping[str, object] = run_project(
            settings, project, workers=workers or 1, size=chunk
        )
    else:
        refuse_options(
            {name for name in ("url", "api_key") if is_given(context, name)},
            "expected it with --project",
        )
        if manifest is None or out is None:
            raise SettingsError("expected MANIFEST and --out DIR, or --project ID")
        groups = read_manifest(manifest)
        load: Load = functools.partial(load_model, weights, device, threads)
        if version is not None:
            settings = command_settings(data_dir=data_dir, **given)
            load = functools.partial(load_version, settings, find_version(settings, version))
        if address is None:
            wrong = {name for name in ("cpus", "gpus") if is_given(context, name)}
            refuse_options(wrong, "expected it with --address")
            counts = run_job(groups, out, load, workers=workers or 1, size=chunk, at_once=batch)
        else:
            if device.startswith("cuda:"):
                raise SettingsError(
                    f"--device: expected cpu or cuda with --address, got {device}: a worker is "
                    "given its card"
                )
            from backend.cli.prelabel_fleet import join_fleet

            parts = PartFolder(out)
            pool = join_fleet(
                load,
                parts,
                data_dir,
                address,
                workers=workers,
                at_once=batch,
                cpus=threads if cpus is None else cpus,
                gpus=float(device.startswith("cuda")) if gpus is None else gpus,
            )
            counts = run_pool(groups, parts, pool, size=chunk)
    typer.echo(json.dumps(counts))


def find_version(settings: Settings, version_id: str) -> AdapterVersion:
    """Returns a learned version of the database.

    Raises:
        SettingsError: there is none of this name.
    """
    with guest_store(settings) as store:
        found = Versions(store, adapter_files(settings)).find(version_id)
    if found is None:
        raise SettingsError(f"--version: no version {version_id}; see `calico versions`")
    return found


def load_version(settings: Settings, version: AdapterVersion) -> GroupPredictor:
    """Loads the model of one worker with what a project has learned.

    Raises:
        DamagedFilesError: the version's files are others than those that were registered.
        FilesUnavailableError: they cannot be reached now.
        CheckpointError: they belong to other weights.
    """
    from backend.serving.loaded_model import load_base_model

    folder = verified_folder(adapter_files(settings), version)
    return load_base_model(settings).with_adapter(version.id, folder)


def load_model(weights: Path | None, device: str, threads: int) -> GroupPredictor:
    """Loads the model of one worker."""
    import torch

    torch.set_num_threads(threads)
    return load_weights(weights, device)


def run_job(
    groups: tuple[ListedGroup, ...],
    out: Path,
    load: Load,
    *,
    workers: int,
    size: int,
    at_once: int = 1,
) -> dict[str, int | float | bool]:
    """Predicts what is not done yet; returns the counts of the last line.

    Args:
        groups: each once.
        out: folder of the files.
        load: makes the model in a worker.
        workers: processes.
        size: groups in one file.
        at_once: groups that a model answers at once.

    Raises:
        SettingsError: the folder cannot be used.
        PrelabelError: workers die of a chunk, or an image cannot be reached.
    """
    pool = WorkerPool(functools.partial(begin_files, load, out, at_once), out, workers)
    return run_pool(groups, PartFolder(out), pool, size=size)


def run_pool(
    groups: tuple[ListedGroup, ...], parts: PartFolder, pool: JobPool, *, size: int
) -> dict[str, int | float | bool]:
    """Predicts with some workers what is not done yet; see `run_job`."""
    began, is_stopping = time.monotonic(), stop_requests()
    with parts.alone():
        with pool:
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
