"""Makes the files of release 0.1 beside this script; runs on the code of that release alone.

    git worktree add ../release-0.1 86123cf
    PYTHONPATH=../release-0.1 python tests/golden/release_0_1/make.py

A backend answers six tasks and journals what their annotators did; a trainer learns from it and
publishes one version. `files.tar.xz` keeps the database, the folder of the adapter and the base
weights, whose values are multiples of 1/32: random ones would be five times as large.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend.label_studio import brush, sample
from backend.learning.derivation import Derivation
from backend.learning.gate import GatePolicy
from backend.learning.repository import CorrectionRepository
from backend.learning.runs import RunRepository
from backend.learning.schedule import Cause, RunState
from backend.learning.training import TrainingSession
from backend.learning.updater import BaseGroups, OnlineUpdater
from backend.serving.app import close_app, create_app
from backend.settings import load_settings
from backend.store import open_store
from backend.versions import Versions
from calico_model.checkpoints import fingerprint, save_model
from calico_model.config import (
    CalicoConfig,
    EncoderConfig,
    LanguageConfig,
    LoraConfig,
    MaskConfig,
    PhotoTrunkConfig,
    QFormerConfig,
    TrunkConfig,
)
from calico_model.modeling.model import Calico
from calico_model.predictor import load_predictor
from calico_model.training.finetune import FinetunePlan
from calico_model.training.lexicon import small_tokenizer
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind

FOLDER = Path(__file__).parent
PROJECT, SIDE, TASKS = sample.PROJECT_ID, 64, 6
SQUARE = (slice(8, 40), slice(8, 40))
WIDER = (slice(8, 40), slice(8, 52))
BAR = (slice(48, 60), slice(4, 60))


def config(vocab_size: int) -> CalicoConfig:
    """calico-tiny's wiring, photo trunk included, as small as it gets."""
    return CalicoConfig(
        name="calico-minute",
        image_size=64,
        trunk=TrunkConfig(widths=(4, 8, 16, 16), depths=(1, 1, 1, 1)),
        eva=EncoderConfig(4, 4, 1, 32, 1, 2, 64, channels=16),
        dino=EncoderConfig(4, 4, 1, 16, 1, 2, 32, channels=16, registers=2),
        qformer=QFormerConfig(4, 16, 1, 2, 32, cross_attention_every=1),
        mask=MaskConfig(
            encoder=EncoderConfig(8, 8, 1, 16, 1, 2, 32, channels=16),
            window=4,
            global_layers=(),
            relative_positions=False,
            prompt_width=32,
            decoder_heads=4,
            decoder_mlp=32,
            high_resolution=True,
        ),
        language=LanguageConfig(vocab_size, 32, 4, 2, 64, max_positions=512),
        lora=LoraConfig(rank=2, dropout=0.0),
        cem_heads=2,
        max_answer_tokens=8,
        photo_trunk=PhotoTrunkConfig(side=64),
        asks_in_pairs=True,
    )


def coarse(values: torch.Tensor) -> torch.Tensor:
    """The nearest multiples of 1/32, which an archive stores in few bits."""
    return (values * 32).round() / 32


def save_weights(folder: Path) -> None:
    """Writes base weights as initialisation leaves them."""
    tokenizer = small_tokenizer()
    torch.manual_seed(3)
    model = Calico(config(tokenizer.size))
    model.initialise()
    model.add_on(["dense_head"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(coarse(parameter))
    save_model(model.eval(), tokenizer, folder, dtype=torch.bfloat16)


def urls(task_id: int) -> list[str]:
    """URLs of a task's images."""
    return [sample.local_file_url(f"task{task_id}-{letter}.png") for letter in "ab"]


def mask(place: tuple[slice, slice]) -> np.ndarray:
    """A rectangle of an image."""
    drawn = np.zeros((SIDE, SIDE), np.bool_)
    drawn[place] = True
    return drawn


class DrawnImages:
    """Draws a bright square and a bar, differently bright in every task."""

    def fetch_group(self, task: object) -> ImageGroup:
        """Draws both images of a task."""
        images = []
        for index in range(2):
            image = np.full((SIDE, SIDE, 3), 20 * task.id + index, np.uint8)  # type: ignore
            image[SQUARE] = (220, 40, 40)
            image[BAR] = (40, 40, 220)
            images.append(image)
        return ImageGroup(tuple(images), ("a", "b"))


class Draughtsman:
    """Answers as a trained model might: the square under its name, a bar under a wrong one."""

    def __init__(self, version: str) -> None:
        self.version = version

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Both parts in both images."""
        parts = [
            PartMask(index, RegionKind.COMMON_PART, name, mask(place), score=0.75)
            for index in range(len(group))
            for name, place in (("lid", SQUARE), ("thing", BAR))
        ]
        return GroupPrediction(tuple(parts), self.version)


def named(region: str, index: int, place: tuple[slice, slice], name: str) -> list[dict]:
    """Results of one drawn region with its name."""
    rle = brush.encode_mask(mask(place))
    return [
        *sample.mask_results(region, index, list(rle), side=SIDE),
        sample.name_result(region, index, name, side=SIDE),
    ]


def rename(results: list[dict], old: str, new: str) -> list[dict]:
    """Results of a prediction with one name replaced."""
    return [
        result | {"value": {"text": [new]}} if result["value"].get("text") == [old] else result
        for result in results
    ]


def reshape(results: list[dict], place: tuple[slice, slice]) -> list[dict]:
    """Results of a prediction with the mask of its first region replaced."""
    first, rle = results[0]["id"], list(brush.encode_mask(mask(place)))
    return [
        result | {"value": result["value"] | {"rle": rle}, "origin": "prediction-changed"}
        if result["id"] == first and "rle" in result["value"]
        else result
        for result in results
    ]


def annotate(client: object, task_id: int, predicted: list[dict]) -> None:
    """Posts what an annotator made of a prediction; every task is corrected in another way."""
    shown = [result for result in predicted if "value" in result]
    made = {
        1: shown,  # accepted
        2: rename(shown, "thing", "rim"),  # relabelled
        3: reshape(shown, WIDER) + named("drawn00001", 1, WIDER, "rim"),  # reshaped, added
        4: named("drawn00002", 0, WIDER, "lid") + named("drawn00003", 1, BAR, "knob"),  # drawn anew
        5: [result for result in shown if result["to_name"] == "image_0"],  # removed
        6: rename(shown, "lid", "cap"),  # deleted again below
    }[task_id]
    body = sample.annotation_body(100 + task_id, made, urls=urls(task_id), task_id=task_id)
    post(client, "/webhook", body)
    if task_id == 2:
        again = rename(made, "rim", "edge")
        body = sample.annotation_body(100 + task_id, again, urls=urls(task_id), task_id=task_id)
        body["annotation"]["updated_at"] = "2026-01-02T00:00:00Z"  # type: ignore[index]
        post(client, "/webhook", body | {"action": "ANNOTATION_UPDATED"})
    if task_id == 6:
        post(client, "/webhook", sample.deletion_body(100 + task_id))


def post(client: object, path: str, body: object) -> dict:
    """Posts JSON; returns the JSON that comes back."""
    response = client.post(path, json=body)  # type: ignore[attr-defined]
    assert response.status_code < 300, f"{path}: {response.get_data(as_text=True)}"
    answer: dict = response.get_json(silent=True) or {}
    return answer


def serve(data: Path, weights: Path) -> None:
    """Answers every task and journals its annotations."""
    settings = load_settings(data_dir=data, commit_timeout_ms=30_000)
    version = load_predictor(weights).version
    app = create_app(settings, load=lambda: Draughtsman(version), images=DrawnImages())
    app.extensions["calico"].host.wait(30)
    client = app.test_client()
    post(client, "/setup", sample.setup_body())
    bodies = sample.predict_body([urls(task_id) for task_id in range(1, TASKS + 1)])
    answers = post(client, "/predict", bodies)["results"]
    for task_id, answer in enumerate(answers, start=1):
        annotate(client, task_id, answer["result"])
    post(client, "/webhook", sample.training_body())
    close_app(app)


class CoarseUpdater(OnlineUpdater):
    """Writes adapters whose values are multiples of 1/32."""

    def update(self, *arguments: Any, **options: Any) -> Callable[[Path], object]:
        """Learns; returns what writes the adapter."""
        write = super().update(*arguments, **options)
        assert write is not None

        def write_coarse(folder: Path) -> None:
            write(folder)
            path = folder / "adapter_model.safetensors"
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            tensors = {name: coarse(value) for name, value in load_file(path).items()}
            save_file(tensors, path, metadata)

        return write_coarse


def train(data: Path, weights: Path) -> None:
    """Learns from the corrections and publishes a version."""
    settings = load_settings(data_dir=data)
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    repository, runs = CorrectionRepository(store), RunRepository(store)
    plan = FinetunePlan(least_steps=2, steps_per_example=0.0, most_steps=2, seconds=2.0)
    plan = replace(plan, views=0, dense=replace(plan.dense, most_views=0))
    updater = CoarseUpdater(
        load_predictor(weights),
        fingerprint(weights),
        DrawnImages(),
        data / "features",
        feature_bytes=2**24,
        base_groups=BaseGroups(),
        plan=plan,
    )
    session = TrainingSession(
        repository,
        Derivation(repository),
        None,
        Versions(store, settings.adapters_dir),
        runs,
        updater,
        policy=GatePolicy(known=0.0, collapse=100.0, nonsense=0.0),
        code="0.1.0",
    )
    run_id = runs.claim(PROJECT, Cause.BUTTON)
    assert run_id is not None
    state = session.train(PROJECT, run_id, stop=lambda: False)
    assert state is RunState.PUBLISHED, (state, runs.runs(PROJECT)[0])
    store.close()


def keep(data: Path, weights: Path) -> None:
    """Packs the database, the adapters and the weights beside this script."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(sqlite3.connect(data / "calico.sqlite3")) as database:
            database.execute("VACUUM INTO ?", [str(folder / "calico.sqlite3")])
        adapters = Path("adapters", str(PROJECT))
        shutil.copytree(data / adapters, folder / adapters)
        shutil.copytree(weights, folder / "weights")
        shutil.make_archive(str(FOLDER / "files"), "xztar", folder)


def main() -> None:
    """Makes everything anew."""
    with tempfile.TemporaryDirectory() as name:
        data, weights = Path(name, "data"), Path(name, "weights")
        save_weights(weights)
        serve(data, weights)
        train(data, weights)
        keep(data, weights)


if __name__ == "__main__":
    main()
