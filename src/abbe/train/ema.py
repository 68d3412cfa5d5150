"""The exponential moving average of a method's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from abbe.train.sharding import copy_whole, local


class MovingAverage:
    """Average of every floating-point parameter and buffer over the training steps.

    ``average ← d · average + (1 − d) · weights`` after each step, with ``d = min(decay, (1 + t) / (10 + t))``
    at step t, so that the random initial weights are soon forgotten. Running statistics of normalisation
    layers are averaged along, since they belong to the weights that made them.

    Parameters
    ----------
    module
        What to follow; its tensors must stay the same. Where processes hold a part of each, so do the averages.
    decay
        Between 0 and 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        everything = module.state_dict(keep_vars=True)
        self._live = {name: t for name, t in everything.items() if t.is_floating_point()}
        self._average = {name: t.detach().clone() for name, t in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step with this number, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, live = (list(map(local, tensors.values())) for tensors in (self._average, self._live))
        torch._foreach_lerp_(average, live, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Exchange the module's weights for their average within a ``with`` block; not where they are split."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by name, split as the weights are."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from whole averages saved before."""
        for name, average in self._average.items():
            copy_whole(average, state[name])
