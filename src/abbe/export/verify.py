"""Does a file that was written compute what Abbe computes: samples, and the largest difference on them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.data.volumes import NucleiVolume, nuclei_volume
from abbe.export.subject import Subject

LIMIT = 1e-4
"""Largest difference to the plain float32 forward, relative to the largest value of an output."""
TINT = 0.1
"""Share of the light that each further channel of a sample lacks, so that channels are not alike."""
NOISY = ("torch", "onnxscript", "onnx_ir", "onnxruntime", "openvino")
"""Loggers that tell what happens inside an export, which nobody asked for."""
Run = Callable[[np.ndarray], list[np.ndarray]]
"""Computes the outputs of a file from what the network takes."""


class Sample(NamedTuple):
    """Simulated input of a network."""

    raw: np.ndarray
    """Images (B, C, [Z,] Y, X) in grey values, float32; tokens (B, N), int64."""
    ready: np.ndarray
    """The same as the network takes it: normalised."""


def simulate(subject: Subject, batch: int, extents: Sequence[int]) -> Sample:
    """Simulate fluorescent nuclei, or draw tokens; equal arguments give equal samples."""
    if subject.vocabulary:
        tokens = np.random.default_rng(0).integers(1, subject.vocabulary, (batch, *extents))
        return Sample(tokens, tokens)
    grey = np.stack([_nuclei(tuple(extents), seed) for seed in range(batch)])
    if subject.has_colours:
        grey = np.floor(np.clip(grey / grey.max(), 0, 1) * 255)
    tints = 1 - TINT * np.arange(subject.method.in_channels)
    raw = (grey[:, None] * tints.clip(TINT).reshape(-1, *[1] * len(extents))).astype(np.float32)
    return Sample(raw, np.stack([subject.normalise(image) for image in raw]))


def _nuclei(extents: tuple[int, ...], seed: int) -> np.ndarray:
    if len(extents) == 2:
        return fluorescence_field(FluorescenceField(shape=extents, seed=seed)).image.astype(np.float64)
    depth, height, width = extents
    field = NucleiVolume(shape=(depth, height, width), voxel=(1.0, 0.5, 0.5), seed=seed)
    return nuclei_volume(field).image.astype(np.float64)


def samples(subject: Subject, free: bool) -> Iterator[np.ndarray]:
    """Give what a file is tried with: one image, and three; where extents are free, the three are of others."""
    extents = subject.extents
    yield simulate(subject, 1, extents).ready
    more = [extent + (axis + 1) * step for axis, (extent, step) in enumerate(zip(extents, subject.geometry.multiple))]
    yield simulate(subject, 3, subject.fitted(more) if free else extents).ready


def largest_difference(subject: Subject, run: Run, free: bool) -> float:
    """Compare a file with the plain float32 forward: the largest error of any output over its largest value."""
    return max(
        difference(found, expected)
        for sample in samples(subject, free)
        for found, expected in zip(run(sample), subject.plain(sample), strict=True)
    )


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Give the largest error over the largest expected value; infinite where shapes differ or a value is no number."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    error = float(np.abs(found - expected).max(initial=0))
    return error / max(float(np.abs(expected).max(initial=0)), float(np.finfo(np.float32).tiny)) if error else 0.0


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what exporters warn of: checks of extents that tracing fixes by design, and their own progress."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
