"""Tensors into a module, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from abbe.errors import AbbeError

SHOWN = 5


def load_strict(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, called: Callable[[str], str] = str
) -> None:
    """Copy tensors into a module of exactly the same names and shapes.

    Parameters
    ----------
    module
        Keeps its own dtype and device.
    tensors
        By name, as in ``module.state_dict()``.
    source
        What to call them in the message.
    called
        Gives the name by which their source knows a tensor, for the message.

    Raises
    ------
    AbbeError
        Naming what is missing, of another shape, or unexpected.
    """
    expected = module.state_dict()
    missing = [called(name) for name in expected if name not in tensors]
    unexpected = [called(name) for name in tensors if name not in expected]
    reshaped = [
        f"{called(name)} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    faults = [("missing", missing), ("of another shape", reshaped), ("unexpected", unexpected)]
    if any(names for _, names in faults):
        told = "; ".join(f"{what}: {listed(names)}" for what, names in faults if names)
        raise AbbeError(f"{source}: does not fit {type(module).__name__}; {told}")
    module.load_state_dict(dict(tensors))


def listed(names: list[str]) -> str:
    """Name the first of many."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
