"""Boxes of pixels: a span, start and stop, per spatial axis."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

Span = tuple[int, int]
"""Start and stop along one axis."""
Box = tuple[Span, ...]
"""A span per spatial axis: (Z,) Y, X."""


def slices(box: Sequence[Span], origin: Sequence[int] | None = None) -> tuple[slice, ...]:
    """Index what a box covers in an array whose first pixel lies at ``origin``, by default at zero."""
    first = origin or [0] * len(box)
    return tuple(slice(start - zero, stop - zero) for (start, stop), zero in zip(box, first, strict=True))


def corner(box: Sequence[Span]) -> tuple[int, ...]:
    """Give the first pixel of a box."""
    return tuple(start for start, _ in box)


def extents(box: Sequence[Span]) -> tuple[int, ...]:
    """Give the pixels of a box along each axis."""
    return tuple(stop - start for start, stop in box)


def moved(box: Sequence[Span], by: Sequence[int]) -> Box:
    """Shift a box."""
    return tuple((start + step, stop + step) for (start, stop), step in zip(box, by, strict=True))


def whole(shape: Sequence[int]) -> Box:
    """Give the box of all pixels of an image."""
    return tuple((0, extent) for extent in shape)


def bounding(boxes: Sequence[Box]) -> Box:
    """Give the smallest box around some boxes, at least one."""
    spans = zip(*boxes, strict=True)
    return tuple((min(start for start, _ in along), max(stop for _, stop in along)) for along in spans)


def blocks(shape: Sequence[int], unit: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Cut an array into boxes of one extent, those at its ends smaller."""
    starts = (range(0, extent, step) for extent, step in zip(shape, unit, strict=True))
    for first in itertools.product(*starts):
        yield tuple(slice(start, min(start + step, extent)) for start, step, extent in zip(first, unit, shape))
