"""Effective receptive fields: how the gradient of an output spreads over the image.

Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016,
arXiv:1701.04128. What an output can see at all says little: most of what it depends on lies in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from abbe.reproduce.scenes import STRIDE, Scenes

ENERGIES = (0.5, 0.9)
"""Shares of the gradient whose areas are measured."""


@dataclass
class Fields:
    """Effective receptive fields of some pixels."""

    areas: np.ndarray
    """(probes, 2): the pixels of the image that hold half and nine tenths of the gradient."""
    mean: np.ndarray
    """(2 R + 1, 2 R + 1), the mean around the pixel, of sum 1."""


def choose_probes(scenes: Scenes, number: int, seed: int) -> list[tuple[int, int, int]]:
    """Choose pixels of nuclei, (picture, y, x), in the middle half of pictures, far from their borders."""
    inside = torch.zeros_like(scenes.labels, dtype=torch.bool)
    rows, columns = (extent // 4 for extent in inside.shape[1:])
    inside[:, rows:-rows, columns:-columns] = True
    found = (inside & (scenes.labels > 0)).nonzero()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return [(int(picture), int(y), int(x)) for picture, y, x in found[order[:number]]]


def receptive_fields(network: nn.Module, scenes: Scenes, probes: list[tuple[int, int, int]]) -> Fields:
    """Measure how far around a pixel the image matters for the logit of its true kind."""
    areas, around = [], []
    reach = scenes.images.shape[-1] // 4 - 1
    for number in sorted({picture for picture, _, _ in probes}):
        image = scenes.images[number : number + 1].clone().requires_grad_()
        logits = network(image)[0]
        for picture, y, x in probes:
            if picture == number:
                energy = spread(logits[scenes.kinds[number, y, x], y, x], image)
                areas.append([area_of(energy, share) for share in ENERGIES])
                top, left = STRIDE * y - reach, STRIDE * x - reach
                around.append(energy[top : top + 2 * reach + 1, left : left + 2 * reach + 1])
    mean = np.mean(around, 0)
    return Fields(np.array(areas), mean / mean.sum())


def spread(output: torch.Tensor, image: torch.Tensor) -> np.ndarray:
    """Give how much an output, one number, depends on each pixel of an image (1, C, Y, X): (Y, X) of sum 1."""
    (gradient,) = torch.autograd.grad(output, image, retain_graph=True)
    energy = gradient[0].abs().sum(0).numpy()
    return energy / energy.sum()


def area_of(energy: np.ndarray, share: float) -> int:
    """Count the pixels, the strongest first, that hold a share of the whole."""
    held = np.cumsum(np.sort(energy, axis=None)[::-1])
    return int(np.searchsorted(held, share * held[-1] * (1 - 1e-6))) + 1
