"""Where simulated nuclei are: a random pattern of hard cores that can be made at any place alone.

Nuclei are proposed at random places in cells of a grid by a hash of (seed, cell), and beside other nuclei
for clumps; where proposals would overlap, the one of the highest rank stays (Matérn's hard-core process II,
in three rounds). Whether a nucleus is there depends on its neighbourhood alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import gammaln

from abbe.errors import AbbeError

ROUNDS = 3
"""Of proposals; later ones fill the room that earlier ones left."""
ANGLES = 64
"""Directions in which an outline is known."""


class Placed(NamedTuple):
    """Nuclei, the one in front first; all arrays are of equal length."""

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    number: np.ndarray


def hashed(seed: int, number: np.ndarray, purpose: int) -> np.ndarray:
    """Numbers in [0, 1) that look random and depend on the arguments alone (the finalizer of splitmix64)."""
    key = ((seed + 1) * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03) % 2**64
    state = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)
    for _ in range(2):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / 2**53


# A proposal of the first round may have two satellites and each of those two more: 7 numbers; one of the
# second round two, 3 numbers; one of the third none, 1 number. So each place in a cell owns 11 numbers.
FIRST = (0, 7, 10)
SATELLITES = np.array([1, 3, 5, -1, -1, -1, -1, 8, -1, -1, -1])
NUMBERS = 11
Y, X, ANGLE, RANK, KIND, DISTANCE, CHOSEN = range(1, 8)
"""Purposes of a hash; from 100 on they are free for others."""


class Placement:
    """Where the nuclei of a field are: a function of the seed, for any region.

    A nucleus is a number from which its place and shape follow.

    Parameters
    ----------
    shape
        (Y, X) of the field, in pixels.
    outlines
        (N, ANGLES): the shapes there are, as distances from the centre by the angle from x to y.
    density
        Nuclei proposed per 100 × 100 pixels.
    clumping
        Share of them that is proposed beside another one, 0 to 0.7.
    gap
        Largest distance within a clump, in pixels.
    seed
        Of everything random.

    Raises
    ------
    AbbeError
        When ``clumping`` is out of its range, or the field would need numbers above 2³¹.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        outlines: np.ndarray,
        density: float,
        clumping: float,
        gap: float,
        seed: int,
    ) -> None:
        if not 0 <= clumping <= 0.7:
            raise AbbeError(f"clumping of {clumping:g} in a simulated field; expected 0 to 0.7")
        self.shape, self.outlines, self.gap, self.seed = shape, outlines, gap, seed
        self.radius = math.ceil(outlines.max()) + 1
        """No nucleus reaches farther from its centre."""
        self.cell = 2 * self.radius
        self.reach = self.cell + math.ceil(gap) + 3
        """Farther apart two nuclei do not meet."""
        single = density * (1 - clumping) * (self.cell / 100) ** 2 / ROUNDS
        self.capacity = int(single + 6 * math.sqrt(single) + 4)
        places = np.arange(self.capacity)
        self.counts = np.cumsum(np.exp(places * math.log(single or 1e-300) - single - gammaln(places + 1)))
        """The distribution function of the Poisson number of proposals in a cell."""
        # So that singles and their satellites in three rounds add up to the density.
        self.satellites = math.sqrt(3 / (1 - clumping) - 2) - 1
        self.columns = shape[1] // self.cell + 3
        rows = shape[0] // self.cell + 3
        if rows * self.columns * self.capacity * NUMBERS >= 2**31:
            raise AbbeError(f"a simulated field of {shape[0]} × {shape[1]} pixels needs labels above 2³¹")

    def within(self, top: int, left: int, extent: int, margin: int) -> Placed:
        """Find the nuclei whose centre is in a square or its margin."""
        # A nucleus depends on its neighbours, and they on their parents, in each round.
        far = margin + 2 * ROUNDS * self.reach
        rows, columns = (
            np.arange(
                max((start - far) // self.cell, -1),
                min((start + extent + far) // self.cell, n // self.cell + 1) + 1,
            )
            for start, n in zip((top, left), self.shape)
        )
        numbers, places, last = np.empty(0, np.int64), np.empty((0, 2), np.int64), slice(0)
        for number in range(ROUNDS):
            new = [self._singles(number, rows, columns), self._beside(numbers[last], places[last])]
            proposed, where = (np.concatenate(parts) for parts in zip(*new, strict=True))
            stays = self._find_room(numbers, places, proposed, where)
            last = slice(len(numbers), None)
            numbers, places = np.append(numbers, proposed[stays]), np.concatenate([places, where[stays]])
        middle = np.array([top, left]) + extent / 2
        near = np.flatnonzero(np.all(np.abs(places - middle) <= extent / 2 + margin, axis=1))
        near = near[np.argsort(numbers[near])]
        numbers, places = numbers[near], places[near]
        return Placed(places[:, 0], places[:, 1], self._kind(numbers), numbers)

    def _random(self, numbers: np.ndarray, purpose: int) -> np.ndarray:
        return hashed(self.seed, numbers, purpose)

    def _kind(self, numbers: np.ndarray) -> np.ndarray:
        return (self._random(numbers, KIND) * len(self.outlines)).astype(np.int64)

    def _radius(self, numbers: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Distance from the centre to the outline."""
        place = np.rint(angle * (ANGLES / (2 * np.pi))).astype(np.int64) % ANGLES
        return self.outlines[self._kind(numbers), place]

    def _singles(self, number: int, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Propose nuclei at random places: a Poisson number in each cell."""
        y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
        first = ((y + 1) * self.columns + x + 1) * self.capacity * NUMBERS + FIRST[number]
        count = np.searchsorted(self.counts, self._random(first, CHOSEN))
        cell = np.repeat(np.arange(len(first)), np.minimum(count, self.capacity))
        place = np.arange(len(cell)) - np.searchsorted(cell, cell)
        numbers = first[cell] + place * NUMBERS
        inside = np.stack([self._random(numbers, Y), self._random(numbers, X)], axis=1)
        corner = np.stack([y[cell], x[cell]], axis=1) * self.cell
        return numbers, corner + (inside * self.cell).astype(np.int64)

    def _beside(self, parents: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Propose up to two satellites of each nucleus, where they just touch or nearly so."""
        own = (SATELLITES[parents % NUMBERS, None] + np.arange(2)).ravel()
        parents, places = np.repeat(parents, 2), np.repeat(places, 2, axis=0)
        numbers = parents - parents % NUMBERS + own
        chosen = self._random(numbers, CHOSEN) < self.satellites / 2
        numbers, parents, places = numbers[chosen], parents[chosen], places[chosen]
        angle = 2 * np.pi * self._random(numbers, ANGLE)
        touching = self._radius(parents, angle) + self._radius(numbers, angle + np.pi)
        distance = touching + 0.5 + self.gap * self._random(numbers, DISTANCE)
        step = np.stack([np.sin(angle), np.cos(angle)], axis=1) * distance[:, None]
        return numbers, places + np.rint(step).astype(np.int64)

    def _find_room(
        self, numbers: np.ndarray, places: np.ndarray, proposed: np.ndarray, where: np.ndarray
    ) -> np.ndarray:
        """Which proposals overlap no nucleus that is there, and no other such proposal of higher rank."""
        free = np.ones(len(proposed), bool)
        if len(numbers) and len(proposed):
            pairs = cKDTree(where).sparse_distance_matrix(cKDTree(places), self.reach, output_type="ndarray")
            new, old = pairs["i"], pairs["j"]
            meets = self._meet(proposed[new], where[new], numbers[old], places[old])
            free[new[meets]] = False
        survivors = np.flatnonzero(free)
        if len(survivors) > 1:
            i, j = survivors[cKDTree(where[survivors]).query_pairs(self.reach, output_type="ndarray")].T
            meets = self._meet(proposed[i], where[i], proposed[j], where[j])
            i, j = i[meets], j[meets]
            rank = self._random(proposed, RANK)
            free[np.where(rank[i] < rank[j], i, j)] = False
        return free

    def _meet(self, a: np.ndarray, place_a: np.ndarray, b: np.ndarray, place_b: np.ndarray) -> np.ndarray:
        """Tell which nuclei overlap along the line of their centres by more than half a pixel."""
        y, x = (place_b - place_a).T
        angle = np.arctan2(y, x)
        return np.hypot(y, x) < self._radius(a, angle) + self._radius(b, angle + np.pi) - 0.5
