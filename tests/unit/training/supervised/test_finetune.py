"""Fine-tuning on records: it learns, resumes to the bit, and refuses what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.loading.checkpoints import fingerprint, load_model
from calico_model.loading.precision import Precision
from calico_model.modeling.adapter import load_adapter
from calico_model.training.supervised.finetune import FinetuneResult, finetune
from calico_model.training.supervised.recipe import FinetuneRecipe, Sharding
from calico_model.training.supervised.setup import FinetuneInputs
from tests.unit.modeling.adapters import adapter_state

pytestmark = pytest.mark.usefixtures("_fresh_accelerator")


def weights(result: FinetuneResult) -> dict[str, torch.Tensor]:
    (state,) = (result.adapter.parent / "state").glob("step-*/state.safetensors")
    return load_file(state)


def rows(out: Path) -> list[str]:
    return (out / "curve.csv").read_text().splitlines()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1000))
    return lambda: next(asked) >= steps


@pytest.fixture(scope="module")
def whole(
    recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path_factory: pytest.TempPathFactory
) -> FinetuneResult:
    """The run that nothing interrupted; the others must end in its bits."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return finetune(recipe, inputs, tmp_path_factory.mktemp("whole") / "run")


def test_it_learns_and_leaves_an_adapter(whole: FinetuneResult, inputs: FinetuneInputs) -> None:
    out = whole.adapter.parent
    table = [line.split(",") for line in rows(out)]
    losses = [float(row[table[0].index("loss")]) for row in table[1:]]
    assert losses[-1] < losses[0]
    assert (whole.step, whole.is_finished) == (4, True)
    assert whole.best_loss is not None

    model, _ = load_model(inputs.weights)
    before = adapter_state(model)
    load_adapter(model, whole.adapter, base=fingerprint(inputs.weights))
    now = adapter_state(model)
    assert not torch.equal(before["query_tokens"], now["query_tokens"])
    assert now["cams.0.reintegration.weight"].any()
    assert (out / "curve.png").is_file()


def test_interrupted_anywhere_it_ends_in_the_same_bits(
    whole: FinetuneResult, recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    assert not finetune(recipe, inputs, out, stop=after(1)).is_finished
    assert not finetune(recipe, inputs, out, stop=after(2)).is_finished
    parts = finetune(recipe, inputs, out)
    assert same(weights(whole), weights(parts))
    assert rows(out) == rows(whole.adapter.parent)
    assert parts == replace(whole, adapter=out / "adapter")
    assert finetune(recipe, inputs, out) == parts  # nothing left to do


def test_kept_features_train_the_same_bits(
    whole: FinetuneResult, recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    told: list[str] = []
    cached = replace(inputs, cache=tmp_path / "cache")
    first = finetune(recipe, cached, tmp_path / "kept", on_progress=lambda p: told.append(p.stage))
    assert told.count("encoding images") > 5
    assert same(weights(whole), weights(first))

    told.clear()
    short = replace(recipe, epochs=1)
    finetune(short, cached, tmp_path / "again", on_progress=lambda p: told.append(p.stage))
    assert "encoding images" not in told


def test_recomputed_layers_give_the_same_gradients(
    whole: FinetuneResult, recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    recomputed = finetune(replace(recipe, checkpointing=True), inputs, tmp_path / "recomputed")
    assert same(weights(whole), weights(recomputed))


def test_half_precision_keeps_what_is_trained_in_full(
    whole: FinetuneResult, recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    half = replace(recipe, precision=Precision.BF16, checkpointing=True)
    tuned = weights(finetune(half, inputs, tmp_path / "half"))
    assert {t.dtype for t in tuned.values()} == {torch.float32}
    name = "weight/cams.0.reintegration.weight"
    assert not torch.equal(tuned[name], tuned[name].bfloat16().float())
    exact = weights(whole)
    difference = (tuned[name] - exact[name]).norm() / exact[name].norm()
    assert 0 < difference < 0.5


def test_another_recipe_or_other_records_are_refused(
    recipe: FinetuneRecipe, inputs: FinetuneInputs, records: Path, tmp_path: Path
) -> None:
    finetune(recipe, inputs, tmp_path / "run", stop=after(1))
    with pytest.raises(InvalidConfigError, match="epochs: the run was started with 2, got 3"):
        finetune(replace(recipe, epochs=3), inputs, tmp_path / "run")
    with pytest.raises(InvalidConfigError, match="data: the run was started"):
        finetune(recipe, replace(inputs, validation=records), tmp_path / "run")


def lose_image(folder: Path) -> None:
    next((folder / "images").iterdir()).unlink()


def spoil_images(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no image")


def say_nothing(folder: Path) -> None:
    (folder / "records.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_image, "no file"),
        (spoil_images, "expected a readable image"),
        (say_nothing, "expected records with at least one question"),
    ],
)
def test_broken_records_are_named_and_leave_no_state(
    recipe: FinetuneRecipe,
    inputs: FinetuneInputs,
    records: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    said: str,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(records, broken)
    damage(broken)
    with pytest.raises(InvalidRecordError, match=said):
        finetune(recipe, replace(inputs, data=broken), tmp_path / "run")
    assert not (tmp_path / "run" / "state").exists()


def test_a_cache_too_small_is_refused_before_encoding(
    recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    small = replace(inputs, cache=tmp_path / "cache", cache_bytes=10_000)
    with pytest.raises(InvalidConfigError, match="feature cache: .* images need .* ceiling"):
        finetune(recipe, small, tmp_path / "run")
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_quantised_weights_are_not_divided(
    recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfigError, match="sharding: fsdp cannot divide nf4"):
        finetune(
            replace(recipe, precision=Precision.NF4),
            inputs,
            tmp_path / "run",
            sharding=Sharding.FSDP,
        )


def test_weights_that_pass_no_gradients_on_are_refused(
    recipe: FinetuneRecipe, inputs: FinetuneInputs, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfigError, match="int8 weights cannot be trained on a CPU"):
        finetune(replace(recipe, precision=Precision.INT8), inputs, tmp_path / "run")
    assert not (tmp_path / "run").exists()
