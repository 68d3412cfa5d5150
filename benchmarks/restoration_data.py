"""Clean grey images for the training of ``denoise``, made of the data sets that its weights may be shipped with.

    python benchmarks/restoration_data.py make --data DATASETS --to clean

Images of microscopes and cameras have noise of their own, so none is clean as it is. Each becomes grey and is averaged
over squares of 2 x 2 pixels, which halves noise that is independent, and again where that leaves more than ``LIMIT`` of
its contrast; images that would be too small are left out. The noise is measured before: afterwards fine detail would
count as noise. A folder for each part: val and test are never trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from abbe.data.channels import LUMINANCE
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.data.write_image import write_image
from abbe.errors import AbbeError
from abbe.ops.noise import estimate_noise
from tables import machine, print_table

LIMIT = 2.5 / 255
"""Noise that is left, as a share of the contrast, up to which an image counts as clean."""
LEAST = 96
"""Pixels of the shorter side: a crop of the training."""
EVERY = 5
"""Of data sets without parts every fifth image is for testing; of those with, as many are enough to validate on."""
DEEP = 65535 / 255
"""What 8-bit values are multiplied by, so that averages keep their fractions."""
Found = Iterator[tuple[Path, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    make_parser = parser.add_subparsers(required=True).add_parser("make", help=make.__doc__)
    make_parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    make_parser.add_argument("--to", type=Path, required=True, help="folder for the clean images")
    arguments = parser.parse_args()
    print(machine())
    try:
        make(arguments.data, arguments.to)
    except AbbeError as error:
        sys.exit(str(error))


def make(data: Path, to: Path) -> None:
    """Write the clean images of all data sets into folders of their parts."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, find in SOURCES.items():
        for number, (path, part) in enumerate(find(data / name)):
            if part == "val" and number % EVERY:
                continue
            clean = cleaned(grey(path))
            counts[name, part if clean is not None else "left out"] += 1
            if clean is not None:
                write_image(to / part / f"{name.replace('/', '-')}_{path.stem}.tif", clean, "YX", {})
    if not counts:
        raise AbbeError(f"{data}: none of the data sets {', '.join(SOURCES)}; expected the folder that holds them")
    columns = ("train", "val", "test", "left out")
    rows = [[name, *(str(counts[name, column]) for column in columns)] for name in SOURCES]
    print_table(f"Images with noise of at most {LIMIT:.4f} of their contrast", ["data", *columns], rows)


def grey(path: Path) -> np.ndarray:
    """Read an image as (Y, X), float64 with 16 bits: colours as luminance, of other channels the first."""
    image = read(path).planar()
    pixels = image.region(0, image.height, 0, image.width)
    scale = DEEP if pixels.dtype == np.uint8 else 1.0
    return scale * (np.tensordot(LUMINANCE, pixels, 1) if len(pixels) == 3 else pixels[0].astype(np.float64))


def cleaned(pixels: np.ndarray) -> np.ndarray | None:
    """Average until the noise is low, (Y, X) uint16; None where the image is too small for that."""
    noise = noise_over_contrast(pixels)
    while min(pixels.shape) >= 2 * LEAST:
        pixels, noise = halved(pixels), noise / 2
        if noise <= LIMIT:
            return np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)
    return None


def halved(pixels: np.ndarray) -> np.ndarray:
    """Average squares of 2 x 2 pixels."""
    rows, columns = (extent // 2 for extent in pixels.shape)
    return pixels[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))


def noise_over_contrast(pixels: np.ndarray) -> float:
    """Measure the noise; infinite for images without contrast."""
    contrast = float(Normalization("percentile").measure(pixels[None]).scale[0])
    if np.ptp(pixels) == 0:
        return np.inf
    noise = estimate_noise(pixels)
    return max(noise.deviation(level) for level in np.quantile(pixels, (0.1, 0.5, 0.9))) / contrast


# ------------------------------------------------------------------------------------------------- data sets


def find_parted(folder: Path) -> Found:
    """Find images below folders of parts."""
    for part in ("train", "val", "test"):
        yield from ((path, part) for path in sorted((folder / part).rglob("images/*")))


def find_listed(folder: Path) -> Found:
    """Find the images that lists of each part name, as BCCD has them."""
    for part in ("train", "val", "test"):
        listed = folder / "ImageSets" / "Main" / f"{part}.txt"
        stems = listed.read_text(encoding="utf-8").split() if listed.exists() else []
        paths = [folder / "JPEGImages" / f"{stem}.jpg" for stem in stems]
        yield from ((path, part) for path in paths if path.exists())


def find_undivided(folder: Path) -> Found:
    """Find images without parts, every fifth of them for testing."""
    for number, path in enumerate(sorted(folder.rglob("images/*"))):
        yield path, "test" if number % EVERY == EVERY - 1 else "train"


def find_frames(folder: Path) -> Found:
    """Find the frames of videos that are stored as pictures."""
    for part in ("train", "test"):
        yield from ((path, part) for path in sorted((folder / part).rglob("labeled-data/*/*.png")))


SOURCES = {
    "dsb2018/fluorescence": find_parted,
    "dsb2018/cytology": find_parted,
    "bccd": find_listed,
    "chula_rbc12": find_undivided,
    "omnipose_bacteria": find_undivided,
    "dlc_openfield": find_frames,
}
"""Data sets by their folder, and how their images are found: all may be redistributed."""


if __name__ == "__main__":
    main()
