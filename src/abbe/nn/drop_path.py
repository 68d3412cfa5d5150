"""Drop path, also called stochastic depth: whole residual branches left out while training, sample by sample.

Huang et al. 2016, arXiv:1603.09382, in the form of Larsson et al. 2016, arXiv:1605.07648: what is kept is divided by
its probability, so that nothing has to be scaled in inference.
"""

from __future__ import annotations

import torch
from torch import nn


class DropPath(nn.Module):
    """Set a branch to zero for some samples of a batch; in evaluation it does nothing.

    Parameters
    ----------
    rate
        Probability of leaving a sample's branch out, 0 to below 1. The draw is of torch's own generator, as dropout's.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a drop path rate of {rate:g}; expected 0 to below 1")
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ...)
        return x * kept.div_(keep)

    def extra_repr(self) -> str:
        """Tell the rate where the module is printed."""
        return f"rate={self.rate:g}"


def ramp(rate: float, blocks: int) -> list[float]:
    """Give each block its rate: 0 for the first, ``rate`` for the last, evenly in between."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]
