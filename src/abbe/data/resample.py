"""Samples brought to another pixel size, and what was found there brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from abbe.data.sample import Sample
from abbe.errors import AbbeError


def resample(sample: Sample, target_size: Sequence[float]) -> Sample:
    """Bring a sample to ``target_size`` µm per pixel along each axis, rounded to whole pixels of its field.

    The image is interpolated linearly; labels and ignored pixels are taken from the nearest. AbbeError where
    the sample does not know its pixel size.
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
    """Interpolate maps (C, ...) linearly to ``shape``, float32: images to the model's grid, outputs back."""
    if maps.shape[1:] == tuple(shape):
        return maps
    x = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[None]
    return F.interpolate(x, tuple(shape), mode="bilinear" if x.ndim == 4 else "trilinear")[0].numpy()


def pick(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Take from ``array`` the pixel nearest to every pixel of a grid of ``shape`` over the same field."""
    places = [((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, array.shape)]
    return array[np.ix_(*places)]
