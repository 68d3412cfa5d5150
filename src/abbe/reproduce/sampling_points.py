"""Where the points of deformable convolutions lie, and whether that has to do with what is in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn

from abbe.methods.backbones.dcnv3 import DCNv3, Window, places
from abbe.reproduce.scenes import STRIDE, Scenes


@dataclass
class Points:
    """Where the deformable network looks, of all its blocks together."""

    shares: pd.DataFrame
    """A row for each kind of pixel and each pattern of points: the share on the pixel's own nucleus or, of background,
    on background, and the standard error over pictures."""
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
    window = layers[0].window
    offsets = record_offsets(network, layers, scenes.images)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for kind, pixels in (("nucleus", scenes.labels > 0), ("background", scenes.labels == 0)):
        patterns = [rearranged(offset, pixels, window, generator) for offset in offsets]
        for name in patterns[0]:
            shares = torch.stack([on_the_same(one[name], scenes.labels, pixels, window) for one in patterns]).mean(0)
            shares = shares[shares.isfinite()]
            error = float(shares.std() / len(shares) ** 0.5)
            rows.append({"pixels": kind, "points": name, "share": float(shares.mean()), "standard_error": error})
    inside = scenes.labels > 0
    reach = STRIDE * float(np.mean([distances(offset, window)[inside].mean() for offset in offsets]))
    picture = int((inside.float().mean((-2, -1)) - 0.5).abs().argmin())
    labels = scenes.labels[picture].numpy()
    centres = [nucleus_pixel(labels), background_pixel(labels)]
    shown = [points_of([offset[picture : picture + 1] for offset in offsets], window, centre) for centre in centres]
    return Points(pd.DataFrame(rows), reach, shown, centres, picture)


def record_offsets(network: nn.Module, layers: Sequence[DCNv3], images: torch.Tensor) -> list[torch.Tensor]:
    """Give the offsets of each layer, (N, Y, X, G P 2)."""
    recorded: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.offset.register_forward_hook(lambda _, __, offset, kept=kept: kept.append(offset))
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
    return {"its own": offset, "of another pixel": exchanged, "regular grid": regular}


def regular_grid(window: Window) -> torch.Tensor:
    """Give the points of a pixel that do not move, (G, P, 2), relative to it."""
    return places(torch.zeros(1, 1, 1, window.groups * window.points * 2), window)[0, 0, 0]


def distances(offset: torch.Tensor, window: Window) -> torch.Tensor:
    """Give the mean distance of each pixel's points from it, (N, Y, X), in pixels of the map."""
    return (regular_grid(window) + offset.unflatten(-1, (window.groups, window.points, 2))).norm(dim=-1).mean((-2, -1))


def on_the_same(offset: torch.Tensor, labels: torch.Tensor, pixels: torch.Tensor, window: Window) -> torch.Tensor:
    """Give the share of the points of some pixels that have the pixel's label, for each picture; NaN without pixels."""
    number, rows, columns = labels.shape
    x, y = places(offset, window).round().long().unbind(-1)  # (N, Y, X, G, P)
    within = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    picture = torch.arange(number).view(-1, 1, 1, 1, 1)
    found = labels[picture, y.clamp(0, rows - 1), x.clamp(0, columns - 1)]
    same = ((found == labels[..., None, None]) & within).float().mean((-2, -1))
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
