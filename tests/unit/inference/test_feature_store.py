"""Features on disk: what comes back is what went in, or an error that says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.feature_store import FeatureStore
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.mask_decoder import MaskFeatures

KEY = "ab" + "0" * 62

FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.inference.test_feature_store import KEY, features, open_store
from calico_model.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    open_store(Path(sys.argv[1])).put(KEY, features())
except CheckpointError as error:
    print(error)
"""


def features() -> ImageFeatures:
    torch.manual_seed(1)
    mask = MaskFeatures(torch.randn(1, 8, 4, 4), (torch.randn(1, 2, 8, 8), torch.randn(1, 1, 9, 9)))
    photo = tuple(torch.randn(1, 3 + k, 8 >> k, 8 >> k) for k in range(4))
    return ImageFeatures(torch.randn(1, 5, 12), torch.randn(1, 7, 6), mask, photo)


def tensors(found: ImageFeatures) -> list[torch.Tensor]:
    tokens = (found.global_tokens, found.semantic_tokens)
    return [*tokens, found.mask.embedding, *found.mask.fine, *found.photo]


def open_store(folder: Path, *, encoder: str = "e" * 64, max_bytes: int = 10**6) -> FeatureStore:
    return FeatureStore(folder, encoder=encoder, max_bytes=max_bytes)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    found = open_store(tmp_path)
    found.put(KEY, features())
    return found


def test_what_was_kept_comes_back_in_bfloat16(store: FeatureStore) -> None:
    assert KEY in store
    for found, given in zip(tensors(store.get(KEY)), tensors(features()), strict=True):
        assert torch.equal(found, given.bfloat16())


def test_features_without_photo_maps_come_back_without(store: FeatureStore) -> None:
    other = KEY.replace("0", "1")
    store.put(other, replace(features(), photo=()))
    assert store.get(other).photo == ()
    assert len(store.get(KEY).photo) == 4
    assert store.get(KEY).nbytes == sum(2 * one.numel() for one in tensors(features()))


def test_photo_maps_go_with_their_image() -> None:
    both = concatenate([features(), features()])
    assert [tuple(one.shape) for one in both.photo] == [
        (2, 3 + k, 8 >> k, 8 >> k) for k in range(4)
    ]
    own = both.image(1)
    assert all(torch.equal(a, b) for a, b in zip(tensors(own), tensors(features()), strict=True))
    own.photo[0].zero_()
    assert bool(both.photo[0][1].any())  # memory of its own


def test_other_encoders_have_other_features(store: FeatureStore, tmp_path: Path) -> None:
    other = open_store(tmp_path, encoder="f" * 64)
    assert KEY not in other
    with pytest.raises(CheckpointError, match="missing; run again"):
        other.get(KEY)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda p: p.write_bytes(p.read_bytes()[:-9]), lambda p: p.write_bytes(b"")],
)
def test_damage_is_found_on_reading_and_removed(
    store: FeatureStore, damage: Callable[[Path], object]
) -> None:
    damage(store.path(KEY))
    with pytest.raises(CheckpointError, match=f"{KEY}.safetensors: damaged: .*run again"):
        store.get(KEY)
    assert KEY not in store


def test_a_file_under_another_name_is_damage(store: FeatureStore) -> None:
    other = KEY.replace("0", "1")
    store.path(other).write_bytes(store.path(KEY).read_bytes())
    with pytest.raises(CheckpointError, match="does not fit"):
        store.get(other)


def test_the_ceiling_counts_everything_in_the_folder(store: FeatureStore, tmp_path: Path) -> None:
    size = store.path(KEY).stat().st_size
    other = open_store(tmp_path, encoder="f" * 64, max_bytes=size + 1000)
    other.reserve(1, 1000)
    with pytest.raises(InvalidConfigError, match=r"2 images need .* ceiling is"):
        other.reserve(2, 501)
    with pytest.raises(InvalidConfigError, match=r"the disk of .* left"):
        open_store(tmp_path, max_bytes=2**70).reserve(1, 2**60)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    root = Path(__file__).parents[3]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert "could not be written" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_leftovers_of_killed_processes_are_swept(store: FeatureStore) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = store.path(KEY).with_name(f".{KEY}.safetensors.{gone.pid}")
    left.write_bytes(b"half")
    store.reserve(1, 1)
    assert not left.exists()
    assert KEY in store
