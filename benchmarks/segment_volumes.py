"""The tables of stacks: nuclei as solids, by the 3-D U-Net, plane by plane, and without learning; all simulated.

    python benchmarks/segment_volumes.py make    --out volumes [--seed 0] [--train 160]
    python benchmarks/segment_volumes.py quality --data volumes [--model nuclei_3d]
    python benchmarks/segment_volumes.py speed   [--model nuclei_3d]

``make`` writes train and val, stacks of all kinds, and test, a folder for each condition; their seeds differ, and no
stack of test took part in anything. ``abbe train nuclei_3d --data volumes`` trains on them. The rivals are tuned on
val: the bundled 2-D model on every plane, with objects linked that overlap from plane to plane, and the classical way
of scikit-image: a Gaussian, Otsu's threshold, and a watershed of the distance transform, in micrometres.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

import abbe
from abbe.data.datasets import Pair, find_pairs, whole_volume
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.synthetic import FluorescenceField
from abbe.data.volumes import NucleiVolume, count_for, nuclei_volume, varied_volumes, write_volumes
from abbe.errors import AbbeError
from abbe.evaluation import read_truth
from abbe.metrics.instances import Matches, bootstrap, match, scores
from abbe.model import Model
from abbe.ops.labels import relabel, remove_small
from abbe.ops.matching import assign, contingency
from tables import machine, print_table

FIELD = (32.0, 64.0, 64.0)
"""Extent of a test stack, in µm."""
CAMERA = FluorescenceField(photons=100.0, background=15.0, haze=0.15, read_noise=1.5)
TYPICAL = NucleiVolume(voxel=(1.0, 0.3, 0.3), diameter=8.5, elongation=1.6, clumping=0.5, fading=0.015, camera=CAMERA)
DIM = replace(CAMERA, photons=10.0, background=3.0)
CONDITIONS: dict[str, tuple[NucleiVolume, float]] = {
    "typical": (TYPICAL, 0.2),
    "dim": (replace(TYPICAL, camera=DIM), 0.2),
    "crowded": (replace(TYPICAL, clumping=0.9), 0.7),
    "crowded and dim": (replace(TYPICAL, clumping=0.9, camera=DIM), 0.7),
    "coarse planes": (replace(TYPICAL, voxel=(2.0, 0.4, 0.4)), 0.2),
    "fine voxels": (replace(TYPICAL, voxel=(0.5, 0.25, 0.25)), 0.2),
    "large nuclei": (replace(TYPICAL, diameter=13.0), 0.25),
}
"""What a test stack is like, and the share of the field that is proposed to be nuclei."""
TEST_SEED = 7_000_000
MIN_VOLUME = 10.0
"""Smaller objects are dropped by all ways, in µm³; the smallest simulated nuclei have 40."""

Labels = np.ndarray
Way = Callable[[Pair], Labels]


def main() -> None:
    arguments = parse()
    print(machine())
    try:
        arguments.verb(arguments)
    except AbbeError as error:
        sys.exit(f"left out: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (make, quality, speed):
        sub = verbs.add_parser(verb.__name__, help=verb.__doc__)
        sub.set_defaults(verb=verb)
    verbs.choices["make"].add_argument("--out", type=Path, required=True)
    verbs.choices["make"].add_argument("--seed", type=int, default=0)
    for split, number in (("train", 160), ("val", 12), ("test", 4)):
        verbs.choices["make"].add_argument(f"--{split}", type=int, default=number, help="stacks, of test per condition")
    verbs.choices["quality"].add_argument("--data", type=Path, required=True)
    for name in ("quality", "speed"):
        verbs.choices[name].add_argument("--model", default="nuclei_3d", help="name or file")
        verbs.choices[name].add_argument("--planes-model", default="nuclei", help="name or file of the 2-D model")
    verbs.choices["speed"].add_argument("--shape", type=int, nargs=3, default=(32, 512, 512), help="voxels")
    verbs.choices["speed"].add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------ make


def make(arguments: argparse.Namespace) -> None:
    """Simulate train, val and test."""
    for place, split in enumerate(("train", "val")):
        number = getattr(arguments, split)
        if number:
            write_volumes(arguments.out / split, varied_volumes(number, 2 * arguments.seed + place))
    for place, (name, (config, share)) in enumerate(CONDITIONS.items()):
        first = TEST_SEED + 100_000 * arguments.seed + 100 * place
        stacks = {f"{n:03d}": condition(config, share, first + n) for n in range(arguments.test)}
        write_volumes(arguments.out / "test" / name, stacks)
        print(f"{name}: {arguments.test} stacks of {stacks['000'].shape}", file=sys.stderr)


def condition(config: NucleiVolume, share: float, seed: int) -> NucleiVolume:
    z, y, x = (round(extent / step) for extent, step in zip(FIELD, config.voxel))
    return replace(config, shape=(z, y, x), count=count_for(share, config.diameter, FIELD), seed=seed)


# --------------------------------------------------------------------------------------------------- quality


def quality(arguments: argparse.Namespace) -> None:
    """Score the three ways on every condition."""
    model, planes_model = abbe.load(arguments.model), abbe.load(arguments.planes_model)
    validation = find_pairs(arguments.data / "val")
    ways: dict[str, Way] = {
        model.name: lambda pair: model.predict(pair.image).labels,
        f"{planes_model.name}, planes linked": tuned_planes(planes_model, validation),
        "Otsu and watershed": tuned_classical(validation),
    }
    matches: dict[tuple[str, str], list[Matches]] = {}
    folders = sorted(path for path in (arguments.data / "test").iterdir() if path.is_dir())
    for folder, (name, way) in itertools.product(folders, ways.items()):
        matches[folder.name, name] = compared(way, find_pairs(folder))
        print(f"{folder.name}, {name}: {cells(matches[folder.name, name])}", file=sys.stderr)
    order = [name for name in CONDITIONS if (name, model.name) in matches]
    rows = [[f"{kind}, {way}", *cells(matches[kind, way])] for kind in order for way in ways]
    for way in ways:
        rows.append([f"all, {way}", *cells([one for kind in order for one in matches[kind, way]], intervals=True)])
    header = ["simulated stacks, way", "nuclei", "AP@0.5", "AP@0.75", "mean AP 0.5-0.9", "count error"]
    stacks = sum(len(matches[kind, model.name]) for kind in order)
    print_table(f"Quality on {stacks} simulated stacks [95 % intervals by resampling stacks]", header, rows)


def compared(way: Way, pairs: Iterable[Pair]) -> list[Matches]:
    found = []
    for pair in pairs:
        truth = read_truth(pair, 3)
        smallest = round(MIN_VOLUME / voxel_volume(read(pair.image)))
        found.append(match(truth["labels"], remove_small(way(pair), smallest)))
    return found


def cells(matches: Sequence[Matches], intervals: bool = False) -> list[str]:
    measured = scores(matches)

    def cell(name: str) -> str:
        if not intervals:
            return f"{measured[name]:.3f}"
        low, high = bootstrap(matches, name, seed=0)
        return f"{measured[name]:.3f} [{low:.3f}, {high:.3f}]"

    nuclei = str(sum(one.n_truth for one in matches))
    return [nuclei, *(cell(name) for name in ("ap50", "ap75", "map50_90", "count_error"))]


def best_of(choices: Iterable[Any], way: Callable[[Any, int], Labels], pairs: Sequence[Pair], name: str) -> Any:
    """Find the choice that scores best on ``pairs``; ``way(choice, number of the pair)`` gives labels."""
    truth = [read_truth(pair, 3)["labels"] for pair in pairs]
    measured = {
        choice: scores([match(true, way(choice, number)) for number, true in enumerate(truth)])["map50_90"]
        for choice in choices
    }
    best = max(measured, key=lambda choice: measured[choice])
    print(f"{name}: {best} scores {measured[best]:.3f} on val, the worst choice {min(measured.values()):.3f}")
    return best


def voxel_of(image: Image) -> tuple[float, float, float]:
    return image.pixel_size["z"], image.pixel_size["y"], image.pixel_size["x"]


def voxel_volume(image: Image) -> float:
    return float(np.prod(voxel_of(image)))


# -------------------------------------------------------------------------------------------- plane by plane


def tuned_planes(model: Model, validation: Sequence[Pair]) -> Way:
    stacks = [segmented_planes(model, pair) for pair in validation]
    choices = itertools.product((0.1, 0.25, 0.4, 0.55, 0.7), (1, 2, 3, 4, 5))
    best = best_of(choices, lambda choice, number: linked(stacks[number], *choice), validation, "planes: IoU, planes")
    return lambda pair: linked(segmented_planes(model, pair), *best)


def segmented_planes(model: Model, pair: Pair) -> Labels:
    (stack,) = whole_volume(read(pair.image))
    return np.stack([model.predict(plane).labels for plane in stack])


def linked(planes: Labels, least: float, least_planes: int) -> Labels:
    """Give objects of neighbouring planes one number where their IoU is at least ``least``, the best pairs first.

    Solids of fewer than ``least_planes`` planes are dropped, unless the stack has fewer.
    """
    solid = np.zeros_like(planes)
    solid[0], number = relabel(planes[0])
    for z in range(1, len(planes)):
        plane, count = relabel(planes[z])
        overlap = contingency(plane, solid[z - 1])
        touching = (overlap.row > 0) & (overlap.col > 0)
        here, before, shared = overlap.row[touching], overlap.col[touching], overlap.data[touching]
        union = np.bincount(plane.ravel())[here] + np.bincount(solid[z - 1].ravel())[before] - shared
        good = shared / union >= least
        here, before, iou = here[good], before[good], (shared / union)[good]
        chosen = assign(here, before, iou)
        numbers = np.concatenate([[0], number + 1 + np.arange(count)])
        numbers[here[chosen]] = before[chosen]
        solid[z] = numbers[plane]
        number += count
    seen = np.zeros(number + 1, int)
    for plane in solid:
        seen[np.unique(plane)] += 1
    return relabel(np.where(seen[solid] >= min(least_planes, len(planes)), solid, 0))[0]


# ------------------------------------------------------------------------------------------ without learning


def tuned_classical(validation: Sequence[Pair]) -> Way:
    images = [read(pair.image) for pair in validation]
    stacks = [(whole_volume(image)[0], voxel_of(image)) for image in images]
    choices = itertools.product((0.25, 0.5, 1.0), (0.5, 1.0, 1.5), (1.5, 2.5, 4.0))
    way = lambda choice, number: classical(*stacks[number], *choice)  # noqa: E731
    best = best_of(choices, way, validation, "Otsu and watershed: sigma, sigma of distances, radius, µm")

    def segment(pair: Pair) -> Labels:
        image = read(pair.image)
        return classical(whole_volume(image)[0], voxel_of(image), *best)

    return segment


def classical(stack: np.ndarray, voxel: Sequence[float], sigma: float, smoothing: float, radius: float) -> Labels:
    """Otsu's threshold of the smoothed stack, and a watershed from the summits of its smoothed distances, in µm."""
    steps = np.array(voxel)
    smoothed = ndimage.gaussian_filter(stack.astype(np.float32), sigma / steps)
    foreground = smoothed > threshold_otsu(smoothed)
    distance = ndimage.distance_transform_edt(foreground, sampling=voxel)
    distance = ndimage.gaussian_filter(distance, smoothing / steps)
    reach = np.maximum(np.rint(radius / steps).astype(int), 1)
    grids = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    ball = sum((grid / n) ** 2 for grid, n in zip(grids, reach)) <= 1
    summits = foreground & (distance == maximum_within(distance, ball, reach))
    return watershed(-distance, ndimage.label(summits)[0], mask=foreground)


def maximum_within(values: np.ndarray, ball: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Maximum filter; a large ball as a box, whose cost does not grow with it."""
    if ball.size <= 2000:
        return ndimage.maximum_filter(values, footprint=ball)
    return ndimage.maximum_filter(values, size=tuple(2 * reach + 1))


# ----------------------------------------------------------------------------------------------------- speed


def speed(arguments: argparse.Namespace) -> None:
    """Time the three ways on one stack, round by round in turn, from an array in memory to labels."""
    model, planes_model = abbe.load(arguments.model), abbe.load(arguments.planes_model)
    voxel = (1.0, 0.5, 0.5)
    field = tuple(extent * step for extent, step in zip(arguments.shape, voxel))
    count = count_for(0.25, 8.5, field)  # type: ignore[arg-type]
    made = nuclei_volume(replace(TYPICAL, shape=tuple(arguments.shape), voxel=voxel, count=count))
    image = Image(made.image[None], "CZYX", dict(zip("zyx", voxel)), name="stack")
    ways: dict[str, Callable[[], Labels]] = {
        model.name: lambda: model.predict(image).labels,
        f"{planes_model.name}, planes linked": lambda: linked(
            np.stack([planes_model.predict(plane).labels for plane in made.image]), 0.55, 3
        ),
        "Otsu and watershed": lambda: classical(made.image, voxel, 0.5, 1.0, 2.5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    objects = {name: int(way().max()) for name, way in ways.items()}  # also the warm-up
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    megavoxels = made.image.size / 1e6
    rows = [
        [name, f"{statistics.median(times):.1f}", f"{megavoxels / statistics.median(times):.2f}", str(objects[name])]
        for name, times in seconds.items()
    ]
    extents = " x ".join(map(str, arguments.shape))
    title = f"Speed on a simulated stack of {extents} voxels of 1 x 0.5 x 0.5 µm, {made.labels.max()} nuclei"
    print_table(f"{title}, median of {arguments.repeats} rounds", ["way", "s", "Mvoxel/s", "objects"], rows)


if __name__ == "__main__":
    main()
