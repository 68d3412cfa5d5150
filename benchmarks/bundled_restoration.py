"""What the bundled ``denoise`` and ``deblur`` gain, beside ways without a network on the same images.

    python benchmarks/bundled_restoration.py denoise --clean clean/test --bsd bsd_denoise/test_bsd68
    python benchmarks/bundled_restoration.py deblur [--model deblur] [--picture deblur.png]
    python benchmarks/bundled_restoration.py microscope --minutes 5

``denoise``: clean images (``restoration_data.py`` makes them; contrast brought to 0..1) and the photographs of BSD68
with white noise, of a standard deviation in 1/255, and with photons. BSD68 is as the papers have it: noise from seed 0
for each image, neither clipped nor rounded, PSNR of what comes out in 8 bits. Beside it non-local means that are told
the level.

``deblur``: simulated scenes that no training saw, blurred by the point-spread function of a widefield microscope, with
photons and read-out. Richardson-Lucy and Wiener's filter of scikit-image are told that function, and their number of
iterations and balance are those that are best on these very scenes; the network is told nothing.

``microscope``: the same for one known microscope, with a model that was trained for it in so many minutes, which the
network that it started from is held against.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.restoration import denoise_nl_means, richardson_lucy, wiener

import abbe
from abbe.api import restore
from abbe.data.datasets import IMAGE_SUFFIXES, whole_plane
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.data.scenes import simulated_scenes
from abbe.data.write import write_png
from abbe.errors import AbbeError
from abbe.learn import train_recipe
from abbe.learn_deblurring import deblurring_recipe, parse_point_spread
from abbe.metrics.images import psnr, psnr_8bit
from abbe.model import Model
from abbe.ops.degradation import add_camera_noise, add_haze, blur, exposed_alike
from abbe.ops.noise import estimate_noise
from abbe.ops.point_spread import point_spread
from abbe.train.recipe import dump_recipe
from tables import machine, print_table

SIGMAS = (15, 25, 50)
"""Of white noise, in 1/255."""
PHOTONS = (20, 100, 500)
"""That make a value of 1."""
READ_NOISE = 2 / 255
SCENES, SEED, SIDE = 8, 1001, 192
"""Scenes to score on, of a seed that no recipe has, and their extent in pixels."""
RESOLUTIONS = (2.0, 4.0)
"""Smallest distances that are resolved, in pixels."""
ITERATIONS = (4, 8, 16, 32)
BALANCES = (0.003, 0.01, 0.03, 0.1, 0.3)
SHOWN = 4
"""Scenes in a picture."""
EVEN = "An even image: deviation in 1/255, and the mean's change"
Way = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    arguments = parse()
    print(machine())
    try:
        arguments.verb(arguments)
    except AbbeError as error:
        sys.exit(str(error))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (denoise, deblur, microscope):
        sub = verbs.add_parser(verb.__name__, help=verb.__doc__)
        sub.add_argument("--model", default=verb.__name__)
        sub.add_argument("--picture", type=Path)
        sub.set_defaults(verb=verb)
    verbs.choices["denoise"].add_argument("--clean", type=Path, required=True)
    verbs.choices["denoise"].add_argument("--bsd", type=Path)
    verbs.choices["denoise"].add_argument("--images", type=int, default=24, help="at most about so many clean ones")
    verbs.choices["microscope"].add_argument("--psf", default="na=1.2,emission=520,pixel=0.08")
    verbs.choices["microscope"].add_argument("--minutes", type=float, default=5)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------ noise


def denoise(arguments: argparse.Namespace) -> None:
    """Measure the gain against the level of the noise."""
    model = abbe.load(arguments.model)
    clean = load(arguments.clean, arguments.images)
    rows = [noise_row(f"{sigma}", clean, model, white(sigma), sigma / 255) for sigma in SIGMAS]
    rows += [noise_row(f"{number} photons", clean, model, camera(number), None) for number in PHOTONS]
    header = ["noise", "noisy", model.name, "gain", "non-local means"]
    print_table(f"{len(clean)} held-out clean images, PSNR in dB", header, rows)
    flat = [[f"{sigma}", *flat_row(model, white(sigma))] for sigma in SIGMAS]
    print_table(EVEN, ["sigma", "before", "after", "mean"], flat)
    if arguments.bsd:
        photographs = [pixels[0] / np.float32(255) for pixels in pictures(arguments.bsd)]
        table = [[str(sigma), f"{bsd_score(photographs, model, sigma):.2f}"] for sigma in SIGMAS]
        print_table(f"{len(photographs)} photographs (BSD68), PSNR of 8 bits", ["sigma", "PSNR"], table)


def load(folder: Path, most: int) -> list[np.ndarray]:
    """Read clean images evenly out of a folder, (Y, X), with their contrast from 0 to 1."""
    found = [Normalization("percentile").normalize(pixels)[0] for pixels in pictures(folder)]
    return found[:: max(1, -(-len(found) // most))]


def pictures(folder: Path) -> Iterator[np.ndarray]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in IMAGE_SUFFIXES)
    if not paths:
        raise AbbeError(f"{folder}: no images")
    return (whole_plane(read(path)) for path in paths)


def white(sigma: float) -> Way:
    def add(clean: np.ndarray) -> np.ndarray:
        return (clean + np.random.RandomState(0).normal(0, sigma / 255, clean.shape)).astype(np.float32)

    return add


def camera(photons: float) -> Way:
    def expose(clean: np.ndarray) -> np.ndarray:
        return add_camera_noise(clean, 1 / photons, READ_NOISE, np.random.default_rng(0))

    return expose


def noise_row(name: str, clean: Sequence[np.ndarray], model: Model, worsen: Way, sigma: float | None) -> list[str]:
    scores = []
    for one in clean:
        noisy = worsen(one)
        known = sigma or float(np.std(noisy - one))
        means = denoise_nl_means(noisy, 5, 6, 0.8 * known, sigma=known, fast_mode=True)
        scores.append([psnr(found, one) for found in (noisy, restore(noisy, model), means)])
    before, after, means = np.mean(scores, axis=0)
    return [name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", f"{means:.2f}"]


def flat_row(model: Model, worsen: Way) -> list[str]:
    noisy = worsen(np.full((256, 256), 0.4, np.float32))
    found = restore(noisy, model)
    return [f"{255 * noisy.std():.2f}", f"{255 * found.std():.2f}", f"{255 * (found.mean() - noisy.mean()):+.3f}"]


def bsd_score(photographs: Sequence[np.ndarray], model: Model, sigma: float) -> float:
    add = white(sigma)
    return float(np.mean([psnr_8bit(restore(add(one), model), one) for one in photographs]))


# ------------------------------------------------------------------------------------------------------- blur


@dataclass(frozen=True)
class Trial:
    """Scenes seen through a microscope."""

    kernel: np.ndarray
    clean: list[np.ndarray]
    seen: list[np.ndarray]

    def score(self, way: Way) -> float:
        """Give the mean PSNR of a way over the scenes."""
        return float(np.mean([psnr(way(image), clean) for image, clean in zip(self.seen, self.clean, strict=True)]))

    def best(self, way: Callable[[np.ndarray, float], np.ndarray], values: Sequence[float]) -> tuple[float, Way]:
        """Give the best score of a way with one setting, and the way with it."""
        scores = [self.score(lambda image, value=value: way(image, value)) for value in values]  # type: ignore[misc]
        chosen = values[int(np.argmax(scores))]
        return max(scores), lambda image: way(image, chosen)

    def lucy(self, image: np.ndarray, iterations: float) -> np.ndarray:
        """Deconvolve with a mirrored border, light below zero cut off, as the method asks for."""
        light = np.maximum(image, 1e-6)
        return self.padded(lambda x: richardson_lucy(x, self.kernel, int(iterations), clip=False), light)

    def wiener(self, image: np.ndarray, balance: float) -> np.ndarray:
        """Filter with a mirrored border."""
        return self.padded(lambda x: wiener(x, self.kernel, balance, clip=False), image)

    def padded(self, way: Way, image: np.ndarray) -> np.ndarray:
        """Apply a way to an image with a mirrored border, which is cut off again."""
        margin = max(self.kernel.shape)
        return way(np.pad(image.astype(np.float64), margin, mode="symmetric"))[margin:-margin, margin:-margin]


def seen_through(kernel: np.ndarray, photons: float, haze: float = 0.0) -> Trial:
    """Blur the scenes and expose them: a value of 1 is what is brightest after the blur, and gets the photons."""
    generator, clean, seen = np.random.default_rng(0), [], []
    for one in simulated_scenes(SCENES, SEED, SIDE):
        sharp = one.render()[None]
        image = blur(sharp, kernel)
        image, sharp = exposed_alike(add_haze(image, haze, 15.0) if haze else image, sharp)
        seen.append(add_camera_noise(image, 1 / photons, READ_NOISE, generator)[0])
        clean.append(sharp[0])
    return Trial(kernel, clean, seen)


def of_resolution(resolution: float) -> np.ndarray:
    return point_spread(1.0, 1000.0, (0.5 / resolution,) * 2)


def deblur(arguments: argparse.Namespace) -> None:
    """Measure the gain of the blind model against the width of the blur and the light."""
    model = abbe.load(arguments.model)
    settings = [(r, n, h) for r in RESOLUTIONS for n, h in ((100.0, 0.0), (1000.0, 0.0), (1000.0, 0.3))]
    trials = [seen_through(of_resolution(resolution), photons, haze) for resolution, photons, haze in settings]
    rows = [
        [f"{resolution:g} px, {photons:g} photons, haze {haze:g}", *row(trial, model)]
        for (resolution, photons, haze), trial in zip(settings, trials, strict=True)
    ]
    tell(rows, model)
    even = [[f"{number}", *flat_row(model, camera(number))] for number in PHOTONS]
    print_table(EVEN, ["photons", "before", "after", "mean"], even)
    draw(trials[1], model, arguments.picture)


def microscope(arguments: argparse.Namespace) -> None:
    """Train for one microscope, and measure what that is worth there."""
    psf = parse_point_spread(arguments.psf)
    pixel = psf.pixels(None)
    kernel = point_spread(psf.numerical_aperture, psf.emission, (pixel, pixel), microscope=psf.microscope)
    trial = seen_through(kernel, 300.0)
    seen = np.stack(trial.seen)[:, None] * 1000  # as a camera would give it
    noise, contrast = estimate_noise(seen), Normalization("percentile").measure(seen.reshape(1, -1))
    recipe = deblurring_recipe(psf, None, arguments.minutes, [(noise, contrast)])
    print({name: recipe.options[name] for name in ("photons", "sigma")}, recipe.train.steps, "steps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "microscope.toml"
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        model = abbe.load(train_recipe(path, out=Path(folder) / "run", tell=print).model)
    before, after, gain, *classical = row(trial, model)
    blind = trial.score(lambda image: restore(image, abbe.load("deblur")))
    header = ["microscope", "seen", "trained for it", "gain", "deblur", "Richardson-Lucy", "Wiener"]
    cells = [arguments.psf, before, after, gain, f"{blind:.2f}", *classical]
    print_table(f"{SCENES} simulated scenes, PSNR in dB", header, [cells])
    draw(trial, model, arguments.picture)


def row(trial: Trial, model: Model) -> list[str]:
    before, after = trial.score(lambda image: image), trial.score(lambda image: restore(image, model))
    lucy, filtered = trial.best(trial.lucy, ITERATIONS)[0], trial.best(trial.wiener, BALANCES)[0]
    return [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", f"{lucy:.2f}", f"{filtered:.2f}"]


def tell(rows: list[list[str]], model: Model) -> None:
    header = ["microscope", "seen", model.name, "gain", "Richardson-Lucy", "Wiener"]
    print_table(f"{SCENES} simulated scenes, PSNR in dB", header, rows)


def draw(trial: Trial, model: Model, path: Path | None) -> None:
    """Write a picture of some scenes: seen, Richardson-Lucy, restored, true."""
    if path is None:
        return
    lucy = trial.best(trial.lucy, ITERATIONS)[1]
    rows = [
        np.hstack([image, lucy(image), restore(image, model), clean])
        for image, clean in list(zip(trial.seen, trial.clean, strict=True))[:SHOWN]
    ]
    write_png(path, np.rint(np.clip(np.vstack(rows), 0, 1) * 255).astype(np.uint8))


if __name__ == "__main__":
    main()
