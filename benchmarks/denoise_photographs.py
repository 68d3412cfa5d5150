"""Denoising of grey photographs by the papers' protocol, to the letter. Verbs of ``restoration.py``.

The clean image is in 0 to 1. For every image ``np.random.seed(0)``, then noise in float, neither clipped nor rounded;
the output is clipped and rounded to 8 bits before it is compared; no border is left out; the mean is over images.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

import abbe
from abbe.data.normalize import Normalization, Statistics
from abbe.data.write_image import write_image
from abbe.errors import AbbeError
from abbe.learn_restoration import restored
from abbe.methods.restoration.restore import Restoration
from abbe.metrics.images import psnr_8bit, ssim
from abbe.model import Model
from abbe.tiling.prepare import Predictor
from tables import print_table

Denoiser = Callable[[np.ndarray], np.ndarray]
"""A noisy image (Y, X) of a range from 0 to 1 to a better one."""
TUNED_ON = 8
"""Training images on which the classical methods choose their strength."""
PATCH, REACH = 5, 6
"""Pixels of non-local means: sides of the squares that are compared, and how far they may lie apart."""
STRENGTHS = {"non-local means": (0.4, 0.6, 0.8, 1.0, 1.2), "total variation": (0.6, 0.8, 1.0, 1.2, 1.6)}
"""What is tried, in standard deviations of the noise."""
ANCHORS = {
    15.0: "DnCNN-S 31.73, BM3D 31.07",
    25.0: "DnCNN-S 29.23, BM3D 28.57, Noise2Void 27.71",
    50.0: "DnCNN-S 26.23, BM3D 25.62",
}
"""Means over BSD68 that the papers give, by level of noise."""
PUBLISHED = (29.23, 0.01)
"""dB that the published DnCNN for 25 reaches with its authors' code, and how near ours should come."""


# ------------------------------------------------------------------------------------------------------- verbs


def bsd68(arguments: argparse.Namespace) -> None:
    """Score models and classical methods on the test photographs."""
    images = read_grey(arguments.data / "test_bsd68", arguments.images)
    print(f"from the papers: {ANCHORS.get(arguments.sigma, 'nothing')} dB")
    named: dict[str, Denoiser] = {"noisy": lambda noisy: noisy}
    if not arguments.no_classical:
        named |= classical(read_grey(arguments.data / "train400", TUNED_ON), arguments.sigma)
    for file in arguments.model:
        model = abbe.load(file)
        named[f"{model.name} ({file})"] = by_model(model, arguments.precision)
        if arguments.flips:
            named[f"{model.name} ({file}), 8 flips and turns"] = turned(by_model(model, arguments.precision))
    print_scores(named, images, arguments.sigma)


def noisy(arguments: argparse.Namespace) -> None:
    """Write the photographs for training with noise added once, for Noise2Void: float32 of a range from 0 to 1."""
    generator = np.random.default_rng(0)
    images = read_grey(arguments.data / "train400")
    for number, clean in enumerate(images):
        pixels = clean + generator.normal(0, arguments.sigma / 255, clean.shape)
        write_image(arguments.out / f"{number:03d}.tif", pixels.astype(np.float32), "YX", {})
    print(f"{len(images)} images with noise of {arguments.sigma:g} in {arguments.out}")


def kair(arguments: argparse.Namespace) -> None:
    """Score our DnCNN with the published weights."""
    if not arguments.weights.is_file():
        print(f"left out: {arguments.weights} is not at hand; it is model_zoo/dncnn_25.pth of cszn/KAIR (MIT)")
        return
    network = abbe.create(arguments.network, weights=arguments.weights)
    predictor = Predictor(Restoration(network), device="cpu", precision=arguments.precision)
    images = read_grey(arguments.data / "test_bsd68", arguments.images)
    known = Statistics(np.zeros(1), np.ones(1))
    (found,) = print_scores({arguments.weights.name: partial(apply, predictor, known)}, images, arguments.sigma)
    expected, margin = PUBLISHED
    if arguments.sigma == 25 and arguments.images is None:
        verdict = "as expected" if abs(found - expected) <= margin else "NOT AS EXPECTED"
        print(f"{found:.3f} dB; the authors' code {expected} ± {margin}: {verdict}")


# ------------------------------------------------------------------------------------------------------- protocol


def read_grey(folder: Path, number: int | None = None) -> list[np.ndarray]:
    """Read grey images as float64 of 0 to 1."""
    files = sorted(folder.glob("*.png"))[:number]
    if not files:
        raise AbbeError(f"{folder}: no png images; expected those of BSD68 and Train400 in --data")
    return [np.asarray(Image.open(file).convert("L")) / 255 for file in files]


def add_noise(clean: np.ndarray, sigma: float) -> np.ndarray:
    """Add the noise of the protocol; ``sigma`` in 1/255."""
    np.random.seed(0)  # noqa: NPY002  # the protocol names this generator
    return clean + np.random.normal(0, sigma / 255, clean.shape)  # noqa: NPY002


def print_scores(named: dict[str, Denoiser], images: Sequence[np.ndarray], sigma: float) -> list[float]:
    """Print a row for each method; give the mean PSNRs."""
    rows, means = [], []
    for name, denoise in named.items():
        found = [score(denoise, clean, sigma) for clean in images]
        psnr, similarity, seconds = map(statistics.mean, zip(*found, strict=True))
        rows.append([name, f"{psnr:.3f}", f"{similarity:.4f}", f"{seconds:.2f}"])
        means.append(psnr)
        print(f"{name}: {psnr:.3f} dB", file=sys.stderr, flush=True)
    title = f"Noise of {sigma:g}/255, {len(images)} images: means of what comes out in 8 bits"
    print_table(title, ["", "PSNR dB", "SSIM", "s an image"], rows)
    return means


def score(denoise: Denoiser, clean: np.ndarray, sigma: float) -> tuple[float, float, float]:
    """Give PSNR and SSIM of what comes out in 8 bits, and the seconds."""
    noisy = add_noise(clean, sigma)
    begin = time.perf_counter()
    found = denoise(noisy)
    seconds = time.perf_counter() - begin
    eight = np.rint(np.clip(found, 0, 1) * 255)
    return psnr_8bit(found, clean), ssim(eight[None], clean[None] * 255, 255), seconds


# ------------------------------------------------------------------------------------------------------- methods


def by_model(model: Model, precision: Any) -> Denoiser:
    """Denoise with a model as its file says."""
    predictor = Predictor(model.method, device="cpu", precision=precision)
    return lambda noisy: apply(predictor, statistics_of(model, noisy), noisy)


def statistics_of(model: Model, noisy: np.ndarray) -> Statistics:
    """Measure an image as the model says; one that takes ranges knows this one, which noise leaves at both ends."""
    normalization = Normalization(**model.description.normalization)
    if normalization.kind == "range":
        normalization = dataclasses.replace(normalization, kind="none")
    return normalization.measure(noisy[None])


def apply(predictor: Predictor, statistics: Statistics, noisy: np.ndarray) -> np.ndarray:
    return statistics.invert(restored(predictor, statistics.apply(noisy[None])))[0]


def turned(denoise: Denoiser) -> Denoiser:
    """Average over four turns, each mirrored and not."""

    def average(noisy: np.ndarray) -> np.ndarray:
        total = np.zeros_like(noisy)
        for turns in range(4):
            seen = np.rot90(noisy, turns)
            total += np.rot90(denoise(np.ascontiguousarray(seen)), -turns)
            total += np.rot90(denoise(np.ascontiguousarray(seen[:, ::-1]))[:, ::-1], -turns)
        return total / 8

    return average


def classical(training: Sequence[np.ndarray], sigma: float) -> dict[str, Denoiser]:
    """Give the methods of scikit-image, each as strong as is best on training images."""
    made: dict[str, Callable[[float], Denoiser]] = {
        "non-local means": lambda strength: partial(
            denoise_nl_means,
            patch_size=PATCH,
            patch_distance=REACH,
            h=strength * sigma / 255,
            sigma=sigma / 255,
            fast_mode=True,
        ),
        "total variation": lambda strength: partial(denoise_tv_chambolle, weight=strength * sigma / 255),
    }
    return {f"{name} (scikit-image)": best(make, STRENGTHS[name], training, sigma) for name, make in made.items()}


def best(
    make: Callable[[float], Denoiser], strengths: Iterable[float], training: Sequence[np.ndarray], sigma: float
) -> Denoiser:
    """Choose the strength of the highest mean PSNR."""

    def mean(strength: float) -> float:
        denoise = make(strength)
        return statistics.mean(psnr_8bit(denoise(add_noise(clean, sigma)), clean) for clean in training)

    return make(max(strengths, key=mean))
