"""DnCNN: a plain network learns the noise, and what is left of the image is clean.

Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising", IEEE
Transactions on Image Processing 2017, arXiv:1608.03981. The noise is easier to tell than the image, and batch
normalisation helps with a target that is itself Gaussian; together they gain more than either alone::

    noisy (C, Y, X) -- 3x3, ReLU -- (64, Y, X) -- [3x3, norm, ReLU] x (depth - 2) -- 3x3 --> noise (C, Y, X)
              \\------------------------------------------------------------------- minus --> clean (C, Y, X)

Depth 17 for one level of noise (``dncnn_s``), whose receptive field of 35 pixels is that of the best denoisers before
it; 20 for a blind one (``dncnn_b``: levels from 0 to 55), for colour, and for noise, enlarged and JPEG images in one
network (``dncnn_3``). Images are in 0..1, and a level of noise of 25 is 25/255 there.

The two switches are those of the paper's Fig. 2: without ``residual`` the last layer gives the image itself, without
``batch_norm`` every convolution has a bias. Weights that are published have their norms folded into the convolutions,
so they load into networks without. Convolutions before a norm have no bias; all are drawn as He et al. 2015
(arXiv:1502.01852). Norms begin with scales of :data:`NORM_SCALE`; the authors draw them like the weights, none below
0.025 in size, which comes to the same: a fresh residual network gives the noisy image back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

NORM_SCALE = 0.02
"""Scale with which norms begin; with 1 the first answers are noise that takes hundreds of steps to unlearn."""


@dataclass(frozen=True)
class DnCNNConfig:
    """Sizes of a network, and the two switches of the ablation."""

    in_channels: int = 1
    """Channels of the image, and of what comes out."""
    depth: int = 17
    """Convolutions."""
    width: int = 64
    """Channels between them."""
    batch_norm: bool = True
    """Normalise behind every convolution but the first and the last."""
    residual: bool = True
    """Learn the noise instead of the clean image."""


class DnCNN(nn.Module):
    """Noisy image in, clean image of the same size out.

    Parameters
    ----------
    config
        See :class:`DnCNNConfig`.
    """

    def __init__(self, config: DnCNNConfig):
        super().__init__()
        self.in_channels = config.in_channels
        self.multiple = 1
        self.residual = config.residual
        layers: list[nn.Module] = [conv(config.in_channels, config.width), nn.ReLU(inplace=True)]
        for _ in range(config.depth - 2):
            layers.append(conv(config.width, config.width, bias=not config.batch_norm))
            layers += [nn.BatchNorm2d(config.width)] if config.batch_norm else []
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers, conv(config.width, config.in_channels))
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clean images (B, C, Y, X) of any extents."""
        y = self.layers(x)
        return x - y if self.residual else y


def conv(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    """3x3, with zeros around the image, so that its size is kept."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


def initialise(module: nn.Module) -> None:
    """Draw weights as He et al. 2015; biases begin at zero, norms small."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.constant_(module.weight, NORM_SCALE)


VARIANTS = {
    "dncnn_s": DnCNNConfig(),
    "dncnn_b": DnCNNConfig(depth=20),
    "dncnn_color": DnCNNConfig(in_channels=3, depth=20),
    "dncnn_3": DnCNNConfig(depth=20),
    "dncnn_tiny": DnCNNConfig(depth=4, width=8),
}


def build(config: DnCNNConfig) -> DnCNN:
    """Build the network of a config."""
    return DnCNN(config)
