"""What is split among processes, and that nothing changes where nothing is split."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from abbe.errors import AbbeError
from abbe.methods.backbones.unet_residual import VARIANTS, build
from abbe.train.sharding import blocks, is_split, load_whole, load_whole_optimizer, shard, whole


def test_blocks_are_the_members_of_the_outermost_lists() -> None:
    network = build(VARIANTS["unet_residual_tiny"])
    assert blocks(nn.ModuleDict({"network": network})) == [*network.down, *network.up]


def test_blocks_hold_a_parameter_once() -> None:
    inner = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.ReLU()])
    assert blocks(nn.Sequential(inner)) == [inner[0][0]]  # type: ignore[index]
    tied = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    tied[1].weight = tied[0].weight
    assert blocks(nn.Sequential(tied)) == []


def test_a_single_number_cannot_be_split() -> None:
    method = nn.Module()
    method.scale = nn.Parameter(torch.zeros(()))
    with pytest.raises(AbbeError, match="cannot split the single number scale; choose ddp"):
        shard(method, None)


def test_whole_tensors_stay_as_they_are() -> None:
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert not is_split(module)
    state = {"a": [module.weight, 1], "b": {"c": (module.bias, "text")}}
    assert whole(state)["a"][0] is module.weight
    assert whole(state)["b"] == state["b"]
    load_whole(other, module.state_dict())
    assert torch.equal(other.weight, module.weight)


def test_an_optimizer_goes_on_from_its_state() -> None:
    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    step(module, optimizer)
    other = nn.Linear(3, 2)
    other.load_state_dict(module.state_dict())
    resumed = torch.optim.AdamW(other.parameters(), 0.1)
    load_whole_optimizer(resumed, deepcopy(optimizer.state_dict()))
    step(module, optimizer)
    step(other, resumed)
    assert torch.equal(module.weight, other.weight)
