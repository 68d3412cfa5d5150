"""Sampling points follow the object, and the effective receptive field is larger than a plain convolution's.

Wenhai Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", CVPR
2023, arXiv:2211.05778. Two networks of four of its blocks, alike but for one layer: in the one a deformable convolution
of 3 x 3 points (DCNv3), in its twin a depthwise convolution of 3 x 3. The task needs what is claimed: nuclei, in the
shapes of the package's simulator, are of two brightnesses under noise so strong that one pixel says little, and each
pixel is to be told the kind of its nucleus. Who looks at more of the nucleus, and not beside it, knows better.

Two things are looked at in pictures that were not trained on:

- the share of a pixel's sampling points that lie on its own nucleus, near outlines, where they could miss it: of its
  own points, of those it would have with the offsets of some other such pixel, and of a regular grid that reaches as
  far. Points that only spread out would do no better than either;
- the effective receptive field (Luo et al. 2016, arXiv:1701.04128): how the gradient of an output spreads over the
  image, as the area that holds half of it, and nine tenths.

The authors show larger fields for networks trained on ImageNet; this is the same at a scale of minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.dcnv3 import DCNv3
from abbe.methods.backbones.internimage import Block, InternImageConfig, layer_norm
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.pace import Pace
from abbe.reproduce.receptive_fields import ENERGIES, Fields, choose_probes, receptive_fields
from abbe.reproduce.sampling_points import OWN, WEIGHTED, Points, sampling_points
from abbe.reproduce.scenes import LEVELS, STRIDE, Scenes, simulate
from abbe.train.schedule import learning_rate_factor, set_learning_rate

CERTAIN = 2.0
"""Standard errors that a difference has to exceed to be one."""


@dataclass(frozen=True)
class Budget:
    """What a run costs."""

    crop: int = 64
    """Extents of a picture, in pixels."""
    fields: int = 4
    """Simulated fields of 512 x 512 pixels to train on; one more is held out."""
    steps: int = 300
    """Batches for each network."""
    batch: int = 8
    """Pictures a batch."""
    width: int = 24
    """Channels."""
    blocks: int = 4
    """Blocks of a network."""
    learning_rate: float = 3e-3
    """The highest one, of AdamW; it falls to zero as half a cosine."""
    probes: int = 100
    """Pixels whose receptive field is measured."""


def run(settings: ClaimSettings, tell: Callable[[str], None], budget: Budget | None = None) -> Found:
    """Train both networks on the same pictures, and look at them."""
    chosen = budget or Budget()
    tell(f"simulating {chosen.fields + 1} fields of nuclei")
    train_scenes = simulate(range(chosen.fields), chosen.crop, settings.seed)
    test_scenes = simulate([chosen.fields], 2 * chosen.crop, settings.seed)
    pace = Pace(2 * chosen.steps, tell)
    networks = {}
    for name, deformable in (("deformable", True), ("plain", False)):
        torch.manual_seed(settings.seed)
        networks[name] = train(name, PixelNetwork(chosen, deformable), train_scenes, chosen, settings.seed, pace)
    accuracies = {name: accuracy(network, test_scenes) for name, network in networks.items()}
    layers = [module for module in networks["deformable"].modules() if isinstance(module, DCNv3)]
    points = sampling_points(networks["deformable"], layers, test_scenes, settings.seed)
    probes = choose_probes(test_scenes, chosen.probes, settings.seed)
    fields = {name: receptive_fields(network, test_scenes, probes) for name, network in networks.items()}
    table = tabulate(accuracies, points, fields)
    return Found(*judge(accuracies, points, fields), table, draw(points, fields, test_scenes))


# ------------------------------------------------------------------------------------------------------ the networks


class PixelNetwork(nn.Module):
    """Images (B, 1, Y, X) to logits (B, 3, Y / 2, X / 2), by blocks of InternImage or their twins.

    Parameters
    ----------
    budget
        Width and blocks.
    deformable
        Whether the points of the 3 x 3 convolutions move.
    """

    def __init__(self, budget: Budget, deformable: bool):
        super().__init__()
        config = InternImageConfig(width=budget.width, groups=budget.width // 8, mlp_ratio=2.0, drop_path=0.0)
        self.stem = nn.Conv2d(1, budget.width, 3, STRIDE, padding=1)
        self.norm = layer_norm(budget.width)
        blocks = [Block(config, 0, 0.0) for _ in range(budget.blocks)]
        for block in blocks if not deformable else ():
            block.spatial.layer = PlainConvolution(budget.width)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(layer_norm(budget.width), nn.Linear(budget.width, len(LEVELS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of each second pixel."""
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))  # (B, Y/2, X/2, C)
        return self.head(self.blocks(x)).permute(0, 3, 1, 2)


class PlainConvolution(nn.Module):
    """DCNv3 with its points and weights fixed: a depthwise convolution between the two projections."""

    def __init__(self, width: int):
        super().__init__()
        self.input_projection = nn.Linear(width, width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.output_projection = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, Y, X, C) to the same shape."""
        x = self.depthwise(self.input_projection(x).permute(0, 3, 1, 2))
        return self.output_projection(x.permute(0, 2, 3, 1))


def train(name: str, network: PixelNetwork, scenes: Scenes, budget: Budget, seed: int, pace: Pace) -> PixelNetwork:
    """Train a network by AdamW on turned and mirrored pictures."""
    optimizer = torch.optim.AdamW(network.parameters(), budget.learning_rate, weight_decay=0.01)
    optimizer.param_groups[0]["highest_lr"] = budget.learning_rate
    generator = torch.Generator().manual_seed(seed)
    for step in range(budget.steps):
        chosen = torch.randint(len(scenes.images), (budget.batch,), generator=generator)
        turns, mirrored = int(torch.randint(4, (), generator=generator)), step % 2 == 1
        images, kinds = (turned(part[chosen], turns, mirrored) for part in (scenes.images, scenes.kinds))
        factor = learning_rate_factor(step, total=budget.steps, warmup=budget.steps // 20, schedule="cosine")
        set_learning_rate(optimizer, factor)
        loss = F.cross_entropy(network.train()(images), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step(f"{name} network: step {step + 1}, loss {loss.item():.3f}")
    return network.eval()


def turned(pixels: torch.Tensor, turns: int, mirrored: bool) -> torch.Tensor:
    """Turn (..., Y, X) by right angles and mirror it."""
    pixels = pixels.rot90(turns, (-2, -1))
    return pixels.flip(-1) if mirrored else pixels


@torch.inference_mode()
def accuracy(network: nn.Module, scenes: Scenes) -> float:
    """Give the share of the nuclei's pixels whose kind is told rightly."""
    found = torch.cat([network(part).argmax(1) for part in scenes.images.split(16)])
    inside = scenes.kinds > 0
    return float((found == scenes.kinds)[inside].float().mean())


# ---------------------------------------------------------------------------------------------------- what came of it


def tabulate(accuracies: dict[str, float], points: Points, fields: dict[str, Fields]) -> pd.DataFrame:
    """Give a row for each number."""
    rows = [{"what": "accuracy of nucleus pixels", "of": name, "value": value} for name, value in accuracies.items()]
    for row in points.shares.itertuples():
        what = f"share of points on the same nucleus or background, {row.pixels} pixels near an outline"
        rows.append({"what": what, "of": row.points, "value": row.share})
        if row.points != OWN:
            error = {"of": f"own against {row.points}", "value": row.more, "standard_error": row.standard_error}
            rows.append({"what": f"difference of these shares, {row.pixels} pixels", **error})
    rows.append({"what": "mean distance of points, pixels", "of": "deformable", "value": points.reach})
    for name, one in fields.items():
        for share, areas in zip(ENERGIES, one.areas.T, strict=True):
            what = f"area with {share:.0%} of the gradient, pixels"
            error = areas.std(ddof=1) / len(areas) ** 0.5
            rows.append({"what": what, "of": name, "value": areas.mean(), "standard_error": error})
    return pd.DataFrame(rows)


def judge(accuracies: dict[str, float], points: Points, fields: dict[str, Fields]) -> tuple[bool, str]:
    """Say whether points of nuclei's pixels follow the nucleus, and whether the field is larger."""
    shares = points.shares[points.shares.pixels == "nucleus"].set_index("points")
    own, others = shares.share[OWN], shares.drop([OWN, WEIGHTED])
    follows = bool((others.more > CERTAIN * others.standard_error).all())
    deformable, plain = (fields[name].areas.mean(0) for name in ("deformable", "plain"))
    certain = CERTAIN * np.hypot(*(one.areas.std(0) / len(one.areas) ** 0.5 for one in fields.values()))
    larger = bool((deformable - plain > certain).all())
    sentence = (
        f"of a nucleus's pixels near its outline {own:.1%} of the points lie on it ({shares.share[WEIGHTED]:.1%} as "
        f"they are weighted), {others.share['of another pixel']:.1%} with another pixel's offsets and "
        f"{others.share['regular grid']:.1%} of a regular grid that reaches as far ({points.reach:.1f} pixels); "
        f"nine tenths of the gradient are spread over {deformable[1]:.0f} pixels against {plain[1]:.0f} of the plain "
        f"twin, half over {deformable[0]:.0f} and {plain[0]:.0f}; {accuracies['deformable']:.1%} of the nuclei's "
        f"pixels are told rightly against {accuracies['plain']:.1%}"
    )
    return follows and larger, sentence


def draw(points: Points, fields: dict[str, Fields], scenes: Scenes) -> Figure:
    """Draw the points of two pixels, the shares, and both receptive fields."""
    figure = Figure(figsize=(9.5, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    draw_points(figure.add_subplot(grid[0, 0]), points, scenes)
    draw_shares(figure.add_subplot(grid[0, 1]), points.shares)
    brightest = max(one.mean.max() for one in fields.values())
    for column, (name, one) in enumerate(fields.items()):
        axes = figure.add_subplot(grid[1, column])
        reach = len(one.mean) // 2
        scale = LogNorm(brightest * 1e-4, brightest, clip=True)
        extent = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5)
        axes.imshow(one.mean, cmap="magma", norm=scale, extent=extent)
        half, most = one.areas.mean(0)
        axes.set_title(f"{name}: 50 % of the gradient in {half:.0f} pixels, 90 % in {most:.0f}", fontsize=9)
        axes.set_xlabel("pixels from the output")
    return figure


def draw_points(axes: Axes, points: Points, scenes: Scenes) -> None:
    """Draw the points of a pixel in a nucleus and of one in the background over the picture."""
    extent = (-0.5, scenes.images.shape[-1] - 0.5, scenes.images.shape[-2] - 0.5, -0.5)
    axes.imshow(scenes.images[points.picture, 0].detach(), cmap="gray", extent=extent)
    axes.contour(
        np.kron(scenes.labels[points.picture] > 0, np.ones((STRIDE, STRIDE))), [0.5], colors="#72b7b2", linewidths=0.8
    )
    for shown, centre, colour in zip(points.shown, points.centres, ("#f2a541", "#e45756"), strict=True):
        axes.plot(*shown.T, ".", color=colour, markersize=4)
        axes.plot(STRIDE * centre[1], STRIDE * centre[0], "+", color="white", markersize=9)
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    axes.set_title("points (all blocks) of a nucleus pixel and of a background pixel", fontsize=9)


def draw_shares(axes: Axes, shares: pd.DataFrame) -> None:
    """Draw the shares of points that lie where their pixel lies."""
    for offset, (kind, colour) in zip((-0.2, 0.2), (("nucleus", "#f2a541"), ("background", "#e45756")), strict=True):
        some = shares[shares.pixels == kind]
        x = np.arange(len(some)) + offset
        axes.bar(x, 100 * some.share, 0.36, color=colour, label=f"{kind} pixels")
        for place, share in zip(x, some.share, strict=True):
            axes.text(place, 3, f"{share:.1%}", ha="center", color="white", fontsize=8)
    axes.set_xticks(range(len(some)), some.points.str.replace(", ", ",\n"))
    axes.set_ylabel("points on the pixel's side of the outline (%)")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
