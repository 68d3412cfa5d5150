"""Simulated stacks of nuclei in fluorescence, with exact labels: voxels of any proportions, crowds, depth.

A nucleus is an ellipsoid with random axes whose surface is bent by a few waves, filled with textured chromatin. Many
touch: they are put beside another one, so close that the two flatten where they meet. Light spreads by a Gaussian that
is longer along Z, as confocal microscopes do it (Zhang et al. 2007, doi 10.1364/AO.46.001819), and a part of it widely;
it fades with depth, lies on an uneven background, and meets the camera of :mod:`abbe.data.synthetic`.

The truth is geometric: a voxel belongs to the nucleus that its centre lies in, whatever the microscope makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from abbe.data.synthetic import FluorescenceField, Simulated, expose, grain
from abbe.data.warp import upsample
from abbe.data.write import atomic_folder

FINE = 0.6
"""Planes are drawn no farther apart than this, in µm, and those of the stack picked among them."""
OVERLAP = 0.15
"""Share of a nucleus that may lie in others before it finds no room."""
WAVES = 4
"""That bend the surface of a nucleus."""
COARSE = 4
"""The widely spread light is computed on a grid this much coarser."""


@dataclass(frozen=True)
class NucleiVolume:
    """What a simulated stack looks like; lengths in µm."""

    shape: tuple[int, int, int] = (24, 128, 128)
    """(Z, Y, X), in voxels."""
    voxel: tuple[float, float, float] = (1.0, 0.325, 0.325)
    """Extent of a voxel."""
    count: int = 20
    """Nuclei that are proposed; those without room are left out."""
    diameter: float = 8.0
    """Median diameter of a nucleus."""
    diameter_spread: float = 0.12
    """Standard deviation of its logarithm."""
    elongation: float = 1.5
    """Largest ratio of the longest axis to the shortest; between 1 and this all are equally frequent."""
    irregularity: float = 0.06
    """Relative amplitude of the bends of the surface."""
    clumping: float = 0.5
    """Share of the nuclei that are put beside another one."""
    gap: tuple[float, float] = (-0.5, 0.5)
    """Range of the distance between neighbours in a clump; below zero they press into each other."""
    blur: tuple[float, float, float] = (0.8, 0.2, 0.2)
    """Standard deviation of the point-spread function."""
    fading: float = 0.01
    """Loss of light with depth, per µm."""
    unevenness: float = 0.3
    """Standard deviation of the logarithm of the background."""
    camera: FluorescenceField = field(default_factory=FluorescenceField)
    """Photons, background, texture, brightness, haze and camera."""
    seed: int = 0
    """Of everything random."""


def nuclei_volume(config: NucleiVolume) -> Simulated:
    """Simulate a stack in memory; equal configs give equal stacks."""
    generator = np.random.default_rng([config.seed, 3])
    planes = max(math.ceil(config.voxel[0] / FINE), 1)
    shape = (config.shape[0] * planes, *config.shape[1:])
    voxel = np.array(config.voxel) / (planes, 1, 1)
    labels, emission = _scene(shape, voxel, config, generator)
    light = _light(emission, voxel, config, generator)
    picked = slice(planes // 2, None, planes)
    camera, light, labels = config.camera, light[picked], _in_one_piece(labels[picked])
    expected = (camera.offset + camera.gain * light).astype(np.float32)
    return Simulated(expose(light, camera, generator), labels, expected, config.voxel)


# ------------------------------------------------------------------------------------------------ the nuclei


@dataclass(frozen=True)
class _Nucleus:
    centre: np.ndarray
    """(z, y, x), µm."""
    matrix: np.ndarray
    """Brings the ellipsoid to the unit ball."""
    waves: np.ndarray
    """(WAVES, 5): wave vector, phase and amplitude on the sphere of directions."""

    def reach(self, direction: np.ndarray) -> float:
        """Distance from the centre to the surface, but for its bends."""
        return float(1 / np.linalg.norm(self.matrix @ direction))

    @property
    def radius(self) -> float:
        """No part lies farther from the centre."""
        return float(1 / np.linalg.svd(self.matrix)[1][-1] * (1 + np.abs(self.waves[:, 4]).sum()))

    def level(self, box: tuple[slice, ...], voxel: np.ndarray) -> np.ndarray:
        """Distance from the centre over that to the surface in the same direction, of the voxels of a box."""
        grids = [np.arange(side.start, side.stop) * step for side, step in zip(box, voxel)]
        z, y, x = np.meshgrid(*(grid - c for grid, c in zip(grids, self.centre)), indexing="ij", sparse=True)
        ellipsoid = np.sqrt(sum((a * z + b * y + c * x) ** 2 for a, b, c in self.matrix.tolist()))
        distance = np.sqrt(z * z + y * y + x * x) + 1e-9
        bends = sum(
            height * np.cos((a * z + b * y + c * x) / distance + phase)
            for a, b, c, phase, height in self.waves.tolist()
        )
        return ellipsoid / (1 + bends)


def _scene(
    shape: tuple[int, ...], voxel: np.ndarray, config: NucleiVolume, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Place the nuclei: labels, and the light that each voxel sends, 1 on average inside."""
    labels, emission = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    levels = np.full(shape, np.inf, np.float32)
    placed: list[_Nucleus] = []
    for _ in range(config.count):
        nucleus = _propose(shape, voxel, placed, config, generator)
        box = _box(nucleus, shape, voxel)
        level = nucleus.level(box, voxel)
        inside = level <= 1
        if not inside.any() or (labels[box] > 0)[inside].mean() > OVERLAP:
            continue
        placed.append(nucleus)
        mine = inside & (level < levels[box])  # those that press into each other share the border where levels meet
        labels[box][mine] = len(placed)
        levels[box][mine] = level[mine]
        hollow = generator.uniform(0, 0.4)
        brightness = math.exp(config.camera.brightness_spread * generator.normal())
        emission[box][mine] = brightness * (1 - hollow * (1 - level[mine])) / (1 - hollow / 4)
    sizes = [config.diameter / scale / voxel for scale in (16, 6)]
    texture = sum(grain(shape, size, generator) for size in sizes) / math.sqrt(2)
    return labels, emission * np.exp(config.camera.texture * texture).astype(np.float32)


def _propose(
    shape: tuple[int, ...],
    voxel: np.ndarray,
    placed: list[_Nucleus],
    config: NucleiVolume,
    generator: np.random.Generator,
) -> _Nucleus:
    """Draw a nucleus: anywhere, also half outside, or beside another one."""
    spread = np.clip(generator.normal(), -2, 2)
    ratios = generator.uniform(1, config.elongation) ** np.array([0.5, generator.uniform(-0.5, 0.5), -0.5])
    semi_axes = config.diameter / 2 * math.exp(config.diameter_spread * spread) * ratios / np.cbrt(ratios.prod())
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    matrix = (rotation / semi_axes).T
    vectors, phases = generator.normal(0, 1.7, (WAVES, 3)), generator.uniform(0, 2 * np.pi, (WAVES, 1))
    heights = config.irregularity * np.clip(generator.normal(size=(WAVES, 1)), -2, 2)
    nucleus = _Nucleus(np.zeros(3), matrix, np.hstack([vectors, phases, heights]))
    if placed and generator.random() < config.clumping:
        neighbour = placed[generator.integers(len(placed))]
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        distance = neighbour.reach(direction) + nucleus.reach(direction) + generator.uniform(*config.gap)
        centre = neighbour.centre + distance * direction
    else:
        centre = generator.uniform(-0.25 * config.diameter, np.array(shape) * voxel + 0.25 * config.diameter)
    return _Nucleus(centre, matrix, nucleus.waves)


def _box(nucleus: _Nucleus, shape: tuple[int, ...], voxel: np.ndarray) -> tuple[slice, ...]:
    """Voxels within reach of a nucleus; an empty box for one that lies outside."""
    low = np.floor((nucleus.centre - nucleus.radius) / voxel).astype(int)
    high = np.ceil((nucleus.centre + nucleus.radius) / voxel).astype(int) + 1
    starts = np.clip(low, 0, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(starts, np.maximum(np.clip(high, 0, shape), starts)))


def _in_one_piece(labels: np.ndarray) -> np.ndarray:
    """Keep the largest piece of each nucleus, and number 1..n those that are left."""
    whole = np.zeros_like(labels)
    number = 0
    for old, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == old)
        largest = np.bincount(pieces.ravel())[1:].argmax() + 1 if count > 1 else 1
        number += 1
        whole[box][pieces == largest] = number
    return whole


# -------------------------------------------------------------------------------------------- the microscope


def _light(emission: np.ndarray, voxel: np.ndarray, config: NucleiVolume, generator: np.random.Generator) -> np.ndarray:
    """Mean photons per voxel: blurred, hazy, fading with depth, over an uneven background."""
    camera = config.camera
    light = ndimage.gaussian_filter(emission, np.array(config.blur) / voxel) * (camera.photons * (1 - camera.haze))
    if camera.haze:
        light += camera.photons * camera.haze * _haze(emission, config.diameter / voxel)
    field = upsample(generator.normal(0, config.unevenness, (1, 3, 4, 4)), emission.shape)[0]
    light += camera.background * np.exp(field)
    depth = np.arange(len(light)) * voxel[0]
    light *= np.exp(-config.fading * depth)[:, None, None]
    return light * _vignette(light.shape[1:], camera.illumination)


def _haze(emission: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Light from far out of focus, on a coarse grid."""
    steps = [COARSE if extent >= 4 * COARSE else 1 for extent in emission.shape]
    blocks = [-(-extent // step) for extent, step in zip(emission.shape, steps)]
    padded = np.pad(
        emission, [(0, n * step - extent) for n, step, extent in zip(blocks, steps, emission.shape)], "edge"
    )
    coarse = padded.reshape([part for pair in zip(blocks, steps) for part in pair]).mean(axis=(1, 3, 5))
    blurred = ndimage.gaussian_filter(coarse, sigma / steps)
    for axis, (step, extent) in enumerate(zip(steps, emission.shape)):
        place = (np.arange(extent) + 0.5) / step - 0.5
        below = np.clip(np.floor(place).astype(int), 0, max(blurred.shape[axis] - 2, 0))
        above = np.minimum(below + 1, blurred.shape[axis] - 1)
        weight = np.clip(place - below, 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
        blurred = blurred.take(below, axis) * (1 - weight) + blurred.take(above, axis) * weight
    return blurred


def _vignette(shape: tuple[int, ...], loss: float) -> np.ndarray:
    """A parabola over the field that loses ``loss`` towards the corners."""
    y, x = (np.linspace(-1, 1, extent) ** 2 for extent in shape)
    return 1 - loss / 2 * (y[:, None] + x)


# ---------------------------------------------------------------------------------------- many of all kinds


def varied_volume(seed: int, field_um: tuple[float, float, float] = (24.0, 48.0, 48.0)) -> NucleiVolume:
    """Draw the config of a stack: voxels, sizes, crowds, light and noise vary over what microscopes give.

    Voxels are 0.5 to 2 µm deep and 0.25 to 0.5 µm wide, nuclei 5 to 14 µm across, nucleus voxels get 8 to 400 photons.
    """
    generator = np.random.default_rng([seed, 4])

    def between(low: float, high: float) -> float:
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))

    wide, photons = between(0.25, 0.5), between(8, 400)
    voxel = (between(0.5, 2.0), wide, wide)
    diameter = between(5.0, 14.0)
    return NucleiVolume(
        shape=tuple(round(extent / step) for extent, step in zip(field_um, voxel)),  # type: ignore[arg-type]
        voxel=voxel,
        count=count_for(between(0.05, 0.6), diameter, field_um),
        diameter=diameter,
        diameter_spread=generator.uniform(0.05, 0.2),
        elongation=generator.uniform(1.1, 2.0),
        irregularity=generator.uniform(0.0, 0.08),
        clumping=generator.uniform(0.1, 0.9),
        gap=(generator.uniform(-0.08, 0.0) * diameter, generator.uniform(0.0, 0.06) * diameter),
        blur=(between(0.5, 1.3), *(between(0.12, 0.3),) * 2),
        fading=generator.uniform(0.0, 0.03),
        unevenness=generator.uniform(0.0, 0.5),
        camera=FluorescenceField(
            photons=photons,
            background=photons * between(0.03, 0.4),
            texture=generator.uniform(0.1, 0.5),
            brightness_spread=generator.uniform(0.1, 0.4),
            haze=generator.uniform(0.0, 0.3),
            illumination=generator.uniform(0.0, 0.4),
            read_noise=generator.uniform(0.5, 2.0),
            gain=between(0.5, 20),
        ),
        seed=seed,
    )


def count_for(share: float, diameter: float, field_um: tuple[float, float, float]) -> int:
    """Nuclei to propose so that they would fill a share of the field; in crowds fewer find room."""
    return max(round(share * math.prod(field_um) / (math.pi / 6 * diameter**3)), 1)


def varied_volumes(number: int, seed: int) -> dict[str, NucleiVolume]:
    """Give the configs of several stacks by name; other seeds give other stacks."""
    return {f"{place:03d}": varied_volume(seed * 100_000 + place) for place in range(number)}


def write_volumes(folder: Path, configs: Mapping[str, NucleiVolume]) -> None:
    """Simulate stacks into ``images/`` beside ``masks/``, OME-TIFF; the folder appears whole or not at all."""
    with atomic_folder(folder) as beside:
        for name, path, pixels, voxel in _rendered(configs):
            (beside / path).mkdir(parents=True, exist_ok=True)
            sizes = dict(zip(("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX"), voxel))
            units = {f"{key}Unit": "µm" for key in sizes}
            metadata = {"axes": "ZYX", **sizes, **units}
            tifffile.imwrite(beside / path / f"{name}.ome.tif", pixels, compression="zlib", metadata=metadata)


def _rendered(configs: Mapping[str, NucleiVolume]) -> Iterator[tuple[str, str, np.ndarray, tuple[float, ...]]]:
    for name, config in configs.items():
        made = nuclei_volume(config)
        yield name, "images", made.image, made.pixel_size
        yield name, "masks", made.labels.astype(np.uint16), made.pixel_size
