"""Muon: its steps are those of torch, of convolutions too, and a head learns faster by them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from calico_model.training.online import muon
from calico_model.training.online.muon import Muon, orthogonalised


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def _precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "is_fast_in_half", lambda _device: request.param)


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_all_directions_get_about_the_same_length(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    lengths = torch.linalg.svdvals(orthogonalised(matrix))
    assert float(lengths.min()) > 0.6
    assert float(lengths.max()) < 1.3


@pytest.mark.usefixtures("_precision")
def test_a_gradient_of_zeros_changes_nothing() -> None:
    assert not orthogonalised(torch.zeros(3, 5)).any()


def _steps(optimiser: torch.optim.Optimizer, weight: Tensor, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
    return weight.detach()


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    first, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    ours, theirs = (nn.Parameter(first.clone()) for _ in range(2))
    mine = _steps(Muon([ours], 0.1, momentum=0.9, weight_decay=0.3), ours, gradients)
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.3)
    assert torch.allclose(mine, _steps(reference, theirs, gradients), atol=5e-3)
    assert not torch.allclose(mine, first, atol=5e-2)


def test_a_convolution_learns_as_the_matrix_of_all_its_inputs() -> None:
    first, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    first = first.contiguous(memory_format=torch.channels_last)
    convolution, matrix = nn.Parameter(first.clone()), nn.Parameter(first.flatten(1).clone())
    changed = _steps(Muon([convolution], 0.1), convolution, [gradient])
    expected = _steps(Muon([matrix], 0.1), matrix, [gradient.flatten(1)])
    assert torch.allclose(changed.flatten(1), expected, atol=1e-6)


def test_a_vector_is_refused_by_its_shape() -> None:
    with pytest.raises(ValueError, match=r"two or more dimensions, got shapes \[\(7,\)\]"):
        Muon([nn.Parameter(torch.zeros(7))], 0.1)


def test_an_unused_matrix_stays_as_it_is() -> None:
    unused = nn.Parameter(torch.ones(2, 2))
    Muon([unused], 0.1).step()
    assert bool((unused == 1).all())


def test_a_closure_gives_the_loss_and_the_gradient() -> None:
    weight = nn.Parameter(torch.eye(3))

    def closure() -> float:
        loss = (weight * torch.arange(9.0).view(3, 3)).sum()
        loss.backward()
        return float(loss.detach())

    assert Muon([weight], 0.1).step(closure) == 12.0
    assert not torch.equal(weight, torch.eye(3))
