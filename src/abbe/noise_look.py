"""What the noise of images is like that nobody has a clean copy of, looked at in the middle of some of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.ops.boxes import Box
from abbe.ops.noise import Noise, Verdict, estimate_noise, strongest
from abbe.report.neighbours import spread

FRAMES = 12
"""Frames whose noise is looked at."""
SIDE = 1024
"""Extent of the part of them that is looked at, in pixels."""
NUMBERS = ("gain", "intercept", "level", "dark")


@dataclass(frozen=True)
class NoiseLook:
    """What the noise of some images is like."""

    noises: tuple[Noise, ...]
    """Of each channel, the median of the frames that were looked at."""

    @property
    def noise(self) -> Noise:
        """That of the channel whose neighbours share most."""
        return max(
            self.noises, key=lambda noise: max(abs(strongest(side)) for side in (noise.horizontal, noise.vertical))
        )

    @property
    def verdict(self) -> Verdict:
        """Who shares the noise; "none" where no channel has any."""
        return "none" if all(noise.verdict == "none" for noise in self.noises) else self.noise.verdict

    def __str__(self) -> str:
        """Say it in a sentence for each channel."""
        return "; ".join(
            f"channel {number}: {spell_noise(noise)}" if len(self.noises) > 1 else spell_noise(noise)
            for number, noise in enumerate(self.noises)
        )


def spell_noise(noise: Noise) -> str:
    """Say how strong the noise of a channel is and who shares it."""
    if noise.verdict == "none":
        return "no noise found"
    photons = "the same at all brightnesses"
    if noise.gain > 0:
        photons = f"{noise.gain:.3g} grey values per photon, read noise of {noise.read_noise(noise.dark):.3g} or less"
    x, y = strongest(noise.horizontal), strongest(noise.vertical)
    shares = {
        "independent": "independent from pixel to pixel",
        "horizontal": f"shared by neighbours in a row (correlation {x:.2f})",
        "vertical": f"shared by neighbours in a column (correlation {y:.2f})",
        "isotropic": f"shared by neighbours all around (correlation {x:.2f} in a row, {y:.2f} in a column)",
    }[noise.verdict]
    return f"noise of {noise.deviation(noise.level):.3g} at the median of {noise.level:.4g}, {photons}; {shares}"


def look_at_noise(images: Sequence[Series]) -> NoiseLook | None:
    """Measure the noise in the middle of some frames of all images, channel by channel; None where all are small.

    Raises
    ------
    AbbeError
        Where no pixel there has a value.
    """
    read = [middle_of(series, frame) for series, frame in frames_to_look_at(images)]
    parts = [part for part in read if part is not None]
    if parts and not any(np.isfinite(part).any() for part in parts):
        raise AbbeError(f"{images[0].image.name}: no pixel with a value, all are NaN or infinite; nothing to restore")
    found = [noises for part in parts if (noises := _noises_of(part))]
    if not found:
        return None
    return NoiseLook(tuple(map(median_noise, zip(*found, strict=True))))


def frames_to_look_at(images: Sequence[Series]) -> list[tuple[Series, int]]:
    """Choose some frames of all images, evenly."""
    places = [(series, frame) for series in images for frame in spread(len(series), FRAMES)]
    return [places[i] for i in spread(len(places), FRAMES)]


def middle_of(series: Series, frame: int) -> np.ndarray | None:
    """Read the middle of a frame; None where it cannot be read."""
    image = series[frame]
    try:
        return image.box(middle(image.extents))
    except Exception:  # whatever a damaged file makes its reader raise; the image fails when it is restored
        return None


def _noises_of(part: np.ndarray) -> list[Noise]:
    """Measure the noise of the channels of a part (C, Y, X); nothing where it is too small."""
    try:
        return [estimate_noise(channel) for channel in part]
    except AbbeError:
        return []


def middle(extents: Sequence[int]) -> Box:
    """Give the box in the middle, of at most ``SIDE`` pixels along Y and X."""
    sides = [min(extent, SIDE) for extent in extents]
    starts = [(extent - side) // 2 for extent, side in zip(extents, sides, strict=True)]
    return tuple((start, start + side) for start, side in zip(starts, sides, strict=True))


def median_noise(noises: Sequence[Noise]) -> Noise:
    """Take the median of everything that was measured, of the frames that have noise if some have."""
    noisy = [noise for noise in noises if noise.verdict != "none"] or list(noises)
    gain, intercept, level, dark = (float(np.median([getattr(n, name) for n in noisy])) for name in NUMBERS)
    sides = ([getattr(n, name) for n in noisy] for name in ("horizontal", "vertical"))
    horizontal, vertical = (tuple(np.median(side, axis=0).tolist()) for side in sides)
    return Noise(gain, intercept, horizontal, vertical, level, dark)
