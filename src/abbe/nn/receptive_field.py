"""How much context an output pixel needs, found by probing the network itself."""

from __future__ import annotations

import copy

import torch
from torch import nn

MAX_EXTENT = 8192


def receptive_halo(network: nn.Module, in_channels: int, multiple: tuple[int, ...]) -> tuple[int, ...] | None:
    """Context per axis that makes the centre of a tile equal to the whole image's.

    Everything on one side of a line is set to NaN; the outputs that stay finite are those that do not depend on it.
    That is exact for whatever the network is made of, since NaN passes through every product, sum and maximum.

    Parameters
    ----------
    network
        Takes (B, C, ...) with extents of ``multiple``, gives maps of the same extents.
    in_channels
        C.
    multiple
        Per spatial axis: tiles start and end at multiples of it.

    Returns
    -------
    tuple of int or None
        Pixels per axis, rounded up to ``multiple``; None where the network looks at the whole image.
    """
    probe = copy.deepcopy(network).to("cpu", torch.float64).eval()
    halos = [_axis_halo(probe, in_channels, multiple, axis) for axis in range(len(multiple))]
    return None if None in halos else tuple(h for h in halos if h is not None)


@torch.inference_mode()
def _axis_halo(network: nn.Module, in_channels: int, multiple: tuple[int, ...], axis: int) -> int | None:
    extent = max(32, 2 * _largest_dilation(network)) * multiple[axis]
    while extent <= MAX_EXTENT:
        middle = extent // 2 // multiple[axis] * multiple[axis]
        shape = [extent if a == axis else m for a, m in enumerate(multiple)]
        reach = max(_reach(network, in_channels, shape, axis, middle, side) for side in ("before", "after"))
        if reach < middle:
            return -(-reach // multiple[axis]) * multiple[axis]
        extent *= 2
    return None


def _largest_dilation(network: nn.Module) -> int:
    """A probe has to be wider than the gaps between a kernel's taps, or it falls into one."""
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return max((max(convolution.dilation) for convolution in convolutions), default=1)


def _reach(network: nn.Module, in_channels: int, shape: list[int], axis: int, middle: int, side: str) -> int:
    """Outputs beyond the middle that the NaN on the other side of it reaches."""
    x = torch.zeros(1, in_channels, *shape, dtype=torch.float64)
    start, length = (0, middle) if side == "before" else (middle, shape[axis] - middle)
    x.narrow(axis + 2, start, length).fill_(torch.nan)
    y = network(x).isnan().movedim(axis + 2, 0).flatten(1).any(dim=1)
    clean = y[middle:] if side == "before" else y[:middle].flip(0)
    reached = clean.nonzero()
    return int(reached.max()) + 1 if len(reached) else 0
