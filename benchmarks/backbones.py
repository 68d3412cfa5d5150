"""The tables of the backbones: layers and networks against the forms that others publish.

    python benchmarks/backbones.py dcnv3 [--side 56 --width 64 --groups 4 --batch 4 --threads 2 --repeats 15]

All of a table is measured in one run, in turns, and the ratio of two rows is the median of the ratios of their turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from abbe.methods.backbones.dcnv3 import Window, dcnv3
from abbe.nn.memory import tune_allocator
from tables import machine, print_table

Inputs = list[torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    sub = verbs.add_parser("dcnv3", help=compare_dcnv3.__doc__)
    sub.set_defaults(verb=compare_dcnv3)
    for name, default in (("side", 56), ("width", 64), ("groups", 4), ("batch", 4), ("threads", 2), ("repeats", 15)):
        sub.add_argument(f"--{name}", type=int, default=default)
    sub.add_argument("--tuned", action="store_true", help="with Abbe's allocator setting, for both")
    sub.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine())
    arguments.verb(arguments)


def compare_dcnv3(arguments: argparse.Namespace) -> None:
    """Time DCNv3's core against the official one in plain PyTorch, forward and with its gradients."""
    torch.set_num_threads(arguments.threads)
    if arguments.tuned:
        tune_allocator()
    window = Window(arguments.groups)
    inputs = draw(arguments, window)
    check(inputs, window)
    rows = []
    for title, way in (("forward", forward), ("forward and backward", backward)):
        theirs, ours = in_turns([partial(way, core, inputs, window) for core in (official, dcnv3)], arguments)
        ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
        spread = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        times = (f"{1000 * statistics.median(some):.1f}" for some in (theirs, ours))
        rows.append([title, *times, f"{spread[1]:.2f}x ({spread[0]:.2f} to {spread[2]:.2f})"])
    allocator = "Abbe's allocator setting" if arguments.tuned else "default allocator"
    shape = f"{arguments.batch} x {arguments.side} x {arguments.side} x {arguments.width}, {arguments.groups} groups"
    title = f"DCNv3 core, {shape}, float32, {arguments.device}, {arguments.threads} threads, {allocator}"
    print_table(title, ["", "official form (ms)", "Abbe (ms)", "ratio (quartiles)"], rows)


def draw(arguments: argparse.Namespace, window: Window) -> Inputs:
    """Values, offsets of about a pixel, and weights that sum to one."""
    generator = torch.Generator().manual_seed(0)
    size = (arguments.batch, arguments.side, arguments.side)
    x = torch.randn(*size, arguments.width, generator=generator)
    offset = torch.randn(*size, window.groups * window.points * 2, generator=generator)
    mask = torch.randn(*size, window.groups, window.points, generator=generator).softmax(-1).flatten(-2)
    return [tensor.to(arguments.device).requires_grad_() for tensor in (x, offset, mask)]


def check(inputs: Inputs, window: Window) -> None:
    """See that both compute the same."""
    with torch.inference_mode():
        torch.testing.assert_close(dcnv3(*inputs, window), official(*inputs, window), rtol=1e-4, atol=1e-4)


def official(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute Eq. 2 as the official core in plain PyTorch does, for its 3 x 3 window at stride 1.

    Padded values, places as fractions of their extents, one ``grid_sample`` over all groups, then weights and sum.
    """
    groups, points = window.groups, window.points
    batch, rows, columns, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    size = torch.tensor([columns + 2, rows + 2], device=x.device)
    y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device) + 1.5 for n in (rows, columns)), indexing="ij")
    steps = torch.arange(-1.0, 2.0, device=x.device)
    window_points = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).view(-1, 2).repeat(groups, 1)
    fixed = (torch.stack([x_, y], -1).unsqueeze(2) + window_points) / size  # (Y, X, G P, 2)
    places = fixed.repeat(batch, 1, 1, 1, 1).flatten(3) + offset / size.repeat(groups * points)
    grid = (2 * places - 1).view(batch, rows * columns, groups, points, 2).transpose(1, 2).flatten(0, 1)
    image = padded.flatten(1, 2).transpose(1, 2).reshape(batch * groups, channels // groups, rows + 2, columns + 2)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.view(batch, rows * columns, groups, points).transpose(1, 2)
    out = (samples * weights.reshape(batch * groups, 1, rows * columns, points)).sum(-1)
    return out.view(batch, channels, -1).transpose(1, 2).reshape(batch, rows, columns, channels).contiguous()


def forward(core: Callable[..., torch.Tensor], inputs: Inputs, window: Window) -> None:
    """Run one way without gradients."""
    with torch.inference_mode():
        core(*inputs, window)


def backward(core: Callable[..., torch.Tensor], inputs: Inputs, window: Window) -> None:
    """Run both ways."""
    out = core(*inputs, window)
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def in_turns(ways: list[Callable[[], None]], arguments: argparse.Namespace) -> list[list[float]]:
    """Time each of some ways, in seconds, one after the other so that all meet the same machine."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(arguments.repeats + 2):
        for way, found in zip(ways, times, strict=True):
            begin = time.perf_counter()
            way()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:  # the first ones warm up
                found.append(time.perf_counter() - begin)
    return times


if __name__ == "__main__":
    main()
