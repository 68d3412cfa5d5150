"""The mean of a network's answers to an image flipped and turned in all ways, each turned back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from abbe.tiling.prepare import Maps, Predictor

Way = tuple[bool, bool, bool]
"""Whether Y is mirrored, X is mirrored, and both are then exchanged."""
PLANE = (-2, -1)


class Turned:
    """A predictor of images, eight times as slow: a network that is not sure of its answer is surer of the mean.

    Z is left as it is, since microscopes see along it differently.

    Parameters
    ----------
    predictor
        Its maps must be images, which turn as what they were made from does.
    """

    def __init__(self, predictor: Predictor):
        self.predictor, self.method = predictor, predictor.method
        self.device, self.precision, self.backend = predictor.device, predictor.precision, predictor.backend

    def __call__(self, windows: np.ndarray) -> Maps:
        """Compute maps (B, K, [Z,] Y, X) of windows (B, C, [Z,] Y, X)."""
        total: Maps = {}
        for way in ways():
            for name, maps in self.predictor(turn(windows, way)).items():
                total[name] = total.get(name, 0) + turn_back(maps, way) / 8
        return total


def ways() -> Iterator[Way]:
    """List all of them, the image as it is first."""
    return ((y, x, exchanged) for exchanged in (False, True) for y in (False, True) for x in (False, True))


def turn(array: np.ndarray, way: Way) -> np.ndarray:
    """Mirror and turn the last two axes."""
    mirrored = np.flip(array, tuple(axis for axis, wanted in zip(PLANE, way) if wanted))
    return np.ascontiguousarray(mirrored.swapaxes(*PLANE) if way[2] else mirrored)


def turn_back(array: np.ndarray, way: Way) -> np.ndarray:
    """Undo :func:`turn`."""
    straight = array.swapaxes(*PLANE) if way[2] else array
    return np.flip(straight, tuple(axis for axis, wanted in zip(PLANE, way) if wanted))
