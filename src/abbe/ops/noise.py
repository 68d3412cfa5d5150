"""The noise of an image that nobody has a clean copy of: how strong, and whether neighbours share it.

Strength. Light comes in photons and a camera reads them out with a gain, so that the variance of a pixel grows with its
level in a straight line (Foi et al. 2008, doi:10.1109/TIP.2008.2001399)::

    variance(level) = gain * level + intercept,     intercept = read noise² - gain * offset

Second differences along Y and X cancel whatever is level or slanted and keep the noise (Immerkær 1996,
doi:10.1006/cviu.1996.0060). Their mean square in small blocks, against the mean of the block, gives the line. Blocks
with detail in them lie above it: the line is fitted to the lower ones first, and again to those that it explains.

Independence. Residuals of a smoothing are correlated even where the noise is not. So the correlation along one axis is
measured on differences along the other, which leave it alone: of noise whose correlation is a product of one along Y
and one along X, as that of interpolated images, and of noise that whole lines share, the differences have the same
correlation along their lines as the noise itself, with nothing to be corrected for. Blocks in places with detail are
left out. The line is corrected for what second differences do not see of noise that neighbours share.

No noise. What is left of an image without noise is its own curvature, the same for neighbours all around, or what
rounding to whole numbers did, whose part is known.

Places that say nothing. Where pixels are saturated, clipped at black or masked, their noise is gone, and the smaller a
variance is the more it weighs. Such places are left out, as long as enough others are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage, stats

from abbe.errors import AbbeError

BLOCK = 8
"""Extent of a block, in pixels."""
SECOND = (1.0, -2.0, 1.0)
FOURTH = (1.0, -4.0, 6.0, -4.0, 1.0)
FREEDOM = BLOCK**2 / (70 / 36) ** 2
"""Independent values in a block of second differences: its pixels over the sum of their squared correlations."""
LOW = 0.25
"""Share of the blocks of a level that lie below the first line, as they would without detail."""
EVEN = 0.5
"""Share of the blocks of a level to measure: those in the evenest places."""
LEAST = 16
"""Fewest blocks to measure noise from."""
TAIL = 0.005
"""Share of flat blocks that lie too far above the line to be explained by it, and below."""
DARK = 0.01
"""Share of the blocks that are at least as dark as the darkest places."""
HELD = 0.02
"""Share of the pixels around one that are held at the smallest or largest value, above which its noise is cut off."""
PILED = 2.0
"""Times that they are more than those of the value next to it: darkness counted in photons ends at 0 too, uncut."""
NOTHING_LEFT = 0.99
"""Share of such pixels from which there is no noise to be seen."""
LAGS = 8
"""Neighbours at which correlations are measured, on each side."""
DEPENDENT = 0.15
"""Correlation of two neighbours from which their noise is not independent."""
IN_TURNS = 0.3
"""The same of the next but one, where nearest neighbours are independent."""
SMOOTH = 0.9
"""Correlation of neighbours all around from which an image is smooth, and what seemed noise is the image."""
SLOWLY = 0.75
"""Correlation with the second neighbour, over that with the first, from which it falls as of a smooth image."""
STEP = 1 / 12
"""Variance that rounding to whole numbers adds."""
MOSTLY = 0.5
"""Share of rounding in what seems noise from which that is rounding alone, unless lines share it."""
ROUNDED = 0.5
"""Deviation of whole numbers, at the brightest place, below which rounding explains it."""
NEGLIGIBLE = 1e-5
"""Share of an image's range that is no noise at all."""
REACHES = 0.05
"""Correlation above which a neighbour still shares the noise."""

Verdict = Literal["none", "independent", "horizontal", "vertical", "isotropic"]


@dataclass(frozen=True)
class Noise:
    """What is known of an image's noise, in its own grey values."""

    gain: float
    """Grey values per photon; variance per level."""
    intercept: float
    """Variance at level 0; below zero where the camera adds an offset."""
    horizontal: tuple[float, ...]
    """Correlation with the 1st, 2nd, ... neighbour along X."""
    vertical: tuple[float, ...]
    """Correlation with the 1st, 2nd, ... neighbour along Y."""
    level: float
    """Median of the image where its noise shows."""
    dark: float = 0.0
    """Level of the darkest of these places, one block in a hundred: the camera's offset if they have no light."""

    @property
    def verdict(self) -> Verdict:
        """Tell who shares the noise: nobody, the neighbours in a row, in a column, or all around; "none": no noise."""
        smooth = min(self.horizontal[0], self.vertical[0]) > SMOOTH
        if smooth or self.deviation(self.level) == 0:
            return "none"
        along = {"horizontal": abs(strongest(self.horizontal)), "vertical": abs(strongest(self.vertical))}
        stronger, weaker = sorted(along, key=along.__getitem__, reverse=True)
        if along[stronger] < DEPENDENT:
            return "independent"
        return "isotropic" if along[weaker] > max(DEPENDENT, along[stronger] / 3) else stronger  # type: ignore[return-value]

    @property
    def reach(self) -> int:
        """Neighbours on each side that share the noise along its stronger direction; 0 where it is independent."""
        if self.verdict in ("none", "independent"):
            return 0
        along = max(self.horizontal, self.vertical, key=lambda values: abs(strongest(values)))
        nearest = along.index(strongest(along))
        small = [lag for lag, value in enumerate(along) if lag > nearest and abs(value) < REACHES]
        return small[0] if small else len(along)

    def deviation(self, level: float) -> float:
        """Standard deviation of the noise where the image without it would be ``level``."""
        return float(np.sqrt(max(self.gain * level + self.intercept, 0)))

    def read_noise(self, offset: float = 0) -> float:
        """Standard deviation without light, in grey values, of a camera that gives ``offset`` then."""
        return self.deviation(offset)


def strongest(correlation: Sequence[float]) -> float:
    """Give the correlation with the nearest neighbours on a line, or that with the next ones where it alone is strong.

    Every other pixel shares its noise where two amplifiers read in turns.
    """
    first, second, *_ = correlation
    return second if abs(first) < DEPENDENT and abs(second) > IN_TURNS else first


class Blocks(NamedTuple):
    """Square blocks of planes, (planes, Y / BLOCK, X / BLOCK) each, in grey values."""

    mean: np.ndarray
    """Level."""
    variance: np.ndarray
    """Of independent noise that would have such second differences."""
    roughness: np.ndarray
    """Variance between the quarters of a block and of its neighbours: large where there is detail."""
    cut: np.ndarray
    """Share of the pixels around that are held at the image's smallest or largest value."""


def estimate_noise(image: np.ndarray) -> Noise:
    """Measure the noise of an image by itself.

    Parameters
    ----------
    image
        (..., Y, X) of one channel, as the camera gave it; planes and times before the last two axes share their noise.

    Raises
    ------
    AbbeError
        Where there are too few finite pixels.
    """
    planes = image.reshape(math.prod(image.shape[:-2]), *image.shape[-2:]).astype(np.float64)
    planes[~np.isfinite(planes)] = np.nan  # unlike infinity it can be subtracted from itself
    measured = map(measure_blocks, planes, share_cut_off(planes))
    blocks = Blocks(*(np.stack(part) for part in zip(*measured, strict=True)))
    known = np.isfinite(blocks.variance)
    if np.count_nonzero(known) < LEAST:
        raise AbbeError(
            f"{np.count_nonzero(known)} blocks of {BLOCK} x {BLOCK} finite pixels in "
            f"{' x '.join(map(str, image.shape))}: too few to measure noise; expected {LEAST}, give a larger image"
        )
    known = telling(blocks, known)
    even = least_rough(blocks, known)
    gain, intercept = fit_line(blocks.mean[even], blocks.variance[even])
    flat = even & explained(blocks.mean, blocks.variance, gain, intercept)
    deviation = np.sqrt(np.where(flat, gain * blocks.mean + intercept, 1))
    horizontal, vertical = (
        correlations(residual(*part, along) for part in zip(planes, flat, deviation, strict=True))
        for along in ("horizontal", "vertical")
    )
    share = passed_by_differences(horizontal) * passed_by_differences(vertical)
    dark, level = np.quantile(blocks.mean[known], (DARK, 0.5)).tolist()
    found = Noise(gain / share, intercept / share, horizontal, vertical, level, dark)
    whole = image.dtype.kind in "iub"
    least = max(ROUNDED if whole else 0.0, NEGLIGIBLE * np.ptp(planes[np.isfinite(planes)]))
    brightest = found.deviation(blocks.mean[known].max())
    if brightest < least or (whole and is_rounded(found, brightest**2 * share)):
        return Noise(0.0, 0.0, (0.0,) * LAGS, (0.0,) * LAGS, level, dark)
    return found


def is_rounded(noise: Noise, seen: float) -> bool:
    """Tell whether what seems noise is a smooth image and its rounding to whole numbers.

    ``seen`` is the variance that second differences see where the image is brightest. Rounding, which no neighbours
    share, is a known part of it; the rest has the correlation of a smooth image.
    """
    share = STEP / max(seen, STEP)
    if share >= MOSTLY:  # differences hardly see what lines share
        return noise.verdict not in ("horizontal", "vertical")
    sides = (noise.horizontal, noise.vertical)
    return all(side[0] > SMOOTH * (1 - share) and side[1] > SLOWLY * side[0] for side in sides)


def difference(image: np.ndarray, weights: Sequence[float], axis: int) -> np.ndarray:
    """Correlate with weights along an axis, where all of them are inside."""
    length = max(image.shape[axis] - len(weights) + 1, 0)
    found = np.zeros([length if a == axis else extent for a, extent in enumerate(image.shape)])
    for start, weight in enumerate(weights):
        found += weight * image[(*(slice(None),) * axis, slice(start, start + length))]
    return found


def share_cut_off(planes: np.ndarray) -> np.ndarray:
    """Give the share of pixels around each one of planes (..., Y, X) that are held at the smallest or largest value.

    0 where these are no more than noise brings there.
    """
    finite = planes[np.isfinite(planes)]
    if finite.size == 0:
        return np.zeros(planes.shape)
    low, high = finite.min(), finite.max()
    inner = finite[(finite != low) & (finite != high)]
    cut = np.zeros(planes.shape)
    for end, next_to_it in ((low, inner.min(initial=high)), (high, inner.max(initial=low))):
        held = share_around(planes == end)
        piled = held > PILED * share_around(planes == next_to_it) if inner.size else True
        cut += np.where(piled, held, 0)
    return np.where(cut > HELD, np.minimum(cut, 1), 0)


def share_around(marked: np.ndarray) -> np.ndarray:
    """Give the share of marked pixels in a square of three blocks around each, plane by plane (..., Y, X)."""
    sides = (1,) * (marked.ndim - 2) + (3 * BLOCK,) * 2
    return ndimage.uniform_filter(marked.astype(np.float64), sides, mode="nearest")


def telling(blocks: Blocks, known: np.ndarray) -> np.ndarray:
    """Mark the known blocks that show the noise: those where nothing is cut off, or if these are too few the least.

    Of an image without noise, such as a constant one, all blocks are marked.
    """
    # A mask need not have the smallest value. Second differences reach out of their block, so that its edge may be in
    # two blocks beside a constant one.
    masked = ndimage.maximum_filter(known & (blocks.variance == 0) & (blocks.cut == 0), (1, 5, 5))
    shown = known & (blocks.variance > 0) & (blocks.cut < NOTHING_LEFT) & ~masked
    if np.count_nonzero(shown) < LEAST:
        return known
    whole = shown & (blocks.cut == 0)
    return whole if np.count_nonzero(whole) >= LEAST else shown & (blocks.cut <= np.median(blocks.cut[shown]))


def measure_blocks(plane: np.ndarray, cut: np.ndarray) -> Blocks:
    """Measure level, noise and detail of the blocks of a plane (Y, X), its border pixels left out."""
    bent = difference(difference(plane, SECOND, 0), SECOND, 1)
    power = float(np.square(SECOND).sum()) ** 2
    quarters = square_means(plane[1:-1, 1:-1], 2)  # (Y / BLOCK, 2, X / BLOCK, 2)
    rough = quarters.var(axis=(1, 3))
    rough = np.where(np.isfinite(rough), rough, rough.max(initial=0, where=np.isfinite(rough)))
    return Blocks(
        quarters.mean(axis=(1, 3)),
        square_means(bent * bent, 1)[:, 0, :, 0] / power,
        ndimage.uniform_filter(rough, 3, mode="nearest"),
        square_means(cut[1:-1, 1:-1], 1)[:, 0, :, 0],
    )


def square_means(plane: np.ndarray, parts: int) -> np.ndarray:
    """Average the parts x parts squares of whole blocks of a plane (Y, X), (Y / BLOCK, parts, X / BLOCK, parts)."""
    rows, columns = (extent // BLOCK for extent in plane.shape)
    whole = plane[: rows * BLOCK, : columns * BLOCK]
    return whole.reshape(rows, parts, BLOCK // parts, columns, parts, BLOCK // parts).mean(axis=(2, 5))


def least_rough(blocks: Blocks, known: np.ndarray) -> np.ndarray:
    """Mark the blocks of each level, among those that are known, that have the least detail in and around them."""
    chosen = np.zeros(known.shape, bool)
    places = np.flatnonzero(known)
    for level in by_level(blocks.mean.flat[places]):
        order = np.argsort(blocks.roughness.flat[places[level]], kind="stable")
        chosen.flat[places[level[order[: max(round(EVEN * len(order)), min(LEAST, len(order)))]]]] = True
    return chosen


def by_level(mean: np.ndarray) -> list[np.ndarray]:
    """Divide blocks (N) into groups of one level, of 64 blocks or more each; gives their numbers."""
    return np.array_split(np.argsort(mean, kind="stable"), np.clip(len(mean) // 64, 1, 32))


def fit_line(mean: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Find gain and intercept of the line that flat blocks (N) lie on, whatever lies above it."""
    levels = by_level(mean)
    low = np.array([np.quantile(variance[level], LOW) for level in levels]) / quantile(LOW)
    gain, intercept = straight(np.array([mean[level].mean() for level in levels]), low, low)
    for _ in range(20):
        flat, before = explained(mean, variance, gain, intercept), (gain, intercept)
        if flat.sum() < LEAST:
            break
        expected = gain * mean[flat] + intercept
        gain, intercept = straight(mean[flat], variance[flat] / mean_between_tails(), expected)
        if np.allclose((gain, intercept), before, rtol=1e-4, atol=0):
            break
    return gain, intercept


def straight(level: np.ndarray, variance: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Fit a line that does not fall; a variance is as uncertain as it is large."""
    if not expected.max() > 0:
        return 0.0, 0.0
    weights = (expected.max() / np.maximum(expected, expected.max() * 1e-6)) ** 2
    middle, height = np.average(level, weights=weights), np.average(variance, weights=weights)
    aside = level - middle
    if np.ptp(level) > 1e-9 * np.abs(level).max():
        gain = np.average(aside * (variance - height), weights=weights) / np.average(aside**2, weights=weights)
        if gain > 0:
            return float(gain), float(height - gain * middle)
    return 0.0, float(height)


def explained(mean: np.ndarray, variance: np.ndarray, gain: float, intercept: float) -> np.ndarray:
    """Mark blocks whose variance is as near to the line as chance brings it: those without detail."""
    expected = gain * mean + intercept
    with np.errstate(invalid="ignore"):  # unknown pixels are explained by nothing
        return (variance >= quantile(TAIL) * expected) & (variance <= quantile(1 - TAIL) * expected) & (expected > 0)


def quantile(share: float) -> float:
    """Give the part of the true variance below which a share of the flat blocks is measured."""
    return float(stats.chi2.ppf(share, FREEDOM)) / FREEDOM


def mean_between_tails() -> float:
    """Give the mean of a flat block's variance, over the true one, where both tails are cut off."""
    cuts = stats.chi2.ppf([TAIL, 1 - TAIL], FREEDOM)
    return float(np.diff(stats.chi2.cdf(cuts, FREEDOM + 2))[0]) / (1 - 2 * TAIL)


class Residual(NamedTuple):
    """Noise of deviation 1 along lines, the last axis; unknown where there is detail."""

    value: np.ndarray
    """(lines, pixels), 0 where unknown."""
    known: np.ndarray
    """Likewise, bool."""


def residual(plane: np.ndarray, flat: np.ndarray, deviation: np.ndarray, along: str) -> Residual:
    """Take differences of a plane (Y, X) across its lines, over the noise's deviation, where its blocks are flat.

    Lines lie "horizontal" or "vertical"; ``flat`` and ``deviation`` are those of the blocks.
    """
    known, scale = (part.repeat(BLOCK, 0).repeat(BLOCK, 1) for part in (flat, deviation))
    lines = plane[1 : known.shape[0] + 1, 1 : known.shape[1] + 1]
    if along == "vertical":
        known, scale, lines = known.T, scale.T, lines.T
    bent = difference(lines, FOURTH, 0)
    known, scale = known[2:-2] & np.isfinite(bent), scale[2:-2]  # of the five lines of a difference the middle one
    return Residual(np.where(known, bent / scale, 0), known)


def correlations(residuals: Iterable[Residual]) -> tuple[float, ...]:
    """Correlate residuals with themselves, 1, 2, ... pixels further; 0 where no two of them are known."""
    product, power = np.zeros(LAGS), np.zeros(LAGS)
    for value, known in residuals:
        for i in range(LAGS):
            here, there = value[:, : -i - 1], value[:, i + 1 :]
            both = known[:, : -i - 1] & known[:, i + 1 :]
            product[i] += (here * there).sum()
            power[i] += ((here**2 + there**2) * both).sum() / 2
    return tuple((product / np.where(power > 0, power, 1)).tolist())


def passed_by_differences(correlation: Sequence[float]) -> float:
    """Give the part of the noise's variance that second differences along its correlation still see.

    For noise that whole lines share it is nearly nothing, of which no more than the fiftieth part is believed.
    """
    return max((6 - 8 * correlation[0] + 2 * correlation[1]) / 6, 0.02)
