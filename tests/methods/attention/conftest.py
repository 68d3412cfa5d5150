"""Weights for networks that are held against others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Any]:
    """Draw all weights of a network, biases, positions and scales among them, and put it into evaluation."""

    def draw(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                values = torch.randn(parameter.shape, generator=generator)
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
                parameter.copy_(values * scale + (name.endswith("weight") and parameter.ndim == 1))
        return network.eval()

    return draw
