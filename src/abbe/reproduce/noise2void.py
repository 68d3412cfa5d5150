"""What is claimed of Noise2Void, tried small: how near it comes to clean targets, where it fails, and what mends it.

Krull, Buchholz, Jug, "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019, arXiv:1811.10980: without
any clean image it comes near to a network that learnt from noisy and clean pairs (27.71 against 29.06 dB on BSD68,
where the noisy images have 20.2), and it fails where the noise of a pixel can be told from its neighbours. Broaddus,
Krull, Weigert, Schmidt, Myers, "Removing Structured Noise with Self-Supervised Blind-Spot Networks", ISBI 2020,
doi:10.1109/ISBI45749.2020.9098336: StructN2V, which hides all pixels that share the noise, mends that.

The same photographs get noise once and for all: white noise, or *lines*, white noise averaged over five pixels of a row
and brought to the same deviation, so that pixels five apart share nothing. The same U-Net learns from them in the same
number of steps from the same crops: from noisy images alone, from pairs of two noisy ones (Noise2Noise, Lehtinen et al.
2018, arXiv:1803.04189), and from noisy and clean pairs.

Against the papers: minutes, a smaller network that gives the image itself and not what to add to it, more hidden pixels
per crop, and never the hidden pixel's own value in its place. StructN2V hides pixels behind values from nearby in place
of uniform ones from -2 to 2 deviations: photographs have even areas in which such values are seen at a glance, and a
short training learns what to do with them, and not what to do without. PSNR is that of values neither rounded nor
clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from abbe.methods.restoration.noise2void import Noise2Void, Noise2VoidConfig, Noise2VoidOptions, build
from abbe.methods.restoration.restore import GREY, Restoration, RestorationOptions
from abbe.methods.restoration.structn2v import StructN2V, StructN2VOptions
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.denoising import Course, Exam, Lesson, Objective, train
from abbe.reproduce.pace import Pace
from abbe.reproduce.photographs import Photographs, load_photographs

SIGMA = 25.0
"""Deviation of either noise, in 1/255."""
LINE = 5
"""Pixels of a row over which the noise of lines is averaged: each shares it with four on either side."""
INPUT, VOID, STRUCT, NOISE = "noisy image", "Noise2Void", "StructN2V", "Noise2Noise"
SUPERVISED = "clean targets"
TRAININGS = {"white": (VOID, NOISE, SUPERVISED), "lines": (VOID, STRUCT, SUPERVISED)}
"""What is trained on which noise."""
NEAR, FAILS, MENDS = 0.8, 0.25, 0.5
"""Parts of what clean targets gain, in dB over the noisy image: Noise2Void has at least the first on white noise and at
most the second on lines, where StructN2V has at least the third."""
COURSE = Course(steps=200, batch=16, crop=64, looks=4, warmup=10, clip=1.0)


@dataclass(frozen=True)
class Budget:
    """What a run costs; every network gets the same."""

    course: Course = COURSE
    """Training."""
    base: int = 16
    """Channels of the U-Net's first level; the paper has 96."""
    share: float = 0.015
    """Part of the pixels that are asked for in a crop, as in the authors' library; the paper has 0.002."""
    radius: int = 2
    """Pixels to each side from which a hidden one gets its value."""
    learning_rate: float = 3e-3
    """The highest one, of Adam."""
    held_out: int = 12
    """Squares to measure on."""
    side: int = 128
    """Their extents, in pixels."""


@dataclass(frozen=True)
class World:
    """Photographs under one kind of noise, in units of mean 0 and deviation 1 of the noisy ones to train on."""

    clean: tuple[np.ndarray, ...]
    """(1, Y, X) each."""
    noisy: tuple[np.ndarray, ...]
    """Likewise."""
    again: tuple[np.ndarray, ...]
    """Likewise, with other noise."""
    exam: Exam
    """Of the squares that are held out."""

    def lesson(self, way: str) -> Lesson:
        """Give what a way of learning learns from."""
        if way in (VOID, STRUCT):
            return Lesson(self.noisy)
        targets = self.again if way == NOISE else self.clean
        return Lesson([np.concatenate(pair) for pair in zip(self.noisy, targets, strict=True)], clean=1)


@dataclass(frozen=True)
class Restored:
    """What came of a training."""

    noise: str
    """Kind of noise."""
    way: str
    """How it learnt; :data:`INPUT` for what was not restored."""
    images: np.ndarray
    """The held-out squares, (N, 1, side, side)."""
    psnr: np.ndarray
    """Of each, in dB, (N,)."""
    kept: float
    """Part of the noise that is still there: how far the error goes along with it."""


def run(settings: ClaimSettings, tell: Callable[[str], None], budget: Budget | None = None) -> Found:
    """Learn in all ways from both kinds of noise."""
    chosen = budget or Budget()
    photographs = load_photographs(settings.data, chosen.side, chosen.held_out, settings.seed)
    tell(photographs.summary)
    pace = Pace(sum(map(len, TRAININGS.values())) * chosen.course.steps, tell)
    restored, worlds = [], {kind: make_world(photographs, kind, settings.seed) for kind in TRAININGS}
    for kind, ways in TRAININGS.items():
        exam = worlds[kind].exam
        restored.append(measured(kind, INPUT, exam.noisy, exam))
        restored += [learn(kind, way, worlds[kind], chosen, settings.seed, pace) for way in ways]
    table = tabulate(restored)
    return Found(*judge(table), table, draw(restored, worlds, photographs.source))


# ------------------------------------------------------------------------------------------------------- the noise


def make_world(photographs: Photographs, kind: str, seed: int) -> World:
    """Add noise of a kind to all photographs, once, and bring them to mean 0 and deviation 1."""
    generator = np.random.default_rng(seed)
    noisy, again = (tuple(add_noise(clean, kind, generator) for clean in photographs.train) for _ in range(2))
    values = np.concatenate([image.ravel() for image in noisy])
    mean, deviation = float(values.mean()), float(values.std())
    clean, noisy, again = (
        tuple((image - mean) / deviation for image in images) for images in (photographs.train, noisy, again)
    )
    held_out = (photographs.held_out, add_noise(photographs.held_out, kind, generator))
    wanted, given = (torch.from_numpy((images - mean) / deviation) for images in held_out)
    return World(clean, noisy, again, Exam(given, wanted, 1 / deviation))


def add_noise(clean: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray:
    """Add noise of deviation :data:`SIGMA` to images (..., Y, X) in 0..1, float32."""
    length = LINE if kind == "lines" else 1
    white = generator.standard_normal((*clean.shape[:-1], clean.shape[-1] + length - 1), np.float32)
    noise = np.lib.stride_tricks.sliding_window_view(white, length, axis=-1).sum(axis=-1) / np.sqrt(length)
    return (clean + SIGMA / GREY * noise).astype(np.float32)


# --------------------------------------------------------------------------------------------------- the trainings


def learn(kind: str, way: str, world: World, budget: Budget, seed: int, pace: Pace) -> Restored:
    """Train the U-Net in one way, and restore the held-out squares."""
    torch.manual_seed(seed)
    network = build(Noise2VoidConfig(base=budget.base, residual=False)).to(memory_format=torch.channels_last)
    objective = objective_of(way, network, budget)
    optimizer = torch.optim.Adam(network.parameters(), budget.learning_rate)

    def step(summary: str) -> None:
        pace.step(f"noise {kind}, {way}: {summary}")

    train(objective, optimizer, world.lesson(way), budget.course, world.exam, seed, step)
    return measured(kind, way, world.exam.restored(network), world.exam)


def objective_of(way: str, network: nn.Module, budget: Budget) -> Objective:
    """Say what the network is to learn."""
    if way == VOID:
        return Noise2Void(network, Noise2VoidOptions(budget.share, budget.radius, centre=False))
    if way == STRUCT:
        return StructN2V(network, StructN2VOptions("horizontal", LINE - 1, (), "window", budget.share, budget.radius))
    return Restoration(network, RestorationOptions(loss="l2"))


def measured(kind: str, way: str, images: torch.Tensor, exam: Exam) -> Restored:
    """Measure restored squares."""
    noise, error = exam.noisy - exam.clean, images - exam.clean
    kept = float((noise * error).sum() / noise.square().sum())
    return Restored(kind, way, images.numpy(), exam.psnr_of(images), kept)


# --------------------------------------------------------------------------------------------------- what came of it


def tabulate(restored: Sequence[Restored]) -> pd.DataFrame:
    """Give a row for each noise and way: ``gain`` over the noisy image, and its ``part`` of that of clean targets."""
    table = pd.DataFrame(
        {"noise": one.noise, "way": one.way, "psnr": float(one.psnr.mean()), "noise_kept": one.kept} for one in restored
    )
    by_way = table.set_index("way").groupby("noise")["psnr"]
    table["gain"] = table["psnr"] - table["noise"].map(lambda noise: by_way.get_group(noise)[INPUT])
    table["part"] = table["gain"] / table["noise"].map(table.set_index(["way", "noise"])["gain"][SUPERVISED])
    return table


def judge(table: pd.DataFrame) -> tuple[bool, str]:
    """Hold the gains against those of clean targets, by :data:`NEAR`, :data:`FAILS` and :data:`MENDS`."""
    rows = table.set_index(["noise", "way"])
    part, psnr, kept = rows["part"], rows["psnr"], rows["noise_kept"]
    near, fails, mends = part["white", VOID] >= NEAR, part["lines", VOID] <= FAILS, part["lines", STRUCT] >= MENDS

    def told(noise: str, way: str) -> str:
        share = "" if way == INPUT else f" ({part[noise, way]:.0%} of the gain)"
        return f"{way} {psnr[noise, way]:.2f} dB{share}"

    sentence = (
        f"on white noise Noise2Void {'comes near' if near else 'does not come near'} to clean targets: "
        f"{', '.join(told('white', way) for way in (INPUT, *TRAININGS['white']))}; on lines it "
        f"{'fails' if fails else 'does not fail'} and StructN2V {'mends that' if mends else 'does not mend that'}: "
        f"{', '.join(told('lines', way) for way in (INPUT, *TRAININGS['lines']))}; Noise2Void leaves "
        f"{kept['lines', VOID]:.0%} of the lines, StructN2V {kept['lines', STRUCT]:.0%}."
    )
    return bool(near and fails and mends), sentence


# ------------------------------------------------------------------------------------------------------- the figure


def draw(restored: Sequence[Restored], worlds: dict[str, World], source: str) -> Figure:
    """Show a held-out square under both kinds of noise and restored in all ways, with the mean PSNR of all squares."""
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    grid = figure.subplots(len(worlds), 5)
    for row, (kind, world) in zip(grid, worlds.items()):
        shown = middling(world.exam.clean)
        clean = world.exam.clean[shown].numpy()
        show(row[0], clean, clean, "clean")
        row[0].set_ylabel({"white": "white noise", "lines": "noise of lines"}[kind])
        for axes, one in zip(row[1:], (one for one in restored if one.noise == kind)):
            show(axes, one.images[shown], clean, f"{one.way}: {one.psnr.mean():.2f} dB")
    figure.suptitle(f"a square that was held out, and mean PSNR of {len(restored[0].psnr)}; {source}", fontsize=9)
    return figure


def middling(images: torch.Tensor) -> int:
    """Find the image whose contrast is the median of all, the upper one of two."""
    return int(images.flatten(1).std(dim=1).argsort()[len(images) // 2])


def show(axes: Axes, image: np.ndarray, clean: np.ndarray, title: str) -> None:
    """Show an image (1, Y, X) in the range of the clean one."""
    axes.imshow(image[0], cmap="gray", vmin=clean.min(), vmax=clean.max())
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
