"""Samples brought to another pixel size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.ops.resampling import resample as scale_axes
from abbe.ops.resampling import weights


def resample(sample: Sample, target_size: Sequence[float]) -> Sample:
    """Bring a sample to ``target_size`` µm per pixel along each axis, rounded to whole pixels of its field.

    The image is interpolated linearly, or averaged where it shrinks; labels and ignored pixels are taken from the
    nearest. AbbeError where the sample does not know its pixel size.
    """
    if sample.pixel_size is None:
        wanted = " × ".join(f"{size:g}" for size in target_size)
        raise AbbeError(
            f"{sample.name or 'image'}: pixel size unknown, but the model works at {wanted} µm; "
            "give it with --pixel-size"
        )
    old = sample.image.shape[1:]
    shape = tuple(max(1, round(n * s / t)) for n, s, t in zip(old, sample.pixel_size, target_size, strict=True))
    return replace(
        sample,
        image=resize(sample.image, shape),
        labels=None if sample.labels is None else pick(sample.labels, shape),
        ignore=None if sample.ignore is None else pick(sample.ignore, shape),
        pixel_size=tuple(s * n / new for s, n, new in zip(sample.pixel_size, old, shape)),
    )


def resize(maps: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bring maps (C, ...) to ``shape``, float32, as the tiles of an image are: images to the model's grid."""
    old = maps.shape[1:]
    if old == tuple(shape):
        return maps
    return scale_axes(maps, [weights(0, n, n, m)[1] for n, m in zip(shape, old, strict=True)])


def pick(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Take from ``array`` the pixel nearest to every pixel of a grid of ``shape`` over the same field."""
    places = [((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, array.shape)]
    return array[np.ix_(*places)]
