"""Where the points of deformable convolutions lie, and whether that has to do with what is in the picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.dcnv3 import DCNv3, Window, places
from abbe.reproduce.scenes import STRIDE, Scenes

NEAR = 3
"""Pixels of the map, around a pixel, in which there has to be an outline."""
OWN, WEIGHTED = "its own", "its own, weighted"
"""The points of a pixel, and the same counted as much as the network counts them."""


@dataclass
class Points:
    """Where the deformable network looks, of all its blocks together."""

    shares: pd.DataFrame
    """A row for each kind of pixel and each pattern of points, of pixels near an outline: the ``share`` on the pixel's
    own nucleus or, of background, on background; how much ``more`` its own points have; the ``standard_error`` of this
    difference over pictures."""
    reach: float
    """Mean distance of a nucleus pixel's points from it, in pixels of the image."""
    shown: list[np.ndarray]
    """Of a pixel in a nucleus and one in the background: (n, 2), the points (x, y) in pixels of the image."""
    centres: list[tuple[int, int]]
    """Those pixels, (y, x) of the map."""
    picture: int
    """The picture that they are in: the one that is nearest to being half nuclei."""


@torch.inference_mode()
def sampling_points(network: nn.Module, layers: Sequence[DCNv3], scenes: Scenes, seed: int) -> Points:
    """Compare a pixel's points with those of other pixels' offsets and with a regular grid of the same reach.

    Parameters
    ----------
    network
        Takes the images (B, 1, Y, X).
    layers
        The deformable convolutions in it, which work on maps of the truth's extents, all with the same window.
    scenes
        Pictures that were not trained on.
    seed
        Of the exchange of offsets.
    """
    window, near = layers[0].window, near_outline(scenes.labels)
    offsets = record(network, [layer.offset for layer in layers], scenes.images)
    weights = record(network, [layer.mask for layer in layers], scenes.images)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for kind, pixels in (("nucleus", near & (scenes.labels > 0)), ("background", near & (scenes.labels == 0))):
        shares: dict[str, list[torch.Tensor]] = defaultdict(list)  # of each layer (N,)
        for offset, weight in zip(offsets, weights, strict=True):
            for name, moved in rearranged(offset, pixels, window, generator).items():
                shares[name].append(on_the_same(moved, scenes.labels, pixels, window))
            counting = weight.unflatten(-1, (window.groups, -1)).softmax(-1)
            shares[WEIGHTED].append(on_the_same(offset, scenes.labels, pixels, window, counting))
        rows += compared(kind, {name: torch.stack(some).mean(0) for name, some in shares.items()})
    inside = scenes.labels > 0
    reach = STRIDE * float(np.mean([distances(offset, window)[inside].mean() for offset in offsets]))
    picture = int((inside.float().mean((-2, -1)) - 0.5).abs().argmin())
    labels = scenes.labels[picture].numpy()
    centres = [nucleus_pixel(labels), background_pixel(labels)]
    shown = [points_of([offset[picture : picture + 1] for offset in offsets], window, centre) for centre in centres]
    return Points(pd.DataFrame(rows), reach, shown, centres, picture)


def compared(kind: str, shares: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Compare the shares (N,) of pictures, each picture with itself; those without such pixels are left out."""
    rows = []
    for name, some in shares.items():
        more = shares[OWN] - some
        more = more[more.isfinite()]
        error = float(more.std() / len(more) ** 0.5)
        rows.append(
            {
                "pixels": kind,
                "points": name,
                "share": float(some[some.isfinite()].mean()),
                "more": float(more.mean()),
                "standard_error": error,
            }
        )
    return rows


def near_outline(labels: torch.Tensor) -> torch.Tensor:
    """Mark the pixels (N, Y, X) that have an outline within a few; of others all points are on the same side."""
    values, extent = labels[:, None].float(), 2 * NEAR + 1
    highest, lowest = F.max_pool2d(values, extent, 1, NEAR), -F.max_pool2d(-values, extent, 1, NEAR)
    return (highest != lowest)[:, 0]


def record(network: nn.Module, layers: Sequence[nn.Module], images: torch.Tensor) -> list[torch.Tensor]:
    """Give what each of some layers within a network gives, (N, Y, X, ...)."""
    recorded: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        for layer, kept in zip(layers, recorded, strict=True)
    ]
    for part in images.split(16):
        network(part)
    for hook in hooks:
        hook.remove()
    return [torch.cat(parts) for parts in recorded]


def rearranged(
    offset: torch.Tensor, pixels: torch.Tensor, window: Window, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Give the offsets as they are, exchanged among some pixels, and of a regular grid with the same mean distance."""
    exchanged = offset.clone()
    own = offset[pixels]
    exchanged[pixels] = own[torch.randperm(len(own), generator=generator)]
    grid = regular_grid(window)  # (G, P, 2)
    factor = distances(offset, window)[pixels].mean() / grid.norm(dim=-1).mean()
    regular = ((factor - 1) * grid).flatten().expand_as(offset)
    return {OWN: offset, "of another pixel": exchanged, "regular grid": regular}


def regular_grid(window: Window) -> torch.Tensor:
    """Give the points of a pixel that do not move, (G, P, 2), relative to it."""
    return places(torch.zeros(1, 1, 1, window.groups * window.points * 2), window)[0, 0, 0]


def distances(offset: torch.Tensor, window: Window) -> torch.Tensor:
    """Give the mean distance of each pixel's points from it, (N, Y, X), in pixels of the map."""
    return (regular_grid(window) + offset.unflatten(-1, (window.groups, window.points, 2))).norm(dim=-1).mean((-2, -1))


def on_the_same(
    offset: torch.Tensor,
    labels: torch.Tensor,
    pixels: torch.Tensor,
    window: Window,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Give the share of the points of some pixels that have the pixel's label, (N,); NaN of pictures without pixels.

    With ``weights`` (N, Y, X, G, P), of sum 1 over P, points count so much.
    """
    number, rows, columns = labels.shape
    x, y = places(offset, window).round().long().unbind(-1)  # (N, Y, X, G, P)
    within = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    picture = torch.arange(number).view(-1, 1, 1, 1, 1)
    found = labels[picture, y.clamp(0, rows - 1), x.clamp(0, columns - 1)]
    same = ((found == labels[..., None, None]) & within).float()
    same = (same.mean(-1) if weights is None else (same * weights).sum(-1)).mean(-1)
    return torch.stack([one[some].mean() for one, some in zip(same, pixels, strict=True)])


def points_of(offsets: list[torch.Tensor], window: Window, centre: tuple[int, int]) -> np.ndarray:
    """Give the points of one pixel of one picture, of all layers and groups, in pixels of the image."""
    found = [places(offset, window)[0, centre[0], centre[1]].flatten(0, 1) for offset in offsets]
    return STRIDE * torch.cat(found).numpy()


def nucleus_pixel(labels: np.ndarray) -> tuple[int, int]:
    """Choose a pixel near the border of the largest nucleus, where it matters which way the points go."""
    depth = ndimage.distance_transform_edt(labels == np.bincount(labels[labels > 0]).argmax())
    y, x = np.nonzero((depth > 1.5) & (depth < 3))
    chosen = int(np.argmin(np.hypot(y - labels.shape[0] / 2, x - labels.shape[1] / 2)))
    return int(y[chosen]), int(x[chosen])


def background_pixel(labels: np.ndarray) -> tuple[int, int]:
    """Choose the pixel farthest from all nuclei and from the border of the picture."""
    depth = ndimage.distance_transform_edt(np.pad(labels == 0, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)
