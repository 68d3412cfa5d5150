"""From ResNet-50 to ConvNeXt-T in single steps: the parameters and multiply-adds of every network on the way.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, Figure 2, Table 10.
Networks are built on torch's device ``meta``, which has shapes and no numbers, and counted as their layers are called.

What the paper leaves open, and how it is here: a convolution has a bias unless batch normalisation follows it; where a
residual block halves the resolution, its first layer takes the channels of the stage before; the activation behind the
stem goes with those of the blocks. Layer scale (6,624 parameters) belongs to the training recipe in the paper; here it
comes with the last step, so that the roadmap ends at ConvNeXt-T itself. Accuracies are the paper's and not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from abbe.methods.backbones.convnext import ChannelNorm
from abbe.reproduce.claims import ClaimSettings, Found

SIDE = 224
"""Of the image, in pixels."""
NEAR = 0.02
"""How far a number may be from the paper's, as a share of it, to count as the same."""
RESNET_50, CONVNEXT_T = 25_557_032, 28_589_128
"""Parameters of the two ends (torchvision and the authors' release)."""
CLASSES = 1000


@dataclass(frozen=True)
class Design:
    """All that changes on the way; as it stands, ResNet-50."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Residual blocks of each stage."""
    width: int = 64
    """Channels of the stem; of the first stage, where blocks are bottlenecks, inside them."""
    patchify: bool = False
    """A stem of 4 x 4 pixels, side by side, in place of 7 x 7 and a pool."""
    depthwise: bool = False
    """The spatial convolution looks at each channel alone."""
    inverted: bool = False
    """Blocks are wide inside and narrow at their ends."""
    spatial_first: bool = False
    """The spatial convolution comes before the two of 1 x 1."""
    kernel: int = 3
    """Extent of the spatial convolution."""
    activation: type[nn.Module] = nn.ReLU
    """Between layers."""
    single_activation: bool = False
    """One activation a block, between the convolutions of 1 x 1."""
    single_norm: bool = False
    """One norm a block, before the convolutions of 1 x 1."""
    norm: type[nn.Module] = nn.BatchNorm2d
    """Over the batch, or over the channels of a pixel."""
    separate: bool = False
    """Resolutions are halved between the stages, by layers with norms of their own; blocks get layer scale."""


@dataclass(frozen=True)
class Step:
    """A step of the paper."""

    name: str
    changes: dict[str, Any]
    """Fields of the design."""
    gflops: float
    """Billions of multiply-adds in the paper's Table 10."""
    accuracy: float
    """Top-1 on ImageNet-1K in the paper's Table 10, in percent."""
    is_adopted: bool = True
    """Whether the next step builds on it."""
    doubt: str = ""
    """Why the paper's number is not held against ours."""


STEPS = (
    Step("ResNet-50", {}, 4.09, 78.82),
    Step("stage ratio", {"depths": (3, 3, 9, 3)}, 4.53, 79.36),
    Step("patchify stem", {"patchify": True}, 4.42, 79.51),
    Step("depthwise", {"depthwise": True}, 2.35, 78.28),
    Step("width 96", {"width": 96}, 5.27, 80.50),
    Step("inverted bottleneck", {"inverted": True}, 4.64, 80.64),
    Step("move up depthwise", {"spatial_first": True}, 4.07, 79.92),
    Step("kernel 5", {"kernel": 5}, 4.10, 80.35),
    Step("kernel 7", {"kernel": 7}, 4.15, 80.57),
    Step("kernel 9", {"kernel": 9}, 4.21, 80.57, is_adopted=False),
    Step("kernel 11", {"kernel": 11}, 4.29, 80.47, is_adopted=False),
    Step("ReLU to GELU", {"activation": nn.GELU}, 4.15, 80.62),
    Step("fewer activations", {"single_activation": True}, 4.15, 81.27),
    Step("fewer norms", {"single_norm": True}, 4.15, 81.41),
    Step(
        "BN to LN",
        {"norm": ChannelNorm},
        4.46,
        81.47,
        doubt="a norm has no multiply-adds, and the paper's Table 11 has none for this step of ResNet-200",
    ),
    Step("separate downsampling", {"separate": True}, 4.49, 81.97),
)


def run(settings: ClaimSettings, tell: Callable[[str], None]) -> Found:
    """Build and count every network; there is nothing random in it."""
    rows = []
    for step, design in roadmap():
        parameters, multiply_adds = count(design)
        rows.append(
            {
                "step": step.name,
                "parameters": parameters,
                "gflops": multiply_adds / 1e9,
                "paper_gflops": step.gflops,
                "paper_accuracy": step.accuracy,
                "adopted": step.is_adopted,
                "doubt": step.doubt,
            }
        )
        tell(f"{step.name}: {parameters / 1e6:.2f} M parameters, {multiply_adds / 1e9:.2f} G (paper {step.gflops:.2f})")
    table = pd.DataFrame(rows)
    table["ratio"] = table.gflops / table.paper_gflops
    return Found(*judge(table), table, draw(table))


def roadmap() -> Iterator[tuple[Step, Design]]:
    """Give each step with the whole design after it."""
    design = Design()
    for step in STEPS:
        changed = replace(design, **step.changes)
        yield step, changed
        design = changed if step.is_adopted else design


def count(design: Design) -> tuple[int, int]:
    """Count parameters, and multiply-adds of convolutions and linear layers for one image of 224 x 224 pixels."""
    with torch.device("meta"):
        network = build(design).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, 3, SIDE, SIDE))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def judge(table: pd.DataFrame) -> tuple[bool, str]:
    """Say whether both ends and all steps are the paper's."""
    ends = (int(table.parameters.iloc[0]), int(table.parameters.iloc[-1]))
    off = (table.ratio - 1).abs()
    held = table.doubt == ""
    holds = ends == (RESNET_50, CONVNEXT_T) and bool((off[held] < NEAR).all())
    sentence = (
        f"from {ends[0]:,} to {ends[1]:,} parameters (the paper's networks have {RESNET_50:,} and {CONVNEXT_T:,}); "
        f"the multiply-adds of {(off < NEAR).sum()} of {len(table)} networks are within {NEAR:.0%} of the paper's"
    )
    for row in table[off >= NEAR].itertuples():
        sentence += f"; {row.step}: {row.gflops:.2f} G, paper {row.paper_gflops:.2f}"
        sentence += f" ({row.doubt})" if row.doubt else ""
    return holds, sentence


# ------------------------------------------------------------------------------------------------- the networks


def build(design: Design) -> nn.Module:
    """Build the network of a design, (B, 3, Y, X) to logits (B, 1000)."""
    inner = [design.width * 2**i for i in range(4)]
    widths = inner if design.inverted else [4 * width for width in inner]
    layers: list[nn.Module] = [stem(design)]
    entering = [design.width, *widths[:-1]]
    for i, (depth, came, width) in enumerate(zip(design.depths, entering, widths, strict=True)):
        stride = 2 if i else 1
        if design.separate and i:
            layers += [design.norm(came), nn.Conv2d(came, width, 2, 2)]
            stride = 1
        elif not design.separate and (came != width or stride > 1):
            layers.append(residual(design, came, width, stride))
            depth -= 1
        layers += [residual(design, width, width, 1) for _ in range(depth)]
    layers += [nn.AdaptiveAvgPool2d(1)] + ([design.norm(widths[-1])] if design.separate else [])
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def stem(design: Design) -> nn.Sequential:
    """Bring the image to a quarter of its extents."""
    activation = [] if design.single_activation else [design.activation()]
    if design.patchify:
        return nn.Sequential(convolution(design, 3, design.width, 4, 4), design.norm(design.width), *activation)
    first = convolution(design, 3, design.width, 7, 2)
    return nn.Sequential(first, design.norm(design.width), *activation, nn.MaxPool2d(3, 2, padding=1))


class Residual(nn.Module):
    """A body beside its shortcut, with an activation behind the sum or none."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module, scaled: int):
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation
        self.gamma = nn.Parameter(torch.ones(scaled, 1, 1)) if scaled else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Y, X) to (B, D, Y / stride, X / stride)."""
        y = self.body(x)
        return self.activation((y if self.gamma is None else y * self.gamma) + self.shortcut(x))


def residual(design: Design, came: int, width: int, stride: int) -> Residual:
    """Build a block."""
    body = (
        spatial_first(design, came, width, stride) if design.spatial_first else bottleneck(design, came, width, stride)
    )
    shortcut: nn.Module = nn.Identity()
    if came != width or stride > 1:
        shortcut = nn.Sequential(convolution(design, came, width, 1, stride), design.norm(width))
    last = nn.Identity() if design.single_activation else design.activation()
    return Residual(body, shortcut, last, width if design.separate else 0)


def bottleneck(design: Design, came: int, width: int, stride: int) -> nn.Sequential:
    """1 x 1, spatial, 1 x 1: narrow inside, or wide where the design is inverted."""
    inside = 4 * width if design.inverted else width // 4
    return nn.Sequential(
        *(convolution(design, came, inside, 1), design.norm(inside), design.activation()),
        *(spatial(design, inside, stride), design.norm(inside), design.activation()),
        *(convolution(design, inside, width, 1), design.norm(width)),
    )


def spatial_first(design: Design, came: int, width: int, stride: int) -> nn.Sequential:
    """Spatial, 1 x 1, 1 x 1: wide between the latter two."""
    inside = 4 * width
    activation = [] if design.single_activation else [design.activation()]
    second, third = ([], []) if design.single_norm else ([design.norm(inside)], [design.norm(width)])
    return nn.Sequential(
        *(spatial(design, came, stride), design.norm(came), *activation),
        *(convolution(design, came, inside, 1, normed=not design.single_norm), *second, design.activation()),
        *(convolution(design, inside, width, 1, normed=not design.single_norm), *third),
    )


def spatial(design: Design, width: int, stride: int) -> nn.Conv2d:
    """Build the convolution that mixes pixels."""
    groups = width if design.depthwise else 1
    return convolution(design, width, width, design.kernel, stride, groups=groups)


def convolution(
    design: Design, came: int, width: int, kernel: int, stride: int = 1, groups: int = 1, normed: bool = True
) -> nn.Conv2d:
    """Build a convolution; batch normalisation behind it has the bias."""
    padding = 0 if kernel == stride else kernel // 2
    bias = not (normed and design.norm is nn.BatchNorm2d)
    return nn.Conv2d(came, width, kernel, stride, padding, groups=groups, bias=bias)


# --------------------------------------------------------------------------------------------------- the figure


def draw(table: pd.DataFrame) -> Figure:
    """Draw multiply-adds beside the paper's, and parameters, step by step from the top."""
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(table))
    shades = [1.0 if adopted else 0.45 for adopted in table.adopted]
    rows = ((left, table.gflops, "#4c78a8"), (right, table.parameters / 1e6, "#3f8f8a"))
    for axes, values, colour in rows:
        bars = axes.barh(places, values, height=0.62, color=colour)
        for bar, shade, place, value in zip(bars, shades, places, values, strict=True):
            bar.set_alpha(shade)
            ink = "white" if shade == 1 else "black"
            axes.text(0.02 * values.max(), place, f"{value:.2f}", va="center", color=ink, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.plot(table.paper_gflops, places, "D", color="#e45756", markersize=5)
    left.set_yticks(places, table.step)
    left.invert_yaxis()
    left.set_xlabel("multiply-adds at 224 × 224 (billions)")
    right.set_xlabel("parameters (millions)")
    left.set_title("counted here (bars) and in the paper's Table 10 (diamonds)", fontsize=9, loc="left")
    right.set_title("pale: tried and not kept", fontsize=9, loc="left")
    return figure
