"""How far a restoration in tiles is from one of the whole image. A verb of ``restoration.py``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import numpy as np
import torch

import abbe
from abbe.contract import Geometry
from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.methods.catalog import entry, module_of, variant
from abbe.methods.restoration.nafnet import NAFNet, NAFNetConfig
from abbe.methods.restoration.noise2void import Noise2Void
from abbe.methods.restoration.restore import Restoration
from abbe.ops.boxes import slices
from abbe.tiling.grid import plan
from abbe.tiling.prepare import Predictor
from abbe.tiling.run import run
from abbe.tiling.stitch import stitch
from contender_worker import randomised
from tables import print_table

EXACT = 1e-5
"""Largest difference that counts as none, as a part of the largest value."""
VISIBLE = 0.5
"""Grey levels of 255 below which 99.9 per cent of the pixels shall differ."""
GREY = 255
NOISE = 25 / GREY
PARTS = (0.0, 0.125, 0.25, 0.5, 2 / 3, 1.0)
"""Halos of NAFNet that are tabulated, in windows of its means; two thirds are the default."""
WAYS: dict[Any, str] = {"exact": "plain forward", "float32": "as the verb computes"}
"""Precisions of the predictor."""
DAMPING = 0.3
"""Of random branches, which would otherwise drown the shortcuts of so many blocks."""


def seams(arguments: argparse.Namespace) -> None:
    """Compare tiles with the whole: exactly where the context is finite, against the halo for NAFNet."""
    torch.manual_seed(0)
    print_exact(arguments)
    network, told = nafnet_of(arguments)
    print_against_halo(network, told, arguments)


def print_exact(arguments: argparse.Namespace) -> None:
    rows = []
    image = noisy_image(arguments.side, 1)
    for name, objective in (("dncnn_s", Restoration), ("noise2void", Noise2Void)):
        method = objective(randomised(module_of(entry(name).file).build(variant(name)))).eval()
        halo = method.geometry.halo
        assert halo is not None
        for way in WAYS:
            expected = compute(method, image, method.geometry, 0, way)
            found = compute(method, image, method.geometry, arguments.core + 2 * halo[0], way)
            relative = float(np.abs(found - expected).max() / np.abs(expected).max())
            rows.append([f"{name}, {WAYS[way]}", str(halo[0]), f"{relative:.1e}", verdict(relative <= EXACT)])
    title = f"Tiles of {arguments.core} pixels and their halo against the whole {arguments.side}², random weights"
    header = ["", "halo", "largest difference, of the largest value", f"at most {EXACT:.0e}"]
    print_table(title, header, rows)


def print_against_halo(network: NAFNet, told: str, arguments: argparse.Namespace) -> None:
    """Tabulate NAFNet with local means, whose exact context of thousands of pixels a halo cuts off, and without."""
    method = Restoration(network).eval()
    default, window = network.geometry.halo, 1.5 * (network.local or 0)
    assert default is not None
    image = noisy_image(arguments.side, network.in_channels)
    expected = compute(method, image, method.geometry, 0)
    rows = []
    for halo in sorted({default[0], *(round(part * window / network.multiple) * network.multiple for part in PARTS)}):
        if halo + arguments.core < arguments.side:
            mark = " (default)" if halo == default[0] else ""
            rows.append([f"{halo}{mark}", *compared(method, image, expected, halo, arguments.core)])
    local = network.local
    network.localise(None)
    whole = compute(method, image, method.geometry, 0)
    rows.append([f"{default[0]}, means over all", *compared(method, image, whole, default[0], arguments.core)])
    network.localise(local)
    changed = float(np.std(expected - image) * GREY)
    title = f"NAFNet with means over {window:g} pixels, {told}, tiles of {arguments.core} in {arguments.side}²"
    header = ["halo", "largest difference", "99.9th percentile", f"at most {VISIBLE}"]
    print_table(f"{title}: grey levels of 255", header, rows)
    print(
        f"The network changes the image by {changed:.1f} grey levels; exact would be a halo of {network.context()} px."
    )


def compared(method: Any, image: np.ndarray, expected: np.ndarray, halo: int, core: int) -> list[str]:
    """Say how far tiles with a halo are from the whole, in grey levels: at most, for 99.9 per cent, and the verdict."""
    geometry = dataclasses.replace(method.geometry, halo=(halo, halo))
    levels = np.abs(compute(method, image, geometry, core + 2 * halo) - expected) * GREY
    high = float(np.percentile(levels, 99.9))
    return [f"{levels.max():.3f}", f"{high:.3f}", verdict(high <= VISIBLE)]


def compute(method: Any, image: np.ndarray, geometry: Geometry, tile: int, way: Any = "exact") -> np.ndarray:
    """Restore (C, Y, X) in tiles of a geometry, or whole (0), in a precision of the predictor."""
    predictor, shape = Predictor(method, device="cpu", precision=way), image.shape[1:]
    if not tile:
        geometry = dataclasses.replace(geometry, halo=None)
    grid = plan(shape, geometry, (tile,) * 2)
    patches = run(lambda box: image[:, *slices(box)], shape, grid, predictor)
    return stitch(patches, shape)["restored"]


def nafnet_of(arguments: argparse.Namespace) -> tuple[NAFNet, str]:
    """Take the network of a model, or one with random weights that changes an image as much as noise does."""
    if arguments.model:
        model: Any = abbe.load(arguments.model)
        network = model.method.network
        network.localise(network.local or arguments.crop)
        return network, f"{model.name}, {arguments.model}"
    config = dataclasses.replace(variant(arguments.network), in_channels=1, local=arguments.crop)
    assert isinstance(config, NAFNetConfig)
    network = randomised(NAFNet(config)).eval()
    image = torch.from_numpy(noisy_image(min(arguments.side, 256), 1))[None]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.mul_(DAMPING)
            if name.endswith(("norm1.weight", "norm2.weight")):
                parameter.add_(1)
        change = (network(image) - image).std()
        network.ending.weight.mul_(NOISE / change)
        network.ending.bias.mul_(NOISE / change)  # type: ignore[union-attr]
    return network, f"{arguments.network}, random weights"


def noisy_image(side: int, channels: int) -> np.ndarray:
    """Make nuclei with noise of 25 of 255 grey levels, (C, Y, X)."""
    field = fluorescence_field(FluorescenceField(shape=(side, side))).image.astype(np.float32)
    generator = np.random.default_rng(0)
    clean = np.broadcast_to(field / field.max(), (channels, side, side))
    return clean + NOISE * generator.standard_normal(clean.shape, np.float32)


def verdict(holds: bool) -> str:
    return "yes" if holds else "NO"
