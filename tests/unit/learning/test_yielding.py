"""A call after every layer, forward and backward, that changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from backend.learning.updater import call_at_every_layer


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))


def gradients(model):
    model(torch.ones(3, 4)).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_it_is_called_forward_and_backward():
    model, calls = small(), []
    call_at_every_layer(model, lambda: calls.append(1))
    output = model(torch.ones(3, 4)).sum()
    assert len(calls) == 3
    output.backward()
    assert len(calls) == 6


def test_what_is_computed_stays_the_same():
    plain, paused = small(), small()
    call_at_every_layer(paused, lambda: None)
    assert torch.equal(plain(torch.ones(3, 4)), paused(torch.ones(3, 4)))
    for expected, found in zip(gradients(plain), gradients(paused), strict=True):
        assert torch.equal(expected, found)


def test_it_can_be_ended():
    model, calls = small(), []
    end = call_at_every_layer(model, lambda: calls.append(1))
    end()
    gradients(model)
    assert calls == []
