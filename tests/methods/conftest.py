"""How a network is held against another one with the same weights, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


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


@pytest.fixture(scope="session")
def assert_recomputed_the_same() -> Callable[..., None]:
    """Train with blocks that keep nothing for the backward pass and are computed again: the gradients do not change."""

    def check(network: nn.Module, blocks: Iterable[nn.Module], *inputs: torch.Tensor) -> None:
        blocks, calls, gradients = list(blocks), 0, []

        def counted(forward: Callable[..., Any], *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return forward(*args)

        network.train()
        for again in (False, True):
            if again:
                for block in blocks:
                    block.forward = partial(checkpoint, partial(counted, block.forward), use_reentrant=False)
            network.zero_grad()
            torch.manual_seed(0)  # what is left out is drawn again with the block
            network(*inputs).square().sum().backward()
            gradients.append([parameter.grad for parameter in network.parameters()])
        assert calls == 2 * len(blocks)
        assert all(bool(gradient.any()) for gradient in gradients[0])
        torch.testing.assert_close(gradients[1], gradients[0])

    return check
