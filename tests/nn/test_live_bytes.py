"""Properties of the estimate of activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abbe.nn.live_bytes import live_bytes


def test_a_chain_holds_two_layers_at_a_time() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)).to("meta")
    assert live_bytes(net, torch.zeros(1, 1, 32, 16, device="meta")) == 32 * 16 * 4 * (4 + 8)


def test_what_a_skip_keeps_is_counted() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 1)
            self.third = nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = self.first(x)
            return kept + self.third(self.second(kept))

    assert live_bytes(Skip().to("meta"), torch.zeros(1, 1, 8, 8, device="meta")) == 64 * 4 * (4 + 8 + 4)


def test_work_in_place_and_views_cost_nothing() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.relu_((x + 1).view(-1)[2:])

    x = torch.zeros(10, device="meta")
    assert live_bytes(forward, x) == 40


@pytest.mark.parametrize("side", [64, 128])
def test_it_grows_with_the_pixels(side: int) -> None:
    net = nn.Conv2d(1, 3, 3, padding=1).to("meta")
    assert live_bytes(net, torch.zeros(1, 1, side, side, device="meta")) == side * side * 12
