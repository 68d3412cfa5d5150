"""A network without activation functions loses nothing against its twin that has them.

Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676. Its Table 2 leads from the
paper's *baseline*, with GELU and an attention to channels with ReLU and sigmoid, to NAFNet, where products stand in
their place: 39.85 to 39.96 dB on SIDD, 32.35 to 32.85 on GoPro. Here both learn to take white noise from photographs;
they have the same blocks and widths, and nearly the same parameters and multiply-adds, as the products halve what was
made twice as wide.

Trained as in the paper, on the PSNR of each crop by AdamW with a rate that falls as half a cosine and gradients cut at
0.01, but in minutes: networks of six blocks and small crops. Both see the same crops under the same noise with each
seed; several seeds say how far chance goes. PSNR is that of values neither rounded nor clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from abbe.methods.restoration.nafnet import NAFNet, NAFNetConfig, build
from abbe.methods.restoration.restore import Restoration, RestorationOptions
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.denoising import Course, Exam, Lesson, train, white_exam
from abbe.reproduce.pace import Pace
from abbe.reproduce.photographs import Photographs, load_photographs

PLAIN, GELU = "NAFNet", "baseline with GELU"
COLOURS = {PLAIN: "#b5392f", GELU: "#3b6fb6"}
SIGMA = 25.0
"""Level of the noise, in 1/255."""
NOTHING = 0.1
"""Decibels that count as nothing."""
CERTAIN = 2.0
"""Standard errors by which the true difference may lie below the one that was found."""
COURSE = Course(steps=240, batch=8, crop=48, looks=6, warmup=0, clip=0.01)


@dataclass(frozen=True)
class Budget:
    """What a run costs; every network gets the same."""

    course: Course = COURSE
    """Training."""
    seeds: int = 3
    """Trainings of each network."""
    width: int = 16
    """Channels at full resolution."""
    blocks: tuple[int, ...] = (1, 1)
    """Blocks at each level, on the way down and on the way up."""
    middle: int = 2
    """Blocks at the coarsest level."""
    learning_rate: float = 1e-3
    """The highest one, of AdamW."""
    held_out: int = 12
    """Squares to measure on."""
    side: int = 128
    """Their extents, in pixels."""


def run(settings: ClaimSettings, tell: Callable[[str], None], budget: Budget | None = None) -> Found:
    """Train both networks with several seeds."""
    chosen = budget or Budget()
    photographs = load_photographs(settings.data, chosen.side, chosen.held_out, settings.seed)
    tell(photographs.summary)
    exam = white_exam(photographs.held_out, SIGMA, settings.seed)
    pace = Pace(chosen.seeds * len(COLOURS) * chosen.course.steps, tell)
    seeds = range(settings.seed, settings.seed + chosen.seeds)
    curves = [learn(name, photographs, exam, chosen, seed, pace) for seed, name in product(seeds, COLOURS)]
    table = pd.concat(curves, ignore_index=True).merge(sizes(chosen), on="network")
    noisy = float(exam.psnr_of(exam.noisy).mean())
    return Found(*judge(table, noisy), table, draw(table, photographs.source))


# ---------------------------------------------------------------------------------------------------- the networks


def network_of(name: str, budget: Budget) -> NAFNet:
    """Build one of the networks, for grey images; both average over windows where images are large."""
    down, up = budget.blocks, budget.blocks[::-1]
    config = NAFNetConfig(1, budget.width, down, budget.middle, up, name != PLAIN, local=budget.course.crop)
    return build(config)


def sizes(budget: Budget) -> pd.DataFrame:
    """Count the ``parameters`` of each ``network``, and the ``multiply_adds`` of its convolutions for a pixel."""
    side, rows = budget.course.crop, []
    for name in COLOURS:
        with torch.device("meta"):
            network, counter = network_of(name, budget), FlopCounterMode(display=False)
            with counter, torch.no_grad():
                network(torch.empty(1, 1, side, side))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        multiply_adds = counter.get_total_flops() / 2 / side**2
        rows.append({"network": name, "parameters": parameters, "multiply_adds": multiply_adds})
    return pd.DataFrame(rows)


def learn(name: str, photographs: Photographs, exam: Exam, budget: Budget, seed: int, pace: Pace) -> pd.DataFrame:
    """Train a network: ``network``, ``seed``, ``step`` and ``psnr`` on the way."""
    torch.manual_seed(seed)
    network = network_of(name, budget).to(memory_format=torch.channels_last)
    objective = Restoration(network, RestorationOptions(sigma=(SIGMA, SIGMA), loss="psnr"))
    optimizer = torch.optim.AdamW(network.parameters(), budget.learning_rate, (0.9, 0.9), weight_decay=0.0)

    def step(summary: str) -> None:
        pace.step(f"{name}, seed {seed}: {summary}")

    curve = train(objective, optimizer, Lesson(photographs.train), budget.course, exam, seed, step)
    return curve.assign(network=name, seed=seed)


# --------------------------------------------------------------------------------------------------- what came of it


def judge(table: pd.DataFrame, noisy: float) -> tuple[bool, str]:
    """Say whether NAFNet is not worse than its twin by more than :data:`NOTHING`, two standard errors counted in."""
    final = table.groupby(["seed", "network"])["psnr"].last().unstack()
    difference = final[PLAIN] - final[GELU]
    uncertain = CERTAIN * float(difference.std() / np.sqrt(len(final))) if len(final) > 1 else np.inf
    holds = bool(difference.mean() - uncertain >= -NOTHING)
    verdict = "nothing" if holds else "something, or the seeds differ too much to tell"
    more = table.groupby("network")[["parameters", "multiply_adds"]].first()
    ratio = more.loc[PLAIN] / more.loc[GELU] - 1
    sentence = (
        f"without activation functions the network loses {verdict}: {PLAIN} {final[PLAIN].mean():.2f} dB, {GELU} "
        f"{final[GELU].mean():.2f}, the noisy image {noisy:.2f}; over {len(final)} seeds the difference is "
        f"{difference.mean():+.2f} ± {uncertain:.2f} dB (two standard errors), with {ratio['parameters']:+.1%} "
        f"parameters and {ratio['multiply_adds']:+.1%} multiply-adds."
    )
    return holds, sentence


def draw(table: pd.DataFrame, source: str) -> Figure:
    """Draw PSNR by step, and where each seed ended."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for name, colour in COLOURS.items():
        by_step = table[table["network"] == name].pivot(index="step", columns="seed", values="psnr")
        left.fill_between(by_step.index, by_step.min(axis=1), by_step.max(axis=1), color=colour, alpha=0.2, linewidth=0)
        left.plot(by_step.index, by_step.mean(axis=1), color=colour, marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="PSNR (dB)", title=f"noise of {SIGMA:g}, held-out squares; bands: all seeds")
    left.legend(frameon=False, loc="lower right")
    draw_ends(right, table)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(source, fontsize=9)
    return figure


def draw_ends(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the last PSNR of each seed, those of one seed joined: they saw the same crops."""
    final = table.groupby(["seed", "network"])["psnr"].last().unstack()[list(COLOURS)]
    for _, ends in final.iterrows():
        axes.plot(range(len(COLOURS)), ends, color="#bbbbbb", linewidth=0.8, zorder=1)
    for place, (name, colour) in enumerate(COLOURS.items()):
        axes.scatter([place] * len(final), final[name], color=colour, zorder=2)
    axes.set_xticks(range(len(COLOURS)), [name.replace(" with", "\nwith") for name in COLOURS])
    axes.set(title="at the end", xlim=(-0.5, len(COLOURS) - 0.5))
