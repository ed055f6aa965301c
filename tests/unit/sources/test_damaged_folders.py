"""Folders of sources that are damaged, wrong, or written over while they are used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from calico_model.errors import CheckpointError
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.hub_folder import look_into
from tests.unit.sources import test_sam
from tests.unit.sources.small_models import opened, picture

CLICK = MaskPrompt((Click(20.0, 20.0),))
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "sam"
    test_sam.save(folder, is_hq=False)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "sam"
    shutil.copytree(whole, copied)
    return copied


def written(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Other tensors in the weights."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def configured(**fields: Any) -> Damage:
    """Other fields of the image encoder."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        config["vision_config"] |= fields
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


def indexed(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "elsewhere.safetensors")
        index = {"weight_map": {"a": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def processed(**fields: Any) -> Damage:
    return written(PROCESSOR, json.dumps(fields).encode())


def without_first(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = torch.zeros(3, 5)


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)].flatten()[0] = float("nan")


REFUSED: dict[str, tuple[Damage, str]] = {
    "weights of 0 bytes": (written(WEIGHTS, b""), "no SamModel can be read"),
    "weights cut off": (written(WEIGHTS, b"\x10" * 4000), "no SamModel can be read"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: expected the weights"),
    "a tensor is missing": (changed(without_first), "lack 1 tensors of SamModel, such as"),
    "a tensor has another shape": (changed(misshapen), "other shapes than its config.json says"),
    "a tensor is not finite": (changed(not_finite), "holds values that are not finite"),
    "weights in another folder": (indexed("../elsewhere.safetensors"), "expected files of the"),
    "configuration of 0 bytes": (written(CONFIG, b""), f"{CONFIG}: expected JSON"),
    "configuration in Latin-1": (written(CONFIG, b'{"a": "\xe4"}'), f"{CONFIG}: expected JSON"),
    "configuration too deep": (written(CONFIG, b"[" * 100_000), "cannot be read: RecursionError"),
    "larger than its weights": (configured(hidden_size=10**7), "other shapes than its config"),
    "patches of 0 pixels": (configured(patch_size=0), "no SamModel can be read"),
    "processor of 0 bytes": (written(PROCESSOR, b""), f"{PROCESSOR}: expected JSON"),
    "deviation 0": (processed(image_mean=[0, 0, 0], image_std=[1, 0, 1]), "above 0"),
    "two channels": (processed(image_mean=[0, 0], image_std=[1, 1]), "three numbers each"),
    "words for a mean": (processed(image_mean="red", image_std=[1, 1, 1]), "three numbers each"),
}


@pytest.mark.parametrize(("damage", "message"), REFUSED.values(), ids=REFUSED)
def test_a_damaged_folder_is_refused_with_the_reason(
    folder: Path, damage: Damage, message: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        opened(folder)


def test_a_folder_that_may_not_be_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(CheckpointError, match="cannot be read: PermissionError"):
        opened(folder)


def test_weights_that_are_written_over_do_not_change_a_source_that_runs(folder: Path) -> None:
    """As `cp` and `rsync --inplace` write: into the file that is open."""
    source = opened(folder)
    before = source.logits(source.encode(picture()), CLICK)  # type: ignore[attr-defined]
    size = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\0" * (size - size // 4))
    after = source.logits(source.encode(picture()), CLICK)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(0)  # a page of the file that is gone would end the process
    after = source.logits(source.encode(picture()), CLICK)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_other_weights_have_another_digest(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    test_sam.save(other, is_hq=False, seed=1)
    digests = {look_into(path).digest() for path in (folder, other)}
    assert digests == {opened(path).describe().weights for path in (folder, other)}
    assert len(digests) == 2
