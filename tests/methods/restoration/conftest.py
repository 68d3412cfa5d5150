"""A short training that several tests of blind spots share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from abbe.data.sample import Sample

EXTENT, CROP, BATCH = 128, 32, 8


@pytest.fixture(scope="session")
def gain_of_training() -> Callable[..., float]:
    """Train on one noisy image without knowing the clean one; gives how much nearer to that it came, in dB."""

    def measure(method: Any, noise: str, steps: int) -> float:
        clean = smooth_picture()
        noisy = clean + 0.7 * {"independent": independent, "stripes": stripes}[noise]()
        train(method, noisy, steps)
        with torch.inference_mode():
            restored = method.predict(torch.from_numpy(noisy)[None])["restored"][0].numpy()
        before, after = (np.mean((image - clean) ** 2) for image in (noisy, restored))
        return float(10 * np.log10(before / after))

    return measure


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """An image in 0 to 1 without fine detail, (1, Y, X) float32."""
    return 0.5 + 0.15 * smooth_picture()


def smooth_picture() -> np.ndarray:
    """Draw a random field without fine detail, (1, Y, X), mean 0 and deviation 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(EXTENT, EXTENT)), 3.0, mode="wrap")
    return ((field - field.mean()) / field.std())[None].astype(np.float32)


def independent() -> np.ndarray:
    """Draw noise of deviation 1."""
    return np.random.default_rng(1).normal(size=(1, EXTENT, EXTENT)).astype(np.float32)


def stripes() -> np.ndarray:
    """Draw noise of deviation 1 that nine neighbours in a row share."""
    noise = ndimage.uniform_filter1d(independent(), 9, axis=-1, mode="wrap")
    return noise / noise.std()


def train(method: Any, noisy: np.ndarray, steps: int) -> None:
    """Take steps on random crops, mirrored half of the time."""
    generator = np.random.default_rng(0)
    optimizer = torch.optim.Adam(method.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    method.train()
    for _ in range(steps):
        prepared = [method.prepare(Sample(crop(noisy, generator)), generator) for _ in range(BATCH)]
        batch = {name: torch.stack([one[name] for one in prepared]) for name in prepared[0]}
        optimizer.zero_grad()
        method.training_step(batch, generator=torch.Generator())["loss"].backward()
        optimizer.step()
        schedule.step()
    method.eval()


def crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    y, x = generator.integers(EXTENT - CROP + 1, size=2)
    piece = image[..., y : y + CROP, x : x + CROP]
    return piece[..., ::-1] if generator.random() < 0.5 else piece
