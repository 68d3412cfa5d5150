"""Depth hurts plain networks and not residual ones: the training error of four networks, trained alike.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, Section 4.2 and
Figure 6. The networks are the paper's: 20 and 56 layers for pictures of 32 x 32 pixels, with shortcuts and without. The
training is not: minutes in place of 64,000 steps, on a part of the pictures and without augmentation, so that errors
are far above the paper's; and AdamW in place of stochastic gradient descent, with which the deep residual network is
still at its start when these minutes are over. What is compared is the training error, which is where the paper finds
the degradation; that a network generalises badly would be another matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.resnet import ResNetCifarConfig, build
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.pace import Pace
from abbe.reproduce.pictures import Pictures, load_pictures
from abbe.train.schedule import learning_rate_factor, set_learning_rate

NETWORKS = {
    "plain-20": ResNetCifarConfig(blocks=3, shortcuts=False),
    "plain-56": ResNetCifarConfig(blocks=9, shortcuts=False),
    "ResNet-20": ResNetCifarConfig(blocks=3),
    "ResNet-56": ResNetCifarConfig(blocks=9),
}
LAST = 0.15
"""The share of the steps, at the end, whose mean is the final error."""
CERTAIN = 2.0
"""Standard errors that a difference has to exceed to be one."""


@dataclass(frozen=True)
class Budget:
    """What a run costs; every network gets the same."""

    images: int = 2000
    """Pictures to train on."""
    held_out: int = 500
    """Pictures that are only looked at when all is done."""
    steps: int = 300
    """Batches."""
    batch: int = 16
    """Pictures a batch."""
    warmup: int = 30
    """Steps in which the learning rate rises; the paper warms its deepest network up."""
    learning_rate: float = 2e-3
    """The highest one; it falls to zero as half a cosine."""
    weight_decay: float = 1e-4
    """As in the paper, though decoupled from the gradient."""


@dataclass
class Trained:
    """What a training leaves."""

    losses: np.ndarray
    """(steps,), mean over each batch."""
    errors: np.ndarray
    """(steps,), share of each batch that is classified wrongly while it is trained on."""
    held_out: float
    """Share of the held-out pictures that is classified wrongly at the end."""
    batch: int
    """Pictures a batch."""

    @property
    def last(self) -> slice:
        """The steps whose mean is final."""
        return slice(-max(1, round(LAST * len(self.errors))), None)

    @property
    def error(self) -> float:
        """The final training error."""
        return float(self.errors[self.last].mean())

    @property
    def deviation(self) -> float:
        """Its standard error, of a share of so many pictures."""
        number = len(self.errors[self.last]) * self.batch
        return float(np.sqrt(max(self.error * (1 - self.error), 1 / number) / number))


def run(settings: ClaimSettings, tell: Callable[[str], None], budget: Budget | None = None) -> Found:
    """Train the four networks on the same batches in the same order."""
    chosen = budget or Budget()
    pictures = load_pictures(settings.data, chosen.images, chosen.held_out, settings.seed)
    tell(f"{len(pictures.classes)} pictures of {pictures.number} classes from {pictures.source}")
    if pictures.note:
        tell(pictures.note)
    work = sum(config.blocks for config in NETWORKS.values())  # the time of a step grows with the depth
    pace = Pace(work * chosen.steps, tell)
    trained = {}
    for name, config in NETWORKS.items():
        torch.manual_seed(settings.seed)
        trained[name] = train(name, config, pictures, chosen, settings.seed, pace)
    table = tabulate(trained)
    return Found(*judge(trained), table, draw(trained, pictures.source))


def train(name: str, config: ResNetCifarConfig, pictures: Pictures, budget: Budget, seed: int, pace: Pace) -> Trained:
    """Train one network by AdamW, and look at the held-out pictures once."""
    channels = pictures.pixels.shape[1]
    network = build(ResNetCifarConfig(channels, pictures.number, config.blocks, config.width, config.shortcuts))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), budget.learning_rate, weight_decay=budget.weight_decay)
    optimizer.param_groups[0]["highest_lr"] = budget.learning_rate
    losses, errors = np.zeros(budget.steps), np.zeros(budget.steps)
    for step, chosen in enumerate(batches(len(pictures.classes), budget, seed)):
        factor = learning_rate_factor(step, total=budget.steps, warmup=budget.warmup, schedule="cosine")
        set_learning_rate(optimizer, factor)
        losses[step], errors[step] = advance(network, optimizer, pictures.pixels[chosen], pictures.classes[chosen])
        recent = errors[max(0, step - 19) : step + 1].mean()
        pace.step(f"{name}: step {step + 1}, training error {recent:.1%}", config.blocks)
    wrong = error_of(network, pictures.held_out_pixels, pictures.held_out_classes)
    return Trained(losses, errors, wrong, budget.batch)


def advance(
    network: nn.Module, optimizer: torch.optim.Optimizer, pixels: torch.Tensor, classes: torch.Tensor
) -> tuple[float, float]:
    """Take a step; give the batch's loss and error as they were before it."""
    logits = network.train()(pixels.to(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits, classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), (logits.argmax(1) != classes).float().mean().item()


def batches(number: int, budget: Budget, seed: int) -> list[torch.Tensor]:
    """Draw every epoch in a new order, the same for all networks."""
    generator = torch.Generator().manual_seed(seed)
    wanted = budget.steps * budget.batch
    orders = [torch.randperm(number, generator=generator) for _ in range(-(-wanted // number))]
    return list(torch.cat(orders)[:wanted].split(budget.batch))


@torch.inference_mode()
def error_of(network: nn.Module, pixels: torch.Tensor, classes: torch.Tensor) -> float:
    """Give the share of pictures that is classified wrongly."""
    network.eval()
    found = torch.cat([network(part).argmax(1) for part in pixels.split(100)])
    return float((found != classes).float().mean())


# --------------------------------------------------------------------------------------------------- what came of it


def tabulate(trained: dict[str, Trained]) -> pd.DataFrame:
    """Give a row for each network; errors are shares."""
    return pd.DataFrame(
        {
            "network": name,
            "training_loss": one.losses[one.last].mean(),
            "training_error": one.error,
            "standard_error": one.deviation,
            "held_out_error": one.held_out,
        }
        for name, one in trained.items()
    )


def judge(trained: dict[str, Trained]) -> tuple[bool, str]:
    """Say whether depth hurts the plain networks, and whether it leaves the residual ones alone."""
    plain, plain_certain = rise(trained["plain-20"], trained["plain-56"])
    residual, residual_certain = rise(trained["ResNet-20"], trained["ResNet-56"])
    errors = ", ".join(f"{name} {one.error:.1%}" for name, one in trained.items())
    sentence = (
        f"training errors at the end are {errors}; with 56 layers in place of 20 the error changes by "
        f"{100 * plain:+.1f} points (certain to ± {100 * plain_certain:.1f}) without shortcuts and by "
        f"{100 * residual:+.1f} (± {100 * residual_certain:.1f}) with them"
    )
    return plain > plain_certain and residual <= residual_certain, sentence


def rise(shallow: Trained, deep: Trained) -> tuple[float, float]:
    """Give the change of the error with depth, and how large it has to be to count."""
    return deep.error - shallow.error, CERTAIN * float(np.hypot(deep.deviation, shallow.deviation))


def draw(trained: dict[str, Trained], source: str) -> Figure:
    """Draw training errors by step: plain networks on the left, residual ones on the right, as the paper does."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for axes, pair in zip(figure.subplots(1, 2, sharey=True), (("plain-20", "plain-56"), ("ResNet-20", "ResNet-56"))):
        for name, colour in zip(pair, ("#f2a541", "#b5392f"), strict=True):
            one = trained[name]
            steps, smooth = smoothed(one.errors)
            axes.plot(steps, 100 * smooth, color=colour, label=name)
            axes.plot([steps[-1]], [100 * one.held_out], "o", color=colour, markerfacecolor="white", clip_on=False)
        axes.set_xlabel("step")
        axes.legend(frameon=False, loc="center right")
        axes.set_xlim(0, len(trained[pair[0]].errors))
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("training error (%)")
    figure.suptitle(f"lines: while training; circles: held out; {source}", fontsize=9)
    return figure


def smoothed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average over a twentieth of the steps; gives the middles of the windows and the means."""
    width = max(1, len(values) // 20)
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(len(means)) + (width + 1) / 2, means
