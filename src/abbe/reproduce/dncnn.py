"""What the paper of DnCNN claims, tried small: two ideas that need each other, and one network for all levels of noise.

Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising", IEEE
Transactions on Image Processing 2017, arXiv:1608.03981. Its Figure 2: of four networks, with residual learning and
batch normalisation, with one of them and with neither, the first ends best. Its Section IV: a blind network, trained on
levels of noise from 0 to 55, is nearly as good as one that was trained on the level alone.

Against the paper: networks of less depth and width, 500 steps of eight crops in place of 50 epochs of 1,600
batches of 128, a rate that falls as half a cosine, Adam only (the paper shows the same with stochastic gradient
descent), and the same depth for the blind network. PSNR is that of values neither rounded nor clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from abbe.methods.restoration.dncnn import DnCNN, DnCNNConfig, build
from abbe.methods.restoration.restore import Restoration, RestorationOptions
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.denoising import Course, Exam, Lesson, train, white_exam
from abbe.reproduce.pace import Pace
from abbe.reproduce.photographs import Photographs, load_photographs

BOTH = "residual and norm"
VARIANTS = {
    BOTH: {"residual": True, "batch_norm": True},
    "residual alone": {"residual": True, "batch_norm": False},
    "norm alone": {"residual": False, "batch_norm": True},
    "neither": {"residual": False, "batch_norm": False},
}
COLOURS = dict(zip(VARIANTS, ("#b5392f", "#f2a541", "#3b6fb6", "#7a7a7a"), strict=True))
SIGMA = 25.0
"""The level of noise of the four networks, in 1/255."""
SPECIALISTS = (15.0, 25.0, 50.0)
"""Levels that have a network of their own."""
RANGE = (0.0, 55.0)
"""Of the levels of the blind network."""
BLIND, INPUT = "blind", "noisy image"
"""Names of the network for all levels, and of what it is given."""
LEVELS = tuple(float(level) for level in range(5, 56, 5))
"""At which they are measured."""
NEARLY = 0.3
"""Decibels by which the blind network may be worse than a specialist at its level."""
COURSE = Course(steps=500, batch=8, crop=40, looks=10, warmup=10, clip=1.0)


@dataclass(frozen=True)
class Budget:
    """What a run costs; every network gets the same."""

    course: Course = COURSE
    """Training."""
    seeds: int = 2
    """Trainings of each of the four networks."""
    depth: int = 12
    """Convolutions; the paper has 17, and 20 for the blind one."""
    width: int = 16
    """Channels; the paper has 64."""
    held_out: int = 12
    """Squares to measure on."""
    side: int = 96
    """Their extents, in pixels."""
    learning_rate: float = 4e-3
    """The highest one, of Adam; the paper has 1e-3, for a hundred times as many steps."""


def run(settings: ClaimSettings, tell: Callable[[str], None], budget: Budget | None = None) -> Found:
    """Train the four networks, then the blind one and its other rivals."""
    chosen = budget or Budget()
    photographs = load_photographs(settings.data, chosen.side, chosen.held_out, settings.seed)
    tell(photographs.summary)
    trainings = chosen.seeds * len(VARIANTS) + len(SPECIALISTS)  # one specialist is of the four
    trials = Trials(photographs, chosen, settings.seed, Pace(trainings * chosen.course.steps, tell))
    curves, best = try_variants(trials)
    levels = try_levels(trials, best)
    table = pd.concat([curves.assign(what="variants"), levels.assign(what="levels")], ignore_index=True)
    return Found(*judge(curves, levels), table, draw(curves, levels, photographs.source))


# --------------------------------------------------------------------------------------------------- the trainings


@dataclass(frozen=True)
class Trials:
    """What all trainings share."""

    photographs: Photographs
    budget: Budget
    seed: int
    """Of the noise of the held-out squares, and the first of the trainings."""
    pace: Pace

    def exam(self, sigma: float) -> Exam:
        """Add noise to the held-out squares; the same noise, but for its strength, at all levels."""
        return white_exam(self.photographs.held_out, sigma, self.seed)

    def learn(self, variant: str, levels: tuple[float, float], seed: int) -> tuple[DnCNN, pd.DataFrame]:
        """Train a network on a range of levels; gives it, and its PSNR at :data:`SIGMA` by step."""
        budget = self.budget
        torch.manual_seed(seed)
        network = build(DnCNNConfig(depth=budget.depth, width=budget.width, **VARIANTS[variant]))
        objective = Restoration(network.to(memory_format=torch.channels_last), RestorationOptions(sigma=levels))
        optimizer = torch.optim.Adam(network.parameters(), budget.learning_rate)
        noise = " to ".join(f"{level:g}" for level in dict.fromkeys(levels))

        def step(summary: str) -> None:
            self.pace.step(f"{variant}, noise of {noise}, seed {seed}: {summary}")

        lesson = Lesson(self.photographs.train)
        return network, train(objective, optimizer, lesson, budget.course, self.exam(SIGMA), seed, step)


def try_variants(trials: Trials) -> tuple[pd.DataFrame, DnCNN]:
    """Train the four networks: ``network``, ``seed``, ``step``, ``psnr``, and the first network with both ideas."""
    curves, networks = [], []
    for seed, variant in product(range(trials.seed, trials.seed + trials.budget.seeds), VARIANTS):
        network, curve = trials.learn(variant, (SIGMA, SIGMA), seed)
        curves.append(curve.assign(network=variant, seed=seed))
        networks.append(network)
    return pd.concat(curves, ignore_index=True), networks[0]


def try_levels(trials: Trials, known: DnCNN) -> pd.DataFrame:
    """Train the blind network and specialists, all but the ``known`` one for :data:`SIGMA`, and measure them.

    Returns
    -------
    pandas.DataFrame
        ``network``, ``sigma`` and ``psnr`` at each of :data:`LEVELS`.
    """
    networks: dict[str, nn.Module] = {INPUT: nn.Identity(), BLIND: trials.learn(BOTH, RANGE, trials.seed)[0]}
    for sigma in SPECIALISTS:
        trained = known if sigma == SIGMA else trials.learn(BOTH, (sigma, sigma), trials.seed)[0]
        networks[specialist(sigma)] = trained
    rows = []
    for sigma, (name, network) in product(LEVELS, networks.items()):
        rows.append({"network": name, "sigma": sigma, "psnr": float(trials.exam(sigma).psnr(network).mean())})
    return pd.DataFrame(rows)


def specialist(sigma: float) -> str:
    """Name the network of a level."""
    return f"trained at {sigma:g}"


# --------------------------------------------------------------------------------------------------- what came of it


def judge(curves: pd.DataFrame, levels: pd.DataFrame) -> tuple[bool, str]:
    """Hold the numbers against both claims.

    They hold where the network with both ideas ends above the other three with every seed; and where the blind one is
    better than its input at all levels, at the level of each specialist at most :data:`NEARLY` worse than it, and
    better than each over all levels.
    """
    final = curves.groupby(["seed", "network"])["psnr"].last().unstack()
    ahead = final[BOTH] - final.drop(columns=BOTH).max(axis=1)
    together = bool((ahead > 0).all())
    verdict = "end best" if together else "do not end best"
    ends = ", ".join(f"{name} {final[name].mean():.2f}" for name in VARIANTS)
    one, covers = judge_levels(levels)
    sentence = (
        f"both ideas together {verdict}: {ends} dB ({spread(ahead)} against the best other, {len(final)} "
        f"seed{'s' * (len(final) > 1)}); {covers}."
    )
    return together and one, sentence


def spread(values: pd.Series) -> str:
    """Write the smallest and the largest of some differences."""
    return " to ".join(dict.fromkeys(f"{value:+.2f}" for value in (values.min(), values.max())))


def judge_levels(levels: pd.DataFrame) -> tuple[bool, str]:
    """Say whether the blind network covers the levels of noise."""
    psnr = levels.pivot(index="sigma", columns="network", values="psnr")
    over_input = psnr[BLIND] - psnr[INPUT]
    at_home = pd.Series({sigma: psnr.loc[sigma, BLIND] - psnr.loc[sigma, specialist(sigma)] for sigma in SPECIALISTS})
    abroad = pd.Series({sigma: (psnr[BLIND] - psnr[specialist(sigma)]).mean() for sigma in SPECIALISTS})
    holds = bool((over_input > 0).all() and (at_home >= -NEARLY).all() and (abroad > 0).all())
    home = ", ".join(f"{value:+.2f} at {sigma:g}" for sigma, value in at_home.items())
    away = ", ".join(f"{value:+.2f}" for value in abroad)
    sentence = (
        f"one blind network {'covers' if holds else 'does not cover'} noise from {LEVELS[0]:g} to {LEVELS[-1]:g}: "
        f"{spread(over_input)} dB against the noisy image, {home} against the network of that level alone, and {away} "
        f"over all levels"
    )
    return holds, sentence


# ------------------------------------------------------------------------------------------------------- the figure


def draw(curves: pd.DataFrame, levels: pd.DataFrame, source: str) -> Figure:
    """Draw PSNR by step, as the paper's Figure 2, and what is gained at each level of noise."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_curves(left, curves, float(levels.query("network == @INPUT and sigma == @SIGMA")["psnr"].iloc[0]))
    draw_levels(right, levels)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"held-out squares of {source}", fontsize=9)
    return figure


def draw_curves(axes: Axes, curves: pd.DataFrame, noisy: float) -> None:
    """Draw the four networks' means over seeds, and each seed as a thin line."""
    for name, colour in COLOURS.items():
        by_step = curves[curves["network"] == name].pivot(index="step", columns="seed", values="psnr")
        axes.plot(by_step.index, by_step, color=colour, linewidth=0.6, alpha=0.6)
        axes.plot(by_step.index, by_step.mean(axis=1), color=colour, marker="o", markersize=3, label=name)
    axes.axhline(noisy, color="black", linestyle=":", linewidth=1, label=INPUT)
    axes.set(title=f"two ideas, noise of {SIGMA:g}", xlabel="step", ylabel="PSNR (dB)")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw_levels(axes: Axes, levels: pd.DataFrame) -> None:
    """Draw what each network gains over the noisy image by level of noise."""
    psnr = levels.pivot(index="sigma", columns="network", values="psnr")
    gains = psnr.drop(columns=INPUT).sub(psnr[INPUT], axis=0)
    for sigma, colour in zip(SPECIALISTS, ("#7fb3d5", "#3b6fb6", "#1b2f5c")):
        axes.plot(gains.index, gains[specialist(sigma)], color=colour, linewidth=1, label=specialist(sigma))
        axes.plot([sigma], [gains.loc[sigma, specialist(sigma)]], "o", color=colour, markersize=5)
    axes.plot(gains.index, gains[BLIND], color=COLOURS[BOTH], linewidth=2, label="blind: trained from 0 to 55")
    axes.axhline(0, color="black", linestyle=":", linewidth=1, label=INPUT)
    axes.set(title="one network for many levels", xlabel="noise (of 255)", ylabel="gain in PSNR (dB)")
    axes.legend(frameon=False, fontsize=8)
