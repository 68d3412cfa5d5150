"""How a network is held against another one with the same weights."""

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


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Hold two functions of an image against each other: values and gradients within 1e-4 of the largest."""

    def check(
        ours: Callable[[torch.Tensor], torch.Tensor],
        theirs: Callable[[torch.Tensor], torch.Tensor],
        x: torch.Tensor,
        tolerance: float = 1e-4,
    ) -> None:
        results = []
        for function in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            (gradient,) = torch.autograd.grad((y * direction).sum(), leaf)
            results.append((y.detach(), gradient))
        for our, their in zip(*results, strict=True):
            assert our.shape == their.shape
            assert float((our - their).abs().max() / their.abs().max()) < tolerance

    return check
