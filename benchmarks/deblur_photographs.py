"""Deblurring of photographs against Richardson-Lucy and Wiener. A verb of ``restoration.py``.

Two kinds of test images. *Real*: pairs of a shaken camera and a sharp one; nobody knows their kernels, so the classical
methods are given the straight stroke that is best for each image, found with the sharp image in hand, which flatters
them. *Kernels*: the sharp images blurred by measured kernels, with a little noise; the classical methods are given the
true kernel. A network is given the blurred image alone in both. Half a kernel is left out at the borders.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat
from skimage.draw import line_aa
from skimage.restoration import richardson_lucy, unsupervised_wiener, wiener

import abbe
from abbe.data.clean import CleanImage, find_clean_images
from abbe.data.normalize import Normalization
from abbe.errors import AbbeError
from abbe.learn_restoration import restored
from abbe.metrics.images import psnr, ssim
from abbe.ops.degradation import blur
from abbe.ops.point_spread import motion_kernel
from abbe.tiling.prepare import Predictor
from tables import print_table

NOISE = 2.55
"""Standard deviation behind the measured kernels, in 1/255."""
ITERATIONS = (5, 10, 20, 40)
"""Of Richardson-Lucy, of which the best on training images is taken."""
BALANCES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of Wiener, likewise."""
LENGTHS = (5, 9, 13, 17, 23)
"""Of the strokes, in pixels."""
ANGLES = 8
"""Directions of the strokes."""
STROKE = 25
"""Pixels per side of their kernels."""

Deconvolve = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A channel (Y, X) and its kernel to a sharper one."""


@dataclass(frozen=True)
class Blurred:
    """A test image."""

    sharp: np.ndarray
    """(C, Y, X), 0 to 1."""
    image: np.ndarray
    """The same, blurred."""
    kernel: np.ndarray | None
    """By what, where that is known."""


def deblur(arguments: argparse.Namespace) -> None:
    """Score a model and the classical methods on held-out photographs."""
    pairs = find_clean_images(arguments.data)
    held = [pair for pair in pairs if is_held(pair, arguments.held)][: arguments.images]
    learnt = [pair for pair in pairs if not is_held(pair, arguments.held)]
    if not held or not learnt:
        raise AbbeError(f"{arguments.data}: --held {arguments.held} leaves no pairs to test or none to learn from")
    kernels = read_kernels(arguments.data / "kernels" / arguments.kernels)[: arguments.kernel_count]
    print(f"test: {', '.join(pair.name for pair in held)}; a model must not have been trained on these")
    methods = tuned([real(pair) for pair in learnt[:2]])
    networks = {str(file): by_model(file) for file in arguments.model}
    print_scores("Real blur; classical methods with the best stroke", [real(pair) for pair in held], methods, networks)
    made = [made_with(pair, kernel) for pair in held for kernel in kernels]
    print_scores(f"{len(kernels)} measured kernels and noise of {NOISE}/255", made, methods, networks)


def pairs(arguments: argparse.Namespace) -> None:
    """Write a folder to train on: the pairs that are not held out, and their sharp images under simulated strokes."""
    generator = np.random.default_rng(0)
    for pair in find_clean_images(arguments.data):
        if is_held(pair, arguments.held):
            continue
        known = real(pair)
        write_pair(arguments.out, f"{Path(pair.name).name}-real", known)
        for number in range(arguments.simulated):
            kernel = motion_kernel(generator.uniform(5, 25), generator)
            write_pair(arguments.out, f"{Path(pair.name).name}-{number}", made_with(pair, kernel, generator))


def write_pair(folder: Path, name: str, pair: Blurred) -> None:
    for side, image in (("blur", pair.image), ("sharp", pair.sharp)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        eight = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(eight.transpose(1, 2, 0)).save(folder / side / f"{name}.png")


# -------------------------------------------------------------------------------------------------- test images


def is_held(pair: CleanImage, patterns: Sequence[str]) -> bool:
    return any(fnmatch(Path(pair.name).name, pattern) for pattern in patterns)


def real(pair: CleanImage) -> Blurred:
    assert pair.worse is not None, f"{pair.clean}: no blurred image"
    return Blurred(read_colour(pair.clean), read_colour(pair.worse), None)


def made_with(pair: CleanImage, kernel: np.ndarray, generator: np.random.Generator | None = None) -> Blurred:
    sharp = read_colour(pair.clean)
    noise = (generator or np.random.default_rng(0)).standard_normal(sharp.shape, np.float32) * (NOISE / 255)
    return Blurred(sharp, blur(sharp, kernel) + noise, kernel)


def read_colour(path: Path) -> np.ndarray:
    """Read (3, Y, X) of 0 to 1."""
    return (np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).transpose(2, 0, 1)


def read_kernels(path: Path) -> list[np.ndarray]:
    """Read blur kernels of a MATLAB file of either format, each summing to one."""
    try:
        found = list(loadmat(path)["kernels"].ravel())
    except NotImplementedError:  # MATLAB 7.3, which is HDF5
        try:
            import h5py
        except ImportError:
            raise AbbeError(f"{path}: a file of MATLAB 7.3; reading it needs `pip install h5py`") from None
        with h5py.File(path) as file:
            found = [file[place][()].T for place in file["kernels"][()].ravel()]
    return [kernel / kernel.sum() for kernel in found]


# ------------------------------------------------------------------------------------------------------ methods


def by_model(file: Path | str) -> Callable[[np.ndarray], np.ndarray]:
    """Deblur (C, Y, X) with a model as its file says."""
    model: Any = abbe.load(file)
    predictor = Predictor(model.method, device="cpu", precision="float32")
    normalization = Normalization(**model.description.normalization)

    def sharpen(image: np.ndarray) -> np.ndarray:
        known = normalization.kind == "range"  # then 0 and 1 stay, though noise leaves them
        measured = Normalization("none").measure(image) if known else normalization.measure(image)
        return measured.invert(restored(predictor, measured.apply(image)))

    return sharpen


def tuned(training: Sequence[Blurred]) -> dict[str, Deconvolve]:
    """Give the classical methods, as strong as is best on sharp training images under a simulated stroke."""
    kernel = stroke(13, np.pi / 5)
    noise = np.random.default_rng(1).standard_normal(training[0].sharp.shape, np.float32) * (NOISE / 255)
    examples = [Blurred(one.sharp, blur(one.sharp, kernel) + noise, kernel) for one in training]

    def best(make: Callable[[Any], Deconvolve], strengths: Sequence[float]) -> Deconvolve:
        return make(max(strengths, key=lambda s: statistics.mean(gain(make(s), one) for one in examples)))

    return {
        "Wiener": best(lambda balance: partial(_wiener, balance=balance), BALANCES),
        "Wiener, unsupervised": _unsupervised,
        "Richardson-Lucy": best(lambda iterations: partial(_lucy, iterations=iterations), ITERATIONS),
    }


def _wiener(channel: np.ndarray, kernel: np.ndarray, balance: float) -> np.ndarray:
    return wiener(channel, kernel, balance)


def _unsupervised(channel: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return unsupervised_wiener(channel, kernel, rng=0)[0]


def _lucy(channel: np.ndarray, kernel: np.ndarray, iterations: int) -> np.ndarray:
    return richardson_lucy(np.clip(channel, 1e-3, 1), kernel, num_iter=int(iterations))


def gain(method: Deconvolve, one: Blurred) -> float:
    assert one.kernel is not None
    return compared(deconvolved(method, one.image, one.kernel), one)[0]


def deconvolved(method: Deconvolve, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Deconvolve each channel; the methods take images as periodic, so a mirrored margin is given and cut off."""
    margins = [(2 * extent, 2 * extent) for extent in kernel.shape]
    wide = [np.pad(channel, margins, mode="symmetric") for channel in image]
    inner = tuple(slice(low, -high) for low, high in margins)
    return np.stack([method(channel, kernel)[inner] for channel in wide])


def best_stroke(one: Blurred, method: Deconvolve) -> np.ndarray:
    """Find the stroke that serves an image best, with its sharp version in hand."""

    def score(kernel: np.ndarray) -> float:
        return compared(deconvolved(method, one.image, kernel), one)[0]

    return max(strokes(), key=score)


def strokes() -> Iterator[np.ndarray]:
    for length in LENGTHS:
        for step in range(ANGLES):
            yield stroke(length, np.pi * step / ANGLES)


def stroke(length: float, angle: float) -> np.ndarray:
    """Draw a straight stroke of a length in pixels."""
    kernel, middle = np.zeros((STROKE, STROKE)), STROKE // 2
    y, x = (round(length / 2 * part(angle)) for part in (np.sin, np.cos))
    rows, columns, values = line_aa(middle - y, middle - x, middle + y, middle + x)
    kernel[rows, columns] = values
    return kernel / kernel.sum()


# ------------------------------------------------------------------------------------------------------- scores


def print_scores(
    title: str,
    images: Sequence[Blurred],
    methods: dict[str, Deconvolve],
    networks: dict[str, Callable[[np.ndarray], np.ndarray]],
) -> None:
    given = [one.kernel if one.kernel is not None else best_stroke(one, methods["Wiener"]) for one in images]
    found = {"blurred input": [one.image for one in images]}
    for name, method in methods.items():
        found[f"{name} (scikit-image)"] = [deconvolved(method, one.image, k) for one, k in zip(images, given)]
    for name, sharpen in networks.items():
        found[name] = [sharpen(one.image) for one in images]
    rows, before = [], 0.0
    for name, outputs in found.items():
        scores = [compared(output, one) for output, one in zip(outputs, images, strict=True)]
        level, similarity = map(statistics.mean, zip(*scores, strict=True))
        before = before or level
        rows.append([name, f"{level:.2f}", f"{level - before:+.2f}", f"{similarity:.3f}"])
        print(f"{title}: {name} {level:.2f} dB", file=sys.stderr, flush=True)
    print_table(f"{title}: means over {len(images)} images", ["", "PSNR dB", "gain", "SSIM"], rows)


def compared(output: np.ndarray, one: Blurred) -> tuple[float, float]:
    """Give PSNR and SSIM without the border."""
    border = STROKE // 2
    inner = np.s_[:, border:-border, border:-border]
    found, sharp = np.clip(output[inner], 0, 1).astype(np.float32), one.sharp[inner]
    return psnr(found, sharp), ssim(found, sharp, 1.0)
