"""Weights fit exactly, or the message names what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from abbe.errors import AbbeError
from abbe.weights.load import load_strict


def network() -> Any:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_all_tensors_and_buffers_are_copied() -> None:
    theirs, ours = network(), network()
    theirs[1].running_mean.fill_(3)
    load_strict(ours, theirs.state_dict(), "a file")
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())


def test_the_module_keeps_its_own_type() -> None:
    ours = network().double()
    load_strict(ours, network().state_dict(), "a file")
    assert ours[0].weight.dtype == torch.float64


def test_everything_that_is_wrong_is_named_at_once() -> None:
    tensors = network().state_dict()
    del tensors["0.bias"]
    tensors["2.weight"] = torch.zeros(2, 3, 1, 1)
    tensors["head.weight"] = torch.zeros(1)
    ours = network()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(AbbeError) as told:
        load_strict(ours, tensors, "m.safetensors")
    assert str(told.value) == (
        "m.safetensors: does not fit Sequential; missing: 0.bias; "
        "of another shape: 2.weight (2, 3, 1, 1) instead of (2, 4, 1, 1); unexpected: head.weight"
    )
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_tensors_are_called_as_their_source_does() -> None:
    with pytest.raises(AbbeError, match=r"missing: their 0\.weight, .* unexpected: their head"):
        load_strict(network(), {"head": torch.zeros(1)}, "a.pth", lambda name: f"their {name}")


def test_long_lists_are_cut() -> None:
    with pytest.raises(
        AbbeError, match=r"missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 1\.running_mean and 4 more$"
    ):
        load_strict(network(), {}, "empty")
