"""A study: runs all rows of a table with all seeds, several at a time; goes on after a stop.

Owns the study's folder: plan, scenes, features, dictionary, held-out groups, one folder per trial.
Every trial is a process with one thread: at this size, several rows use the cores better than
several threads of one row.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Queue

import torch

from calico_model.config import AblationConfig
from calico_model.data.groups import read_groups
from calico_model.data.pool import ScenePool, fill_pool
from calico_model.data.synthetic import write_groups
from calico_model.errors import InvalidConfigError
from calico_model.loading.checkpoints import fingerprint, load_model
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from research.ablation.plan import AblationRow, TrialPlan
from research.ablation.scenes import SceneFeatures, Scenes
from research.ablation.start import PartDictionary, fit_dictionary
from research.ablation.trial import OUTCOME, Material, TrialOutcome, read_outcome, run_trial

_SCENE_SEED, _GROUP_SEED, _FIT_SEED = 1, 1, 0
_FIT_STEPS, _ALL_MASKS = 40, 10_000
_DICTIONARY = "dictionary.safetensors"
_GROUPS_PER_CHUNK = 32
_PATIENCE_S = 0.5


@dataclass(frozen=True)
class Study:
    """What a study compares.

    Attributes:
        weights: model folder that lends its vision side and tokenizer.
        plan: how every row is trained and judged.
        rows: of one table.
        seeds: each row runs once with each.
        out: folder of the study.
    """

    weights: Path
    plan: TrialPlan
    rows: tuple[AblationRow, ...]
    seeds: tuple[int, ...]
    out: Path

    @property
    def trials(self) -> tuple[tuple[AblationRow, int], ...]:
        """Rows and seeds in the order they are run: a whole table, then the next seed."""
        return tuple((row, seed) for seed in self.seeds for row in self.rows)

    def folder(self, row: AblationRow, seed: int) -> Path:
        """Where a trial leaves its files."""
        return self.out / "trials" / f"{row.key}-{seed}"

    def finished(self) -> dict[tuple[str, int], TrialOutcome]:
        """Reads the outcomes of the trials that are finished, by row key and seed."""
        paths = {(row.key, seed): self.folder(row, seed) / OUTCOME for row, seed in self.trials}
        return {trial: read_outcome(path) for trial, path in paths.items() if path.is_file()}


@dataclass(frozen=True)
class StudyProgress:
    """How far one piece of work is.

    Attributes:
        work: name of the work; of a trial, its row and seed.
        done: finished units.
        total: number of units.
    """

    work: str
    done: int
    total: int


Listener = Callable[[StudyProgress], None]


def prepare(study: Study, *, workers: int, on_progress: Listener) -> None:
    """Makes what all trials share and what is missing: groups, scenes, features, dictionary.

    Args:
        study: whose folder is filled.
        workers: number of processes that draw.
        on_progress: called after every unit of work.

    Raises:
        InvalidConfigError: the folder belongs to a study of another plan, or the weights lack a
            part that a row needs.
        CheckpointError: unusable weights.
    """
    base, tokenizer = load_model(study.weights)
    if base.config.ablation != AblationConfig():
        raise InvalidConfigError(
            f"--weights: expected a model with all parts, {study.weights.name} lacks some"
        )
    _claim(study)
    plan, out = study.plan, study.out

    def tell(work: str, total: int) -> Callable[[int], None]:
        return lambda done: on_progress(StudyProgress(work, min(done, total), total))

    if not (out / "groups").is_dir():
        write_groups(
            out / "groups",
            groups=plan.groups,
            seed=_GROUP_SEED,
            split=plan.split,
            workers=workers,
            on_progress=tell("drawing groups for testing", plan.groups),
        )
    dictionary = out / _DICTIONARY
    is_new = not dictionary.is_file()  # the dictionary is made last, from a full pool
    if is_new:
        fill_pool(
            out / "pool",
            scenes=plan.scenes,
            seed=_SCENE_SEED,
            size_px=base.config.image_size,
            workers=workers,
            groups_per_chunk=_GROUPS_PER_CHUNK,
            on_progress=tell("drawing scenes", plan.scenes),
        )
    scenes = _open_scenes(study, base, tokenizer)
    scenes.features.fill(base, on_progress=tell("encoding scenes", len(scenes.pool)))
    if is_new:
        unlimited = replace(plan, masks=_ALL_MASKS)
        batches = (
            scenes.batch(base.config, unlimited, _FIT_SEED, step) for step in range(_FIT_STEPS)
        )
        tell_read = tell("reading the decoder's prompts", _FIT_STEPS)
        fit_dictionary(base, batches, on_progress=tell_read).save(dictionary)


def _claim(study: Study) -> None:
    """Writes the plan into the folder, or checks that the plan there is the same."""
    plan = {"weights": fingerprint(study.weights)} | asdict(study.plan)
    path = study.out / "plan.json"
    if path.is_file():
        written = json.loads(path.read_text("utf-8"))
        for name, value in plan.items():
            if written.get(name) != value:
                raise InvalidConfigError(
                    f"--out: {study.out} was begun with {name} {written.get(name)}, now {value}; "
                    "choose another folder"
                )
        return
    study.out.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(plan, indent=1) + "\n", "utf-8")
    staged.rename(path)


def run_study(
    study: Study, *, jobs: int, on_progress: Listener
) -> dict[tuple[str, int], TrialOutcome]:
    """Runs the trials that are not finished; `prepare` has to be called before.

    Args:
        study: what to run.
        jobs: number of trials at a time.
        on_progress: called in this process with what the trials report, every half second.

    Returns:
        The outcome of every trial, by row key and seed.
    """
    done = study.finished()
    waiting = [trial for trial in study.trials if (trial[0].key, trial[1]) not in done]
    if not waiting:
        return done
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
        ) as processes,
    ):
        events: Queue[StudyProgress] = manager.Queue()
        pending: set[Future[None]] = {
            processes.submit(_run_in_process, study, row, seed, events) for row, seed in waiting
        }
        try:
            while pending:
                ended, pending = wait(pending, _PATIENCE_S, return_when=FIRST_COMPLETED)
                while not events.empty():
                    on_progress(events.get())
                for future in ended:
                    future.result()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise
    return study.finished()


def _run_in_process(
    study: Study, row: AblationRow, seed: int, events: Queue[StudyProgress]
) -> None:
    totals = {"training": study.plan.steps, "judging": study.plan.groups}
    total = sum(totals.values())

    def tell(doing: str, done: int) -> None:
        before = 0 if doing == "training" else totals["training"]
        events.put(StudyProgress(f"{row.title}, seed {seed}", before + done, total))

    run_trial(
        study.plan,
        row,
        seed,
        open_material(study),
        study.folder(row, seed),
        on_progress=tell,
    )


def open_material(study: Study) -> Material:
    """Opens what `prepare` made, for one process."""
    base, tokenizer = load_model(study.weights)
    return Material(
        base,
        _open_scenes(study, base, tokenizer),
        PartDictionary.from_file(study.out / _DICTIONARY),
        read_groups(study.out / "groups"),
    )


def _open_scenes(study: Study, base: Calico, tokenizer: Tokenizer) -> Scenes:
    pool = ScenePool(study.out / "pool")
    return Scenes(pool, SceneFeatures(base, pool, study.out / "features"), tokenizer)
