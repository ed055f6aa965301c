"""Rows begin alike, but for what they say they leave out."""

from __future__ import annotations

import copy

import pytest
import torch

from calico_model.data.catalogue import TRAINED_CATEGORIES
from calico_model.errors import InvalidConfigError
from calico_model.modeling.model import Calico
from calico_model.training.pretraining.batches import WHOLE
from research.ablation.plan import (
    COMPONENTS,
    FULL,
    PLACEMENT,
    AblationRow,
    Start,
    TrialPlan,
    select_rows,
)
from research.ablation.start import PartDictionary, build_row, fit_dictionary
from research.ablation.trial import Material, train_row

ROWS = {row.key: row for row in (*PLACEMENT, *COMPONENTS)}
LEFT_OUT = {
    "without_qformer": {"qformer", "query_tokens", "cem", "cams"},
    "without_dino": {"dino", "cem"},
    "without_cem": {"cem"},
    "without_cam": set(),
    "without_cem_and_cam": {"cem", "cams"},
    "full": set(),
}
VISION = ("trunk.", "eva.", "dino.", "sam_encoder.", "mask_decoder.")


def build(
    base: Calico, row: AblationRow, *, seed: int = 27, start: Start = Start.SCRATCH
) -> Calico:
    return build_row(base, row, seed=seed, start=start)


def parts(model: Calico) -> set[str]:
    return {name.split(".")[0] for name, _ in model.named_parameters()}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_a_row_lacks_what_it_says_and_nothing_else(base: Calico, key: str) -> None:
    full, row = build(base, ROWS[FULL]), build(base, ROWS[key])
    assert parts(full) - parts(row) == LEFT_OUT[key]
    assert parts(row) <= parts(full)


def test_switches_say_what_weights_cannot(base: Calico) -> None:
    assert not build(base, ROWS["without_cam"]).config.ablation.use_cam_guidance
    assert [len(build(base, row).cams) for row in PLACEMENT] == [1, 2, 3]


@pytest.mark.parametrize("key", [key for key in ROWS if key != FULL])
def test_shared_parts_start_with_the_same_values(base: Calico, key: str) -> None:
    full, row = build(base, ROWS[FULL]).state_dict(), build(base, ROWS[key]).state_dict()
    shared = [name for name in row if name in full and row[name].shape == full[name].shape]
    unequal = {name.split(".")[0] for name in row} - {name.split(".")[0] for name in shared}
    assert unequal <= {"image_projection"}  # of the wider tokens that replace the Q-Former's
    assert len(shared) > 0.5 * len(row)
    assert all(torch.equal(row[name], full[name]) for name in shared)


def test_another_seed_starts_elsewhere_but_sees_the_same(base: Calico) -> None:
    one, two = build(base, ROWS[FULL]).state_dict(), build(base, ROWS[FULL], seed=28).state_dict()
    assert not torch.equal(one["query_tokens"], two["query_tokens"])
    assert not torch.equal(one["language.lm_head.weight"], two["language.lm_head.weight"])
    assert all(torch.equal(one[name], two[name]) for name in one if name.startswith(VISION))


def test_the_eyes_are_the_weights_own_and_frozen(base: Calico) -> None:
    given, model = base.state_dict(), build(base, ROWS[FULL])
    seen = {name: v for name, v in model.state_dict().items() if name.startswith(VISION)}
    assert all(torch.equal(value, given[name]) for name, value in seen.items())
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name in seen if name.startswith("mask_decoder.mask_decoder.")}.isdisjoint(
        frozen
    )
    assert all(name.startswith(VISION) for name in frozen)
    assert {"trunk", "eva", "dino", "sam_encoder"} <= {name.split(".")[0] for name in frozen}


@pytest.mark.parametrize(
    "key", [key for key in ROWS if key not in ("without_qformer", "without_cem_and_cam")]
)
def test_before_training_every_row_answers_as_without_injection(
    base: Calico, material: Material, key: str
) -> None:
    bare, row = build(base, ROWS["without_cem_and_cam"]), build(base, ROWS[key])
    batch = material.scenes.batch(row.config, TrialPlan(pairs=2, masks=4), 27, 0)
    assert batch.turns is not None
    assert batch.features is not None
    with torch.no_grad():
        expected = bare(batch.features, batch.turns.conversations)
        answered = row(batch.features, batch.turns.conversations)
    assert len(row.cams) > 0
    assert all(torch.equal(a, b) for a, b in zip(answered, expected, strict=True))


@pytest.mark.parametrize("key", [key for key in ROWS if key != "without_cem_and_cam"])
def test_everything_that_may_learn_does(base: Calico, material: Material, key: str) -> None:
    """Two maps of zeros in a row would keep each other's gradient at zero."""
    model = build(base, ROWS[key])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_row(model, TrialPlan(steps=3, pairs=2, masks=4), 27, material)
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    unguided = {f"cams.{k}.adaptation.{leaf}" for k in range(3) for leaf in ("weight", "bias")}
    idle = unguided if key == "without_cam" else set()
    unused = {name for name in still & learning if _has_no_use(name)}
    assert (still & learning) - unused <= idle
    assert {name for name, p in model.named_parameters() if not p.requires_grad} <= still


def _has_no_use(name: str) -> bool:
    """SAM's three ambiguity masks, which a single mask does not ask for."""
    return any(f"output_hypernetworks_mlps.{k}." in name for k in (1, 2, 3))


def test_the_language_side_may_start_from_the_weights(base: Calico) -> None:
    model = build(base, ROWS[FULL], start=Start.LANGUAGE)
    own, given = model.state_dict(), base.state_dict()
    assert torch.equal(own["query_tokens"], given["query_tokens"])
    name = "language.model.layers.0.self_attn.q_proj"
    assert torch.equal(own[f"{name}.weight"], given[f"{name}.base_layer.weight"])
    assert not own["cams.0.reintegration.weight"].any()
    assert not own["cem.attention.out_proj.weight"].any()


def test_rows_are_chosen_by_key_and_full_is_always_one() -> None:
    assert [r.key for r in select_rows(COMPONENTS, ("without_cem",))] == ["without_cem", FULL]
    assert select_rows(PLACEMENT, ()) == PLACEMENT
    with pytest.raises(InvalidConfigError, match="without_dino, .*got 'dino'"):
        select_rows(COMPONENTS, ("dino",))


def test_the_dictionary_holds_the_prompts_of_the_weights(base: Calico, material: Material) -> None:
    """Entries of a model whose prompts are such sums come back, up to the ridge's pull."""
    batches = [
        material.scenes.batch(base.config, TrialPlan(masks=99), 5, step) for step in range(12)
    ]
    true = PartDictionary(torch.randn(WHOLE + 1, 32), torch.randn(len(TRAINED_CATEGORIES), 32))
    prompts = [true.parts[b.masks.part] + true.categories[b.masks.category] for b in batches]
    said = iter(prompts)
    model = copy.deepcopy(base)
    model.segmentation_projection = torch.nn.Identity()
    model.segmentation_projection.forward = lambda states: next(said)

    found = fit_dictionary(model, batches)

    again = [found.parts[b.masks.part] + found.categories[b.masks.category] for b in batches]
    error = (torch.cat(again) - torch.cat(prompts)).square().mean()
    assert error < 0.05 * torch.cat(prompts).square().mean()
