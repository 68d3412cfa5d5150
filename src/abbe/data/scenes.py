"""Simulated micrographs as a perfect microscope would show them: sharp and without noise, for training to make worse.

Nuclei with chromatin and nucleoli, filaments, spots and vesicles, outlines of cells, alone or a few kinds together,
over a slowly changing background under uneven light. Everything is drawn at places between pixels and no finer than a
Gaussian of ``WIDTHS[0]``, so that it is sampled well and sharper than what any objective leaves of it.

Lines and spots share one way of drawing: points with light, shared out linearly among the four pixels around them, and
widened by one of a few Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve
from scipy.spatial import Voronoi

from abbe.data.placement import ANGLES
from abbe.data.synthetic import FluorescenceField, grain, nucleus_outline, render_nucleus
from abbe.data.warp import upsample

Generator = np.random.Generator
Shape = tuple[int, int]
WIDTHS = (0.45, 0.8, 1.3, 2.2)
"""Standard deviations that points are widened by, in pixels: a filament or a spot has one of them."""
STEP = 0.5
"""Pixels between the points of a line."""
AREA = 256**2
"""Numbers of things are meant for so many pixels."""
WHITE = 0.999
"""Quantile of the pixels that becomes 1 before the brightest are compressed."""
KNEE = 0.8
"""From here on bright pixels are compressed, so that none is above 1 and none is cut."""
STAMPS = 8
"""Different nuclei in one scene; each may lie in eight positions."""
MOST_SCENES = 100_000
"""Of one seed."""


@dataclass(frozen=True)
class SimulatedScene:
    """A scene by its seed: equal ones are equal pictures."""

    seed: int
    """Of everything random."""
    shape: Shape = (256, 256)
    """(Y, X) in pixels."""
    kinds: tuple[str, ...] = ()
    """What may be in it, keys of ``KINDS``; all unless given."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"simulated {self.seed}"

    def render(self) -> np.ndarray:
        """Draw it, (Y, X), float32 from 0 to 1."""
        return scene(self.seed, self.shape, self.kinds)


def simulated_scenes(number: int, seed: int, side: int = 256) -> list[SimulatedScene]:
    """Give so many scenes, at most ``MOST_SCENES``; other seeds give others."""
    return [SimulatedScene(seed * MOST_SCENES + place, (side, side)) for place in range(number)]


def scene(seed: int, shape: Shape = (256, 256), kinds: Sequence[str] = ()) -> np.ndarray:
    """Draw a scene.

    Parameters
    ----------
    seed
        Of everything random, the choice of what is in it included.
    shape
        (Y, X) in pixels.
    kinds
        Keys of ``KINDS`` to choose from; all unless given.

    Returns
    -------
    numpy.ndarray
        (Y, X), float32: light per pixel from 0 to 1.
    """
    generator = np.random.default_rng([seed, 7])
    known = list(kinds or KINDS)
    number = min(int(generator.choice([1, 2, 3], p=[0.5, 0.35, 0.15])), len(known))
    light = np.zeros(shape, np.float32)
    for place in generator.permutation(len(known))[:number]:
        found = KINDS[known[place]](shape, generator)
        light += found * (between(0.25, 1.0, generator) / max(float(np.quantile(found, WHITE)), 1e-6))
    ground = between(0.01, 0.3, generator) * slow(shape, 0.4, generator)
    return compressed((light + ground) * slow(shape, generator.uniform(0, 0.2), generator))


def compressed(light: np.ndarray) -> np.ndarray:
    """Bring light to 0..1: linear up to ``KNEE``, and ever closer to 1 above."""
    scaled = light / max(float(np.quantile(light, WHITE)), 1e-6)
    above = np.maximum(scaled - KNEE, 0)
    return np.where(above > 0, 1 - (1 - KNEE) * np.exp(-above / (1 - KNEE)), scaled).astype(np.float32)


def between(low: float, high: float, generator: Generator) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(generator.uniform(math.log(low), math.log(high))))


def slow(shape: Shape, deviation: float, generator: Generator) -> np.ndarray:
    """Draw a field (Y, X) around 1 that changes over the whole picture only."""
    return np.exp(upsample(generator.normal(0, deviation, (1, 3, 3)), shape)[0]).astype(np.float32)


def how_many(low: float, high: float, shape: Shape, generator: Generator) -> int:
    """Draw a number of things for a picture of this size; at least one."""
    return max(1, round(between(low, high, generator) * math.prod(shape) / AREA))


# ------------------------------------------------------------------------------------------- points of light


class Points(NamedTuple):
    """Places between pixels, and the light they send; all (N)."""

    y: np.ndarray
    x: np.ndarray
    light: np.ndarray


def deposit(points: Points, shape: Shape) -> np.ndarray:
    """Share the light of points out among the four pixels around each; what lies outside is left out."""
    canvas = np.zeros(shape[0] * shape[1])
    top, left = np.floor(points.y).astype(int), np.floor(points.x).astype(int)
    down, right = points.y - top, points.x - left
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            y, x = top + dy, left + dx
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            share = (points.light * share_y * share_x)[inside]
            canvas += np.bincount(y[inside] * shape[1] + x[inside], share, canvas.size)
    return canvas.reshape(shape).astype(np.float32)


def widened(points: Points, width: np.ndarray, dimensions: int, shape: Shape) -> np.ndarray:
    """Draw points that are ``WIDTHS[width]`` wide, so that a light of 1 is about as bright whatever the width.

    Parameters
    ----------
    points
        Of lines, ``STEP`` apart, or of spots.
    width
        Which of the widths each has, (N).
    dimensions
        1 for lines, 2 for spots: along how many a point loses brightness as it is widened.
    shape
        (Y, X) of the picture.
    """
    picture = np.zeros(shape, np.float32)
    for number in np.unique(width):
        sigma, own = WIDTHS[number], width == number
        peak = (math.sqrt(2 * math.pi) * math.hypot(sigma, 0.4)) ** dimensions  # 0.4: of the sharing out
        drawn = deposit(Points(*(part[own] for part in points)), shape)
        picture += ndimage.gaussian_filter(drawn, sigma, mode="constant") * peak
    return picture


# ------------------------------------------------------------------------------------------------- filaments


def filaments(shape: Shape, generator: Generator) -> np.ndarray:
    """Draw curved filaments that cross: microtubules, actin, mitochondria, by their number, length and bends."""
    number = how_many(4, 90, shape, generator)
    longest = 1.3 * math.hypot(*shape)
    length = longest * np.exp(generator.uniform(math.log(between(0.06, 0.9, generator)), 0, number))
    steps = round(longest / STEP)
    angle = directions(number, generator)[:, None] + wander(number, steps, generator)
    start = starts(number, shape, generator)
    y, x = (
        begin[:, None] + STEP * np.cumsum(part(angle), axis=1)
        for begin, part in zip(start, (np.sin, np.cos), strict=True)
    )
    light = np.exp(generator.normal(0, 0.5, (number, 1)) + beading(number, steps, generator)) * STEP
    there = np.arange(steps) * STEP < length[:, None]
    favourite = generator.integers(len(WIDTHS))
    width = np.where(generator.random(number) < 0.6, favourite, generator.integers(0, len(WIDTHS), number))
    width = np.broadcast_to(width[:, None], there.shape)[there]
    return widened(Points(y[there], x[there], light[there]), width, 1, shape)


def directions(number: int, generator: Generator) -> np.ndarray:
    """Draw the directions that filaments begin in: all, or nearly one."""
    if generator.random() < 0.3:
        return generator.uniform(0, np.pi) + generator.normal(0, 0.25, number)
    return generator.uniform(0, 2 * np.pi, number)


def wander(number: int, steps: int, generator: Generator) -> np.ndarray:
    """Draw the changes of direction along filaments (N, steps): a worm-like chain, smooth over a few pixels."""
    persistence = between(25, 2000, generator)
    turns = generator.normal(0, math.sqrt(2 * STEP / persistence), (number, steps)).astype(np.float32)
    return np.cumsum(ndimage.uniform_filter1d(turns, round(6 / STEP), axis=1), axis=1)


def beading(number: int, steps: int, generator: Generator) -> np.ndarray:
    """Draw how the logarithm of the light changes along filaments, (N, steps)."""
    knots = max(4, round(steps * STEP / between(6, 60, generator)))
    rough = generator.normal(0, generator.uniform(0, 0.5), (number, knots))
    places = np.linspace(0, knots - 1, steps)
    below = np.minimum(places.astype(int), knots - 2)
    part = places - below
    return rough[:, below] * (1 - part) + rough[:, below + 1] * part


def starts(number: int, shape: Shape, generator: Generator) -> np.ndarray:
    """Draw where filaments begin, (2, N): anywhere, or around a few centres."""
    extent = np.array(shape)[:, None]
    if generator.random() < 0.3:
        centres = generator.uniform(0.1, 0.9, (2, int(generator.integers(1, 4)))) * extent
        chosen = generator.integers(0, centres.shape[1], number)
        return centres[:, chosen] + generator.normal(0, 4, (2, number))
    return generator.uniform(-0.2, 1.2, (2, number)) * extent


# ----------------------------------------------------------------------------------------- spots and vesicles


def spots(shape: Shape, generator: Generator) -> np.ndarray:
    """Draw spots of all sizes, anywhere or in clusters; sometimes each is a disc or a ring."""
    number = how_many(8, 900, shape, generator)
    extent = np.array(shape)[:, None]
    place = generator.uniform(0, 1, (2, number)) * extent
    if generator.random() < 0.4:
        clusters = generator.uniform(0, 1, (2, how_many(1, 12, shape, generator))) * extent
        chosen = generator.integers(0, clusters.shape[1], number)
        place = clusters[:, chosen] + generator.normal(0, between(6, 40, generator), (2, number))
    points = Points(place[0], place[1], np.exp(generator.normal(0, generator.uniform(0.1, 0.9), number)))
    if generator.random() < 0.25:
        return fftconvolve(deposit(points, shape), bead(generator), mode="same").astype(np.float32).clip(0)
    few = generator.integers(0, len(WIDTHS), 2)
    return widened(points, few[generator.integers(0, 2, number)], 2, shape)


def bead(generator: Generator) -> np.ndarray:
    """Draw a disc or a ring with soft edges, odd extents."""
    radius, hollow = between(1.5, 6, generator), generator.random() < 0.5
    reach = math.ceil(radius) + 3
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(y, x)
    disc = 1 / (1 + np.exp((distance - radius) / 0.35))
    return disc * (1 - 0.85 / (1 + np.exp((distance - radius + 1.6) / 0.35))) if hollow else disc


# ----------------------------------------------------------------------------------------------------- cells


def membranes(shape: Shape, generator: Generator) -> np.ndarray:
    """Draw outlines of cells: a sheet of them, or single ones with a filled inside."""
    sheet = generator.random() < 0.5
    points = tissue(shape, generator) if sheet else outlines(shape, generator)
    width = np.full(len(points.y), generator.integers(0, 3))
    picture = widened(points, width, 1, shape)
    inside = generator.uniform(0, 0.3) * np.exp(0.4 * grain(shape, between(3, 12, generator), generator))
    return picture + (inside * slow(shape, 0.3, generator)).astype(np.float32)


def tissue(shape: Shape, generator: Generator) -> Points:
    """Draw the borders of a sheet of cells: those between the nearest of random places."""
    size = between(14, 60, generator)
    rows, columns = (math.ceil(extent / size) + 4 for extent in shape)
    seeds = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2) - 1.5
    found = Voronoi((seeds + generator.uniform(-0.45, 0.45, seeds.shape)) * size)
    edges = np.array([edge for edge in found.ridge_vertices if -1 not in edge])
    begin, end = found.vertices[edges[:, 0]], found.vertices[edges[:, 1]]
    number = np.clip(np.hypot(*(end - begin).T) / STEP, 1, 8 * size / STEP).astype(int)
    of = np.repeat(np.arange(len(edges)), number)
    part = (np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)) / number[of]
    y, x = (begin[of] + (end - begin)[of] * part[:, None]).T
    bulge = 4 * part * (1 - part) * generator.normal(0, 0.05 * size, len(edges))[of]
    return Points(y + bulge, x - bulge, np.exp(generator.normal(0, 0.25, len(edges)))[of] * STEP)


def outlines(shape: Shape, generator: Generator) -> Points:
    """Draw the outlines of single cells: bent ellipses that hardly overlap."""
    config = FluorescenceField(diameter=between(20, 110, generator), elongation=2.5, irregularity=0.15)
    centre = apart(how_many(2, 40, shape, generator), 0.9 * config.diameter, shape, generator)[..., None]
    number = centre.shape[1]
    places = round(4 * config.diameter * math.pi / STEP)
    angle = np.arange(places) * (2 * np.pi / places)
    corners = np.arange(ANGLES + 1) * (2 * np.pi / ANGLES)
    bends = [nucleus_outline(config, generator) for _ in range(number)]
    radius = np.stack([np.interp(angle, corners, np.append(one, one[0])) for one in bends])
    y, x = centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)
    spacing = radius * 2 * np.pi / places
    light = np.exp(generator.normal(0, 0.3, (number, 1))) * spacing
    return Points(y.ravel(), x.ravel(), light.ravel())


def apart(number: int, distance: float, shape: Shape, generator: Generator) -> np.ndarray:
    """Draw up to so many places (2, N) that keep a distance from each other; at least one."""
    tried = generator.uniform(0, 1, (number, 2)) * shape
    kept = [tried[0]]
    for place in tried[1:]:
        if min(np.hypot(*(place - other)) for other in kept) > distance:
            kept.append(place)
    return np.array(kept).T


# ---------------------------------------------------------------------------------------------------- nuclei


def nuclei(shape: Shape, generator: Generator) -> np.ndarray:
    """Draw nuclei that do not overlap, with coarse and fine chromatin, and nucleoli or bright foci."""
    config = FluorescenceField(
        diameter=between(10, 80, generator),
        diameter_spread=generator.uniform(0.05, 0.25),
        elongation=generator.uniform(1.1, 2.2),
        irregularity=generator.uniform(0, 0.08),
        texture=generator.uniform(0.1, 0.6),
    )
    fine, dots = generator.uniform(0, 0.35), generator.uniform(-1.0, 1.5)
    stamps = [nucleus(config, fine, dots, generator) for _ in range(STAMPS)]
    wanted = how_many(0.2, 1.2, shape, generator) * AREA / config.diameter**2
    picture = np.zeros(shape, np.float32)
    for _ in range(max(1, min(round(wanted), 4 * math.prod(shape) // 1000))):
        brightness = math.exp(generator.normal(0, 0.35))
        place(picture, turned(stamps[generator.integers(STAMPS)], generator) * brightness, generator)
    return ndimage.gaussian_filter(picture, 0.6)


def nucleus(config: FluorescenceField, fine: float, dots: float, generator: Generator) -> np.ndarray:
    """Draw one nucleus: that of a simulated field, with fine grains and a few dark or bright dots in it."""
    stamp = render_nucleus(nucleus_outline(config, generator), config.texture, generator)
    stamp *= np.exp(fine * grain(stamp.shape, 0.9, generator))
    y, x = np.indices(stamp.shape)
    for _ in range(generator.integers(1, 6)):
        centre = generator.uniform(0.2, 0.8, 2) * stamp.shape
        radius = max(1.0, len(stamp) * generator.uniform(0.03, 0.1))
        soft = np.exp(-((np.hypot(y - centre[0], x - centre[1]) / radius) ** 4))
        stamp *= 1 + max(dots, -0.8) * soft
    return stamp


def turned(stamp: np.ndarray, generator: Generator) -> np.ndarray:
    """Turn a stamp by quarters and mirror it."""
    kept = np.rot90(stamp, int(generator.integers(4)))
    return kept[::-1] if generator.random() < 0.5 else kept


def place(picture: np.ndarray, stamp: np.ndarray, generator: Generator) -> None:
    """Put a stamp somewhere, unless a tenth of it lies on what is there already."""
    top, left = (int(generator.integers(-len(stamp) // 2, extent - len(stamp) // 2)) for extent in picture.shape)
    rows = slice(max(top, 0), max(top + stamp.shape[0], 0))
    columns = slice(max(left, 0), max(left + stamp.shape[1], 0))
    under = picture[rows, columns]
    own = stamp[rows.start - top :, columns.start - left :][: under.shape[0], : under.shape[1]]
    mine = own > 0
    if mine.any() and (under[mine] > 0).mean() <= 0.1:
        np.copyto(under, own, where=mine & (under == 0))


KINDS = {"nuclei": nuclei, "filaments": filaments, "spots": spots, "membranes": membranes}
"""What may be in a scene, by name: each draws light (Y, X) of any scale."""
