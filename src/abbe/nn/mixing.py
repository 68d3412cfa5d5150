"""Pictures of a batch mixed in pairs, and their classes with them.

Mixup (Zhang et al. 2017, arXiv:1710.09412) adds two pictures up, CutMix (Yun et al. 2019, arXiv:1905.04899) puts a
rectangle of one into the other. Both share out the classes as the pictures are: λ of a sample's own, 1 − λ of its
partner's, the sample before it in the batch.
"""

from __future__ import annotations

import numpy as np
import torch


def mix(
    image: torch.Tensor, target: torch.Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a batch by mixup or CutMix, each as often as the other where both are on.

    Parameters
    ----------
    image
        (B, C, Y, X).
    target
        (B, K), the share of each class.
    mixup, cutmix
        Both parameters of the Beta distribution that λ comes from; 0: off.
    generator
        Of the draws, on the device of the batch.
    """
    modes = [mode for mode, alpha in ((mix_up, mixup), (cut_mix, cutmix)) if alpha > 0]
    if not modes:
        return image, target
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    draw = np.random.default_rng(int(seed))
    mode = modes[int(draw.integers(len(modes)))]
    alpha = mixup if mode is mix_up else cutmix
    mixed, share = mode(image, float(draw.beta(alpha, alpha)), draw)
    return mixed, share * target + (1 - share) * target.roll(1, 0)


def mix_up(image: torch.Tensor, share: float, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Add up ``share`` of each picture and the rest of its partner's; gives the share."""
    return share * image + (1 - share) * image.roll(1, 0), share


def cut_mix(image: torch.Tensor, share: float, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Put a rectangle of 1 − ``share`` of the area from the partner's picture; gives the share after clipping."""
    height, width = image.shape[-2:]
    spans = []
    for extent in (height, width):
        half = extent * np.sqrt(1 - share) / 2
        centre = draw.uniform(0, extent)
        spans.append((round(max(centre - half, 0)), round(min(centre + half, extent))))
    (top, bottom), (left, right) = spans
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = image.roll(1, 0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
