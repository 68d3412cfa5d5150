"""Rotary positions: queries and keys turned by angles that grow with their place (Su et al. 2021, arXiv:2104.09864).

A pair of channels is a point in a plane, and its place m turns it by m θ. Rotations preserve lengths and add up, so
that the product of a query turned by m and a key turned by n depends on n − m alone, R_m^T R_n = R_(n−m), Eq. 16.
Pair i of d/2 turns by θ_i = base^(−2i/d), from fast to slow.

For places in a plane or in space the pairs are divided among the axes (Heo et al. 2024, arXiv:2403.13298), and each
part is turned by its own coordinate.

Two conventions of pairing are in use, and differ by an order of channels only: ``adjacent``, (0, 1), (2, 3), ..., as
published, and ``half``, (0, d/2), (1, d/2 + 1), ..., as GPT-NeoX and LLaMA have it.
"""

from __future__ import annotations

from typing import Literal

import torch

Pairing = Literal["adjacent", "half"]


def frequencies(pairs: int, base: float = 10000.0, device: torch.device | None = None) -> torch.Tensor:
    """Give the angle per step of each pair of channels in radians, 1 for the first: (pairs,), float32."""
    exponents = torch.arange(pairs, dtype=torch.float32, device=device) / pairs
    return torch.pow(torch.tensor(base, dtype=torch.float32, device=device), -exponents)


def angles(places: torch.Tensor, channels: int, base: float = 10000.0) -> torch.Tensor:
    """Compute by how much each pair of channels turns at each place.

    Parameters
    ----------
    places
        (N,) along a line, or (N, A) with a column per axis; in steps, of any numeric type.
    channels
        Of each head. Their pairs are divided evenly among the axes, in the order of the columns; pairs that remain
        do not turn.
    base
        The slowest pair of an axis turns about this many times slower than its fastest.

    Returns
    -------
    torch.Tensor
        (N, channels / 2), float32 whatever the network computes in: bfloat16 cannot count beyond 256.

    Raises
    ------
    ValueError
        When the channels are odd or fewer than two per axis.
    """
    places = places.unsqueeze(-1) if places.ndim == 1 else places
    axes = places.shape[-1]
    each = channels // 2 // axes
    if channels % 2 or not each:
        raise ValueError(f"{channels} channels per head do not make pairs for {axes} axes; give each axis two or more")
    turned = places.float().unsqueeze(-1) * frequencies(each, base, places.device)  # (N, A, each)
    return torch.nn.functional.pad(turned.flatten(-2), (0, channels // 2 - each * axes))


def grid(extents: tuple[int, ...], device: torch.device | None = None) -> torch.Tensor:
    """List the places of a grid, the last axis fastest: (N, A), a column per axis."""
    steps = [torch.arange(extent, device=device) for extent in extents]
    return torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).flatten(0, -2)


def rotate(x: torch.Tensor, angle: torch.Tensor, pairing: Pairing = "adjacent") -> torch.Tensor:
    """Turn the pairs of channels of queries or keys.

    Parameters
    ----------
    x
        (..., N, d).
    angle
        (N, d / 2), as of :func:`angles`; it may have leading axes of ``x``.
    pairing
        Which channels make a pair.

    Returns
    -------
    torch.Tensor
        Like ``x``; computed in float32.
    """
    cos, sin = angle.cos(), angle.sin()
    if pairing == "adjacent":
        first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    else:
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.to(x.dtype)


def half_from_adjacent(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder what a query or key layer puts out, so that ``half`` does what ``adjacent`` did.

    ``rows`` is a weight (heads · d, in) or a bias (heads · d); all heads in the same way. The scores stay the same.
    """
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def adjacent_from_half(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo :func:`half_from_adjacent`."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
