"""Counts of a batch that several processes share.

A loss that is divided by what its batch holds, annotated pixels for instance, is not the mean of the losses of the
batch's parts: a part with few such pixels would weigh too much. Divided by the *mean* count of the parts instead, the
mean over the parts is the loss of the whole batch, and so are its gradients::

    1/N Σ_r ( errors_r / (1/N Σ_s count_s) )  =  Σ_r errors_r / Σ_s count_s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

Mean = Callable[[torch.Tensor], torch.Tensor]
_mean: ContextVar[Mean | None] = ContextVar("mean over the parts of a batch", default=None)


def batch_total(count: torch.Tensor) -> torch.Tensor:
    """Give the count by which a batch's loss is divided, without a gradient.

    Parameters
    ----------
    count
        What this process's part of the batch holds.

    Returns
    -------
    torch.Tensor
        Within :func:`shared_batch` the mean over all parts, float32; elsewhere ``count`` itself.
    """
    mean = _mean.get()
    return count if mean is None else mean(count.detach().float())


@contextmanager
def shared_batch(mean: Mean) -> Iterator[None]:
    """Let :func:`batch_total` average over the parts of a batch by ``mean``, which every process must call alike."""
    token = _mean.set(mean)
    try:
        yield
    finally:
        _mean.reset(token)
