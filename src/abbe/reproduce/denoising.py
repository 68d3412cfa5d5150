"""Networks that learn in minutes to take noise away: the steps of a training, and the PSNR of what is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from abbe.data.sample import Sample
from abbe.methods.restoration.noise2void import Noise2Void
from abbe.methods.restoration.restore import CLEAN, GREY, Restoration
from abbe.metrics.images import psnr
from abbe.ops.degradation import add_gaussian_noise
from abbe.train.schedule import learning_rate_factor, set_learning_rate

Objective = Restoration | Noise2Void


@dataclass(frozen=True)
class Lesson:
    """What is learnt from."""

    pictures: Sequence[np.ndarray]
    """(C, Y, X) each, float32."""
    clean: int = 0
    """How many of the channels, the last ones, are what the others are to become."""


@dataclass(frozen=True)
class Course:
    """How it is learnt."""

    steps: int
    """Batches."""
    batch: int
    """Crops a batch."""
    crop: int
    """Their extents, in pixels."""
    looks: int
    """Times at which the held-out squares are restored, evenly spread, the last at the end."""
    warmup: int
    """Steps in which the learning rate rises; then it falls to zero as half a cosine."""
    clip: float
    """Longest gradient of a step."""


@dataclass(frozen=True)
class Exam:
    """Squares that were not learnt from."""

    noisy: torch.Tensor
    """(N, C, Y, X)."""
    clean: torch.Tensor
    """Likewise."""
    data_range: float = 1.0
    """From black to white, in their units."""

    @torch.inference_mode()
    def restored(self, network: nn.Module) -> torch.Tensor:
        """Restore all squares, one at a time as to hold little in memory."""
        network.eval()
        return torch.cat([network(square) for square in self.noisy.split(1)])

    def psnr(self, network: nn.Module) -> np.ndarray:
        """Measure the PSNR of each square in dB, (N,), of values that are neither clipped nor rounded."""
        return self.psnr_of(self.restored(network))

    def psnr_of(self, images: torch.Tensor) -> np.ndarray:
        """Measure the PSNR of images like the squares in dB, (N,)."""
        return np.array([psnr(*pair, self.data_range) for pair in zip(images.numpy(), self.clean.numpy(), strict=True)])


def white_exam(clean: np.ndarray, sigma: float, seed: int) -> Exam:
    """Add white noise of a level in 1/255 to squares (N, C, Y, X)."""
    noisy = add_gaussian_noise(clean, sigma / GREY, np.random.default_rng(seed))
    return Exam(torch.from_numpy(noisy), torch.from_numpy(clean))


def train(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    lesson: Lesson,
    course: Course,
    exam: Exam,
    seed: int,
    step: Callable[[str], None],
) -> pd.DataFrame:
    """Train a network on random crops, the same ones for equal seeds, and measure it on the way.

    Parameters
    ----------
    objective
        Holds the network.
    optimizer
        Of its parameters; the rate it has is the highest.
    lesson, course, exam
        What it learns from, how, and what it is measured by.
    seed
        Of crops and noise.
    step
        Called after each step with how well it does.

    Returns
    -------
    pandas.DataFrame
        ``step``, from 1, and ``psnr``, the mean over squares.
    """
    generator = np.random.default_rng(seed)
    for group in optimizer.param_groups:
        group["highest_lr"] = group["lr"]
    curve: list[dict[str, float]] = []
    for number in range(1, course.steps + 1):
        factor = learning_rate_factor(number - 1, total=course.steps, warmup=course.warmup, schedule="cosine")
        set_learning_rate(optimizer, factor)
        advance(objective, optimizer, draw_batch(objective, lesson, course, generator), course.clip)
        if number * course.looks // course.steps > (number - 1) * course.looks // course.steps:
            curve.append({"step": number, "psnr": float(exam.psnr(objective.network).mean())})
        step(f"step {number}" + (f", {curve[-1]['psnr']:.2f} dB" if curve else ""))
    return pd.DataFrame(curve)


def advance(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], clip: float
) -> None:
    """Take a step."""
    loss = objective.train().training_step(batch, generator=torch.Generator())["loss"]
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), clip)
    optimizer.step()


def draw_batch(
    objective: Objective, lesson: Lesson, course: Course, generator: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Draw crops of random pictures, and let the objective make of them what it learns from."""
    samples = []
    for _ in range(course.batch):
        picture = lesson.pictures[int(generator.integers(len(lesson.pictures)))]
        sample = Sample(crop(picture, course.crop, generator), extra={CLEAN: lesson.clean})
        samples.append(objective.prepare(sample, generator))
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def crop(picture: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """Cut a random square out of a picture (C, Y, X), mirrored or not along each axis; rows stay rows."""
    top, left = (int(generator.integers(extent - side, endpoint=True)) for extent in picture.shape[1:])
    down, right = (1 - 2 * int(generator.integers(2)) for _ in range(2))
    return picture[:, top : top + side, left : left + side][:, ::down, ::right]
