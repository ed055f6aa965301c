"""The refiner of photographs learns, nothing else does; views show what is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.errors import InvalidConfigError
from calico_model.inference.mask_refinement import photo_encoder
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.modeling.adapter import base_state
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner
from calico_model.modeling.model import Calico
from calico_model.modeling.photo_trunk import PhotoTrunk
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.photo_refiner import (
    PhotoRefinerTask,
    rough,
    train_photo_refiner,
)
from calico_model.training.add_ons.photo_views import PhotoViews, Wish, fill_views
from calico_model.training.add_ons.recipes import PhotoRefinerRecipe
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind
from tests.conftest import build_micro

SIZE = (90, 120)


def box_mask(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def cars(seed: int) -> LabeledGroup:
    """Two images of a body with a window and two wheels."""
    rng = np.random.default_rng(seed)
    images, parts = [], []
    for index in range(2):
        shift = int(rng.integers(0, 10))
        masks = {
            "car": box_mask(20, 80, 10 + shift, 100 + shift),
            "window": box_mask(25, 45, 30 + shift, 60 + shift),
            "wheel": box_mask(60, 80, 15 + shift, 35 + shift)
            | box_mask(60, 80, 75 + shift, 95 + shift),
        }
        image = rng.integers(0, 60, (*SIZE, 3)).astype(np.uint8)
        for number, (name, mask) in enumerate(masks.items()):
            image[mask] += np.uint8(60 * (number + 1))
            kind = RegionKind.COMMON_OBJECT if name == "car" else RegionKind.COMMON_PART
            parts.append(PartMask(index, kind, name, mask))
        images.append(image)
    group = ImageGroup(tuple(images), (f"{seed}-a", f"{seed}-b"))
    return LabeledGroup(group, tuple(parts))


@pytest.fixture(scope="module")
def view_folder(
    tokenizer: Tokenizer, photo_trunk: PhotoTrunk, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    model = build_micro(tokenizer.size, photo_side=128)
    model._photo_trunk.append(photo_trunk)
    folder = tmp_path_factory.mktemp("photo-refiner") / "views"
    fill_views(folder, [cars(seed) for seed in range(3)], photo_encoder(model), seed=1)
    return folder


@pytest.fixture
def views(view_folder: Path) -> PhotoViews:
    return PhotoViews(view_folder)


def test_views_show_the_whole_and_places_of_its_regions(views: PhotoViews) -> None:
    assert len(views) >= 6 * 3
    whole = views[0]
    assert whole.image.shape == (VIEW, VIEW, 3)
    assert [one.shape[1] for one in whole.maps] == [VIEW // 2 >> level for level in range(4)]
    kinds = dict.fromkeys(whole.wishes)
    assert list(kinds) == [Wish.OBJECT, Wish.PART, Wish.SPLIT]
    assert whole.wishes.count(Wish.PART) == 3  # the window and each wheel
    every = [mask.mean() for index in range(len(views)) for mask in views[index].masks]
    assert min(every) >= 0.004
    closer = [mask.mean() for index in range(1, 6) for mask in views[index].masks]
    assert max(closer) > 0.4  # a place of a wheel shows little else


def test_views_are_written_once(views: PhotoViews, view_folder: Path) -> None:
    def encode(image: np.ndarray) -> tuple[torch.Tensor, ...]:
        raise AssertionError("encoded again")

    again = fill_views(view_folder, [cars(9)], encode, seed=1)
    assert len(again) == len(views)
    assert np.array_equal(again[3].image, views[3].image)


def recipe(steps: int = 3) -> PhotoRefinerRecipe:
    return PhotoRefinerRecipe(steps=steps, masks=4, rounds=2, checkpoint_every=2)


def test_only_the_refiner_learns_and_a_stopped_run_goes_on(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    weights = tmp_path / "micro"
    save_model(build_micro(tokenizer.size, photo_side=128), tokenizer, weights, dtype=torch.float32)
    pictures = {"photographs": [cars(1), cars(2)], "drawings": [cars(3)]}
    whole = train_photo_refiner(recipe(), weights, pictures, tmp_path / "whole")
    asked = iter([False, False, True])
    stopped = train_photo_refiner(
        recipe(), weights, pictures, tmp_path / "parts", stop=lambda: next(asked)
    )
    assert stopped is None
    assert not (tmp_path / "parts" / "model").exists()
    parts = train_photo_refiner(recipe(), weights, pictures, tmp_path / "parts")
    before = base_state(load_model(weights)[0])
    one, other = base_state(load_model(whole)[0]), base_state(load_model(parts)[0])
    assert {name.split(".")[0] for name in one.keys() - before.keys()} == {"photo_refiner"}
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    for name, tensor in before.items():
        assert torch.equal(tensor.to(torch.bfloat16), one[name].to(torch.bfloat16)), name
    assert one["photo_refiner.edge.1.weight"].any()
    with pytest.raises(InvalidConfigError, match="steps: the run was started with 3, got 4"):
        train_photo_refiner(recipe(4), weights, pictures, tmp_path / "whole")


def test_a_model_without_a_photo_trunk_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(build_micro(tokenizer.size), tokenizer, tmp_path / "micro", dtype=torch.float32)
    with pytest.raises(InvalidConfigError, match="photo_trunk"):
        train_photo_refiner(recipe(), tmp_path / "micro", {"photographs": [cars(1)]}, tmp_path)


def test_a_few_steps_lower_the_loss(views: PhotoViews, photo_model: Calico) -> None:
    torch.manual_seed(3)
    photo_model.add_on(["photo_refiner"])
    assert photo_model.photo_refiner is not None
    photo_model.photo_refiner.requires_grad_(True)
    task = PhotoRefinerTask(photo_model.photo_refiner, [views], recipe())
    optimiser = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for step in range(24):
        loss, terms = task.training_step(step)
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(terms["loss"].detach()))
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_what_a_view_holds_changes_the_answer(photo_model: Calico) -> None:
    torch.manual_seed(4)
    refiner = MaskRefiner(0, (24, 48, 120, 1280))
    torch.nn.init.normal_(refiner.edge[-1].weight)
    views = torch.randn(2, 8, VIEW, VIEW)
    maps = [
        torch.randn(2, c, VIEW // 2 >> k, VIEW // 2 >> k) for k, c in enumerate((24, 48, 120, 1280))
    ]
    nothing = views[:, :0, : VIEW // 2, : VIEW // 2]
    first = refiner(views, nothing, maps)
    for level in range(4):
        others = [one * (2.0 if k == level else 1.0) + (k == level) for k, one in enumerate(maps)]
        assert not torch.allclose(refiner(views, nothing, others), first), level


def test_rough_masks_are_like_the_truth_but_not_it() -> None:
    rng = np.random.default_rng(2)
    truth = np.zeros((VIEW, VIEW), np.bool_)
    truth[30:90, 40:100] = True
    beside = np.roll(truth, 60, 1)
    ious = []
    for _ in range(60):
        mask = rough(truth, [beside], rng)
        ious.append((mask & truth).sum() / (mask | truth).sum())
    assert 0.5 < np.mean(ious) < 0.95
    assert max(ious) < 1.0
