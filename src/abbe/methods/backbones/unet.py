"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Olaf Ronneberger, Philipp Fischer, Thomas Brox, MICCAI 2015, LNCS 9351, 234-241, arXiv:1505.04597.

The idea: a contracting path finds out *what* is in the image, an expanding path brings it back to *where*,
and at every resolution the features of the way down are handed over to the way up. Convolutions are unpadded,
so that every output pixel has seen only real (or mirrored) neighbours, and an image of any size comes in
seamless tiles. A weight map makes the loss ten times dearer on the narrow background between touching cells,
which is what keeps them apart.

    572² input                                                        388² output
     64    568² ─────────────────── crop, concatenate ──────────────> 392²   64   1×1 ─> K
            │ 2×2 max pool                                             ▲ 2×2 up-convolution
    128    280² ──────────────────────────────────────────────> 200²  128
            │                                                    ▲
    256    136² ─────────────────────────────────────────> 104²  256
            │                                               ▲
    512     64² ────────────────────────────────────> 56²   512
            │                                          ▲
   1024     28² ────────────────────────────────────────        two 3×3 convolutions + ReLU on each level

What the paper leaves open, and what is done here: the up-convolutions have no ReLU (the figure draws none;
the authors' Caffe release has one); as in that release, dropout follows the last two levels of the
contracting path, and the up-convolved channels come before the handed over ones; the class balance w_c is the
inverse frequency of the class in the sample, at most 10; the loss is the mean, not the sum, of the weighted
pixels, so that the learning rate does not depend on the tile. ``padding="same"`` keeps the input's size with
zero padding, which most later programs do and the paper does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from skimage.measure import label
from torch import nn
from torch.nn import functional as F

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.metrics.instances import match, scores
from abbe.ops.distance import ridge_separation
from abbe.ops.labels import relabel, remove_small
from abbe.ops.totals import batch_total
from abbe.ops.weight_maps import border_weight_map, class_balance_weights


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a U-Net."""

    in_channels: int = 1
    """Channels of the image."""
    out_channels: int = 2
    """Classes, background included."""
    width: int = 64
    """Channels of the first level; every level down doubles them."""
    depth: int = 4
    """Times the resolution is halved."""
    dropout: float = 0.5
    """Chance to drop a value at the end of the contracting path, in training."""
    padding: Literal["valid", "same"] = "valid"
    """"valid" is the paper's; "same" pads with zeros, and the output is as large as the input."""


class UNet(nn.Module):
    """The network of Fig. 1: (B, in_channels, Y, X) to logits (B, out_channels, Y', X').

    Unpadded, extents are 16 k + 12 from 188 on and lose 184 pixels (for ``depth`` 4); padded, they are
    multiples of 16 and keep their size. Other extents raise ValueError with the nearest valid ones.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        self.contracting = nn.ModuleList(
            double_convolution(fan, width, config.padding) for fan, width in zip([config.in_channels, *widths], widths)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.up_convolutions = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2) for width in widths[-2::-1]
        )
        self.expanding = nn.ModuleList(double_convolution(2 * width, width, config.padding) for width in widths[-2::-1])
        self.head = nn.Conv2d(config.width, config.out_channels, kernel_size=1)
        initialize_he(self)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.config.in_channels

    @property
    def geometry(self) -> Geometry:
        """How the output lies on the input: 92 pixels of context, multiples of 16, for ``depth`` 4."""
        depth = self.config.depth
        return pyramid_geometry([(3, 3)] * (depth + 1), [(2, 2)] * depth, self.config.padding == "same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run both paths."""
        check_shape(x.shape[2:], self.geometry)
        skips = []
        for level, convolutions in enumerate(self.contracting):
            x = convolutions(F.max_pool2d(x, 2) if level else x)
            if level >= self.config.depth - 1:
                x = self.dropout(x)
            skips.append(x)
        for up_convolution, convolutions, skip in zip(self.up_convolutions, self.expanding, skips[-2::-1]):
            x = up_convolution(x)
            x = convolutions(torch.cat([x, crop_to(skip, x.shape[2:])], dim=1))
        return self.head(x)


@dataclass(frozen=True)
class UNetOptions:
    """What the objective asks of the network, and which regions it reports."""

    min_area: int = 0
    """Smallest connected region to report as an object, in pixels."""

    @property
    def out_channels(self) -> int:
        """Classes: background and foreground."""
        return 2


class UNetSegmentation(nn.Module):
    """The paper's objective: every pixel's class, with the weight map that keeps touching cells apart.

    Around any network that maps (B, C, ...) to logits (B, K, ...) and knows its ``in_channels`` and
    ``geometry``.
    """

    joins: Joins = "merge"
    watch = Watch("ap50", "max")

    def __init__(self, network: nn.Module, options: UNetOptions | None = None):
        super().__init__()
        self.network = network
        self.options = options or UNetOptions()

    @property
    def in_channels(self) -> int:
        """The network's."""
        return cast(int, self.network.in_channels)

    @property
    def geometry(self) -> Geometry:
        """The network's."""
        return cast(Geometry, self.network.geometry)

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make ``image`` (C, Y, X), ``target`` (Y, X) of classes and ``weight`` (Y, X) of one sample.

        Samples of valid input extents (572²) are used as they are; others are mirrored up to the next. An
        unpadded network is trained on the middle of the sample only, where it has the sample's own pixels as
        context.
        """
        labels = ridge_separation(required_labels(sample))  # a background gap between touching cells
        foreground = labels > 0
        weight = class_balance_weights(foreground) + border_weight_map(labels)
        return fit_tensors(sample, foreground, weight, self.geometry)

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the weighted cross-entropy on the pixels that the network predicts."""
        logits = self.network(batch["image"])  # (B, K, Y', X')
        target, weight = (crop_to(batch[name], logits.shape[2:]) for name in ("target", "weight"))
        return {"loss": weighted_cross_entropy(logits, target, weight)}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute ``probabilities`` (B, K, Y', X') of the classes, the softmax of the logits."""
        return {"probabilities": self.network(x).softmax(dim=1)}

    def decode(
        self, outputs: dict[str, np.ndarray], *, exclude: np.ndarray | None = None, min_area: int | None = None
    ) -> dict[str, np.ndarray]:
        """Turn ``probabilities`` (K, ...) into ``labels`` and ``regions`` (...), int32: connected pixels of one class.

        Regions of less than ``min_area`` pixels are no objects; excluded pixels are background.
        """
        classes = outputs["probabilities"].argmax(0)
        regions = connected_regions(classes if exclude is None else np.where(exclude, 0, classes))
        least = self.options.min_area if min_area is None else min_area
        return {"labels": relabel(remove_small(regions, least))[0], "regions": regions}

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure ``labels`` as instances over a data set: ``ap50`` and all else of ``metrics.instances``."""
        return scores([match(t["labels"], d["labels"], t.get("ignore")) for t, d in zip(truth, decoded, strict=True)])


# ------------------------------------------------------------------------------------------- parts of the net


def double_convolution(in_channels: int, out_channels: int, padding: str) -> nn.Sequential:
    """Two 3×3 convolutions, each followed by a ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=padding),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=padding),
        nn.ReLU(inplace=True),
    )


def initialize_he(network: nn.Module, negative_slope: float = 0.0) -> None:
    """Draw weights from a normal distribution of deviation √(2/N), N the inputs of one output value.

    With a leaky ReLU, 2 becomes 2/(1 + slope²) (He et al. 2015, arXiv:1502.01852, Eq. 15). An up-convolution
    whose stride is its kernel reaches every output pixel by one tap, so its N is the number of input
    channels.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            taps = 1 if module.transposed else int(np.prod(module.kernel_size))
            deviation = (2 / ((1 + negative_slope**2) * module.in_channels * taps)) ** 0.5
            nn.init.normal_(module.weight, std=deviation)
            nn.init.zeros_(cast(torch.Tensor, module.bias))


def weighted_cross_entropy(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of −w(x) log p(x), Eq. 1, over the pixels of positive weight; p is the true class's probability.

    Logits (B, K, ...), target (B, ...) of classes, weight (B, ...).
    """
    entropy = F.cross_entropy(logits.float(), target, reduction="none")
    return (weight * entropy).sum() / batch_total((weight > 0).sum()).clamp_min(1)


def crop_to(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Cut the middle of ``shape`` out of the last axes."""
    for axis, extent in zip(range(-len(shape), 0), shape):
        x = x.narrow(axis, (x.shape[axis] - extent) // 2, extent)
    return x


# ------------------------------------------------------------------------ which extents fit, and what is lost


def pyramid_geometry(kernels: Sequence[tuple[int, ...]], pools: Sequence[tuple[int, ...]], padded: bool) -> Geometry:
    """Derive the geometry of a U-Net with two convolutions per level and direction.

    ``kernels[level][axis]`` are their extents, ``pools[level][axis]`` those of the pooling below the level.
    """
    axes = [_axis_geometry(k, p, padded) for k, p in zip(zip(*kernels), zip(*pools))]
    halo, multiple, remainder = zip(*axes)
    return Geometry(halo, multiple, remainder, crops=not padded)


def _axis_geometry(kernels: Sequence[int], pools: Sequence[int], padded: bool) -> tuple[int, int, int]:
    multiple, remainder, spoilt = 1, 0, 0
    for kernel, pool in zip(kernels, pools):
        remainder += 0 if padded else multiple * 2 * (kernel - 1)
        multiple *= pool
        # Border pixels that have seen padding; one of them spoils the whole pooled pixel.
        spoilt = -(-(spoilt + kernel - 1) // pool)
    lost, spoilt = 2 * (kernels[-1] - 1), spoilt + kernels[-1] - 1
    for kernel, pool in zip(kernels[-2::-1], pools[::-1]):
        lost, spoilt = pool * lost + 4 * (kernel - 1), pool * spoilt + kernel - 1
    return (spoilt if padded else lost // 2), multiple, remainder % multiple


def fit_shape(shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Find the smallest valid input extents that are at least ``shape``."""
    fitted = []
    for extent, halo, multiple, rest in zip(
        shape, cast(tuple[int, ...], geometry.halo), geometry.multiple, geometry.remainder
    ):
        extent = max(extent, 2 * halo + 1 if geometry.crops else 1)
        fitted.append(extent + (rest - extent) % multiple)
    return tuple(fitted)


def check_shape(shape: Sequence[int], geometry: Geometry) -> None:
    """Raise ValueError with the nearest valid extents where ``shape`` is none."""
    above = fit_shape(shape, geometry)
    if tuple(shape) == above:
        return
    smallest = fit_shape([1] * len(above), geometry)
    below = tuple(max(a - m, s) for a, m, s in zip(above, geometry.multiple, smallest))
    raise ValueError(
        f"input extents {tuple(shape)} do not fit this U-Net, which takes multiples of {geometry.multiple} "
        f"plus {geometry.remainder} from {smallest} on; the nearest are {below} and {above}"
    )


# -------------------------------------------------------------------------------- between samples and tensors


def required_labels(sample: Sample) -> np.ndarray:
    """Take the labels of an annotated sample; AbbeError where it has none."""
    if sample.labels is None:
        raise AbbeError(f"{sample.name or 'sample'}: no labels, but training needs every object's own number")
    return sample.labels


def fit_tensors(sample: Sample, target: np.ndarray, weight: np.ndarray, geometry: Geometry) -> dict[str, torch.Tensor]:
    """Bring image, target and weight to the next valid extents.

    The image is mirrored beyond its border; what is added, and what nobody annotated, weighs nothing.
    """
    shape = fit_shape(target.shape, geometry)
    pads = [((new - old) // 2, new - old - (new - old) // 2) for new, old in zip(shape, target.shape)]
    if sample.ignore is not None:
        weight = np.where(sample.ignore, 0, weight)
    return {
        "image": torch.from_numpy(np.pad(sample.image, [(0, 0), *pads], mode="reflect")),
        "target": torch.from_numpy(np.pad(target.astype(np.int64), pads)),
        "weight": torch.from_numpy(np.pad(weight.astype(np.float32), pads)),
    }


def connected_regions(classes: np.ndarray) -> np.ndarray:
    """Number the connected regions of equal class, 0 being background; int32, sharing an edge connects."""
    return label(classes, background=0, connectivity=1).astype(np.int32)


VARIANTS: dict[str, UNetConfig] = {
    "unet_2015": UNetConfig(),
    "unet_2015_tiny": UNetConfig(width=4, depth=2, dropout=0.0),
}


def build(config: UNetConfig) -> UNet:
    """Build the network of a variant."""
    return UNet(config)
