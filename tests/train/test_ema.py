"""The moving average against its closed form."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from abbe.train.ema import MovingAverage


def test_average_equals_its_closed_form() -> None:
    module = nn.Linear(1, 1, bias=False)
    start = module.weight.item()
    average = MovingAverage(module, 0.9)
    weights, decays = [], []
    for step in range(200):
        with torch.no_grad():
            module.weight.fill_(float(step) ** 0.5)
        average.update(step)
        weights.append(module.weight.item())
        decays.append(min(0.9, (1 + step) / (10 + step)))
    # a_n = w_0 Π d_i + Σ_k (1 − d_k) w_k Π_{i>k} d_i
    tails = torch.tensor([*decays, 1.0], dtype=torch.float64).flip(0).cumprod(0).flip(0)
    terms = (1 - torch.tensor(decays)) * torch.tensor(weights) * tails[1:]
    assert average.state_dict()["weight"].item() == pytest.approx((start * tails[0] + terms.sum()).item(), rel=1e-5)


def test_buffers_are_averaged_and_counters_left() -> None:
    module = nn.BatchNorm1d(1)
    average = MovingAverage(module, 0.5)
    with torch.no_grad():
        for buffer in module.buffers():
            buffer.fill_(1)
    average.update(100)
    assert average.state_dict()["running_mean"].item() == pytest.approx(0.5)
    assert "num_batches_tracked" not in average.state_dict()


def test_weights_come_back_after_use_even_after_an_error() -> None:
    module = nn.Conv2d(1, 1, 1)
    average = MovingAverage(module, 0.9)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    with contextlib.suppress(KeyError), average.applied():
        assert torch.equal(module.weight, before)
        raise KeyError
    assert torch.equal(module.weight, before + 1.0)
    assert torch.equal(average.state_dict()["weight"], before)
