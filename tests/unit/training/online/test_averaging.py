"""Halfway between the start of an update and its end, row by row where names were added."""

from __future__ import annotations

import pytest
import torch

from calico_model.modeling.adapter import (
    DENSE_PAIRS,
    DENSE_ROWS,
    DENSE_TRUST,
    DOMAIN_WEIGHT,
    INPUT_ROWS,
    Adapter,
    AdapterScope,
)
from calico_model.modeling.dense_head import DenseNames
from calico_model.training.online.update import averaged


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 3).clone()


START = Adapter(
    AdapterScope(),
    {
        "lora": torch.tensor([0.0, 4.0]),
        INPUT_ROWS: rows(1, 2),
        DENSE_ROWS: rows(0, 1, 10, 11),  # nothing, wing; nothing, bird
        DENSE_PAIRS: torch.ones(1, 1),
        DENSE_TRUST: torch.tensor([0.2]),
        "dense_head.first": torch.zeros(2),
        DOMAIN_WEIGHT: torch.zeros(2),
    },
    ("wing", "bird"),
    DenseNames(("wing",), ("bird",)),
)
LEARNED = Adapter(
    AdapterScope(),
    {
        "lora": torch.tensor([2.0, 4.0]),
        "new": torch.tensor([7.0]),
        INPUT_ROWS: rows(3, 2, 9),
        DENSE_ROWS: rows(2, 1, 5, 12, 11),  # nothing, wing, beak; nothing, bird
        DENSE_PAIRS: torch.ones(2, 2),
        DENSE_TRUST: torch.tensor([0.8]),
        "dense_head.first": torch.ones(2),
        DOMAIN_WEIGHT: torch.ones(2),
    },
    ("wing", "bird", "beak"),
    DenseNames(("wing", "beak"), ("bird",)),
)


def test_weights_meet_halfway_and_new_names_stay_as_they_were_learned() -> None:
    found = averaged(START, LEARNED, 0.5)
    assert found.tensors["lora"].tolist() == [1.0, 4.0]
    assert found.tensors["new"].tolist() == [7.0]
    assert found.tensors[INPUT_ROWS][:, 0].tolist() == [2.0, 2.0, 9.0]
    assert (found.labels, found.dense) == (LEARNED.labels, LEARNED.dense)


def test_what_learns_from_everything_again_is_not_averaged() -> None:
    found = averaged(START, LEARNED, 0.5)
    body = "dense_head.first"
    for name in (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST, body, DOMAIN_WEIGHT):
        assert found.tensors[name] is LEARNED.tensors[name]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_the_share_is_that_of_the_start(share: float) -> None:
    found = averaged(START, LEARNED, share)
    assert found.tensors["lora"][0] == pytest.approx(2 * (1 - share))
    assert LEARNED.tensors["lora"][0] == 2.0
    assert LEARNED.tensors[DENSE_ROWS][0, 0] == 2.0


def test_what_did_not_move_stays_to_the_bit() -> None:
    again = averaged(LEARNED, LEARNED, 0.3)
    assert all(torch.equal(again.tensors[name], own) for name, own in LEARNED.tensors.items())
