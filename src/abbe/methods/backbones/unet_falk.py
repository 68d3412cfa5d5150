"""U-Net: deep learning for cell counting, detection, and morphometry.

Thorsten Falk et al., Nature Methods 16, 67-70 (2019), doi 10.1038/s41592-018-0261-2.

The idea: one U-Net per kind of question, for everybody. Images are brought to the model's pixel size, so that
cells look alike whatever microscope they come from. Cells that touch are separated by a ridge of background,
and the loss is dearest there. Cells are counted by segmenting a small disk at every marked point. In stacks
with coarse planes, the first levels work within the plane until the voxels are about as deep as they are
wide.

    image ── resample to element_size_um ── [min, max] → [0, 1] ── U-Net ──┬── cells: argmax, connected
                                                                           └── disks: argmax, centres, count
    labels ── ridges between touching cells ──────────────────────┬── weights w_bal + λ w_sep
    points ── disks of radius 2, around them rings of no weight ──┘

    levels (3, 4, 4):       0        1        2        3        4
    kernels               1×3×3    3×3×3    3×3×3    3×3×3    3×3×3
    pooling below         1×2×2    2×2×2    2×2×2    2×2×2      –

The paper describes the method; what its authors' Fiji plug-in writes into its model files settles the
numbers: leaky ReLU of slope 0.1 after every convolution and up-convolution, no dropout, input shifted by
−0.5, λ = 50, σ_sep = 6 px, v_bal = 0.1, σ_bal = 10 px, disk radius 2 px, rotation by any angle, displacements
of 10 px on a grid of 150 px, black mapped to ±0.05 and white to 1 ± 0.05, kernels of the axes with fewer
levels. The weights are applied as there: 1 in the foreground, w_bal + λ w_sep in the background. It trains
with ADAM (β 0.9 and 0.999) at 1e-5 for 600,000 tiles, and fine-tunes at 1e-4. Detections count as found
within 3 px.

What is not certain, or differs: the width of the 3-D network (32 here); He's deviation counts the leaky slope
(0.5 % less than the plug-in's); a ridge takes the pixels that ``ops.distance.ridge_separation`` takes; the
darkest and brightest are taken over all channels together, as its code does and its menu does not say; the
loss is the mean over the pixels of positive weight; matching of detections finds the most pairs instead of
the least total distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import mean
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree
from torch import nn

from abbe.contract import Geometry, Watch
from abbe.data.augment import AugmentConfig
from abbe.data.normalize import Normalization
from abbe.data.sample import Sample
from abbe.methods.backbones.unet import (
    UNetOptions,
    UNetSegmentation,
    check_shape,
    crop_to,
    fit_tensors,
    initialize_he,
    pyramid_geometry,
    required_labels,
)
from abbe.ops.distance import ridge_separation
from abbe.ops.weight_maps import separation_weight_map

SLOPE = 0.1
"""Of the leaky ReLU below zero."""

LAYERS: dict[int, tuple[Any, Any, Any]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d),
}
"""For images with so many spatial axes."""

NORMALIZATION = Normalization("minmax", joint=True)
"""Darkest to 0, brightest to 1."""

AUGMENTATION = AugmentConfig(
    foreground_probability=0.75,  # the plug-in draws tile centres ten times likelier in the foreground
    flips=False,
    quarter_turns=False,
    affine_probability=1.0,
    rotation=180.0,
    scale=(1.0, 1.0),
    anisotropy=0.0,
    shear=0.0,
    elastic_probability=1.0,
    elastic_sigma=10.0,
    elastic_grid=4,  # 150 px apart on the plug-in's tiles of 540 px
    stain_probability=0.0,
    curve_probability=1.0,
    gamma_probability=0.0,
    contrast_probability=1.0,
    contrast=0.1,
    brightness=0.05,
    illumination_probability=0.0,
    blur_probability=0.0,
    noise_probability=0.0,
)
"""Rotation, elastic deformation and a smooth grey-value curve, and nothing else."""


@dataclass(frozen=True)
class FalkConfig:
    """A model as the plug-in defines it: the network, its pixel size and the weights of its loss."""

    in_channels: int = 1
    """Channels of the image."""
    out_channels: int = 2
    """Classes, background included."""
    width: int = 64
    """Channels of the first level; every level down doubles them."""
    levels: tuple[int, ...] = (4, 4)
    """Times the resolution is halved along (Y, X) or (Z, Y, X); axes with fewer are left alone at first."""
    element_size_um: tuple[float, ...] = (0.5, 0.5)
    """Pixel size in µm, per axis, to which images are resampled."""
    background_weight: float = 0.1
    """Weight of background far from all objects, v_bal; foreground weighs 1."""
    balance_sigma: float = 10.0
    """How softly the weight falls from 1 at an object to v_bal, in pixels, σ_bal."""
    separation_weight: float = 50.0
    """Weight of the background between two objects that touch, λ."""
    separation_sigma: float = 6.0
    """How wide a gap still counts as narrow, in pixels, σ_sep."""
    disk_radius: int = 2
    """Radius of the disk that stands for a detection, in pixels."""

    @property
    def kernels(self) -> list[tuple[int, ...]]:
        """Extents of the convolutions of each level, top first."""
        depth = max(self.levels)
        return [tuple(1 if level < depth - n else 3 for n in self.levels) for level in range(depth + 1)]

    @property
    def pools(self) -> list[tuple[int, ...]]:
        """Extents of the pooling below each level but the last."""
        depth = max(self.levels)
        return [tuple(1 if level < depth - n else 2 for n in self.levels) for level in range(depth)]


class FalkUNet(nn.Module):
    """The network: (B, in_channels, [Z,] Y, X) in [0, 1] to logits (B, out_channels, [Z',] Y', X'), unpadded.

    Extents that do not fit raise ValueError with the nearest that do.
    """

    def __init__(self, config: FalkConfig):
        super().__init__()
        self.config = config
        convolution, transposed, pool = LAYERS[len(config.levels)]
        depth = max(config.levels)
        widths = [config.width * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            double_convolution(convolution, fan, width, kernel)
            for fan, width, kernel in zip([config.in_channels, *widths], widths, config.kernels)
        )
        self.pools = nn.ModuleList([nn.Identity(), *(pool(extents) for extents in config.pools)])
        self.up_convolutions = nn.ModuleList(
            nn.Sequential(transposed(2 * width, width, extents, extents), nn.LeakyReLU(SLOPE, inplace=True))
            for width, extents in zip(widths[-2::-1], config.pools[::-1])
        )
        self.expanding = nn.ModuleList(
            double_convolution(convolution, 2 * width, width, kernel)
            for width, kernel in zip(widths[-2::-1], config.kernels[-2::-1])
        )
        self.head = convolution(config.width, config.out_channels, 1)
        initialize_he(self, SLOPE)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.config.in_channels

    @property
    def geometry(self) -> Geometry:
        """How the output lies on the input: 92 pixels of context, multiples of 16 for an axis of 4 levels."""
        return pyramid_geometry(self.config.kernels, self.config.pools, padded=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run both paths."""
        check_shape(x.shape[2:], self.geometry)
        x, skips = x - 0.5, []
        for pool, convolutions in zip(self.pools, self.contracting):
            x = convolutions(pool(x))
            skips.append(x)
        for up_convolution, convolutions, skip in zip(self.up_convolutions, self.expanding, skips[-2::-1]):
            x = up_convolution(x)
            x = convolutions(torch.cat([x, crop_to(skip, x.shape[2:])], dim=1))
        return self.head(x)


def double_convolution(convolution: Any, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> nn.Sequential:
    """Two unpadded convolutions, each followed by a leaky ReLU."""
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel),
        nn.LeakyReLU(SLOPE, inplace=True),
        convolution(out_channels, out_channels, kernel),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class FalkSegmentation(UNetSegmentation):
    """Cells one by one: the objective of U-Net 2015 with this paper's weights."""

    def __init__(self, network: FalkUNet, options: UNetOptions | None = None):
        super().__init__(network, options)
        self.config = network.config

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make ``image`` (C, ...), ``target`` (...) of classes and ``weight`` (...) of one sample.

        The sample has the model's pixel size already, see :func:`abbe.data.resample.resample`. Valid input extents
        (540²) are used as they are; others are mirrored up to the next.
        """
        return self._weighted(sample, required_labels(sample))

    def _weighted(self, sample: Sample, labels: np.ndarray) -> dict[str, torch.Tensor]:
        config, foreground = self.config, ridge_separation(labels) > 0
        weight = separation_weight_map(
            labels,
            foreground,
            config.background_weight,
            config.balance_sigma,
            config.separation_weight,
            config.separation_sigma,
        )
        return fit_tensors(sample, foreground, weight, self.geometry)


class FalkDetection(FalkSegmentation):
    """Cells as points, to count them: a small disk is segmented at the centre of every object.

    Point annotations become objects by :func:`draw_disks` before samples are cropped and augmented.
    """

    watch = Watch("f1", "max")

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Like :class:`FalkSegmentation`, for disks at the objects' centres; their rings weigh nothing."""
        labels = required_labels(sample)
        disks, ring = draw_disks(centres(labels), labels.shape, self.config.disk_radius)
        ignore = ring if sample.ignore is None else ring | sample.ignore
        return self._weighted(replace(sample, ignore=ignore), disks)

    def decode(
        self, outputs: dict[str, np.ndarray], *, exclude: np.ndarray | None = None, min_area: int | None = None
    ) -> dict[str, np.ndarray]:
        """Turn ``probabilities`` (K, ...) into ``points`` (N, axes), ``confidence`` (N,) and ``count`` ().

        Points are in pixels, (y, x) or (z, y, x): the centres of connected regions weighted by probability. The
        confidence is the region's mean probability. ``labels`` and ``regions`` are those of the segmentation.
        """
        decoded = super().decode(outputs, exclude=exclude, min_area=min_area)
        likely = outputs["probabilities"][1:].max(axis=0)
        numbers = np.arange(1, decoded["labels"].max() + 1)
        return decoded | {
            "points": centres(decoded["labels"], likely),
            "confidence": np.atleast_1d(mean(likely, decoded["labels"], numbers)).astype(np.float32),
            "count": np.array(len(numbers)),
        }

    def score(
        self,
        decoded: Sequence[dict[str, np.ndarray]],
        truth: Sequence[dict[str, np.ndarray]],
        max_distance: float = 3.0,
    ) -> dict[str, float]:
        """Measure over a data set ``precision``, ``recall``, ``f1`` and ``count_error`` Σ|n − n̂| / Σn.

        A point is found by one prediction less than ``max_distance`` pixels away. ``truth`` has ``points`` or
        ``labels``, of which the centres count.
        """
        points = [t["points"] if "points" in t else centres(t["labels"]) for t in truth]
        pairs = list(zip(points, (d["points"] for d in decoded), strict=True))
        found = sum(count_matches(true, predicted, max_distance) for true, predicted in pairs)
        n_true, n_predicted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
        wrong = sum(abs(len(true) - len(predicted)) for true, predicted in pairs)
        return {
            "precision": found / n_predicted if n_predicted else float(not n_true),
            "recall": found / n_true if n_true else float(not n_predicted),
            "f1": 2 * found / (n_true + n_predicted) if n_true + n_predicted else 1.0,
            "count_error": wrong / max(n_true, 1),
        }


# ------------------------------------------------------------------------------------------- points and disks


def draw_disks(points: np.ndarray, shape: Sequence[int], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a disk, in 3-D a ball, at every point: int32 ``labels``, and the bool ring of one to two radii.

    ``points`` (N, axes) in pixels; disk i + 1 belongs to point i, the later one wins where they overlap.
    """
    axes = len(shape)
    offsets = np.stack(np.meshgrid(*[np.arange(-2 * radius, 2 * radius + 1)] * axes, indexing="ij"), -1)
    offsets = offsets.reshape(-1, axes)
    square = (offsets**2).sum(1)
    labels, ring = np.zeros(shape, np.int32), np.zeros(shape, bool)
    centre = np.rint(points).astype(np.intp).reshape(-1, 1, axes)
    numbers = np.arange(1, len(centre) + 1, dtype=np.int32)[:, None]
    for canvas, chosen in (
        (labels, square <= radius**2),
        (ring, (square > radius**2) & (square <= 4 * radius**2)),
    ):
        places = centre + offsets[chosen]  # (N, M, axes)
        inside = ((places >= 0) & (places < shape)).all(-1)
        canvas[tuple(places[inside].T)] = np.broadcast_to(numbers, inside.shape)[inside]
    return labels, ring & (labels == 0)


def centres(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the centres of mass (N, axes) of all objects, float32, in pixels, ordered by their numbers."""
    places = np.nonzero(labels)
    _, numbers = np.unique(labels[places], return_inverse=True)
    mass = np.ones(len(numbers)) if weights is None else weights[places].astype(np.float64)
    total = np.bincount(numbers, mass)
    return np.stack([np.bincount(numbers, mass * place) / total for place in places], -1).astype(np.float32)


def count_matches(true: np.ndarray, predicted: np.ndarray, max_distance: float) -> int:
    """Count the most pairs of one ``true`` and one ``predicted`` point closer than ``max_distance``."""
    if not len(true) or not len(predicted):
        return 0
    near = KDTree(true).query_ball_tree(KDTree(predicted), np.nextafter(max_distance, 0))
    rows = np.repeat(np.arange(len(true)), [len(columns) for columns in near])
    edges = csr_array((np.ones(len(rows)), (rows, np.concatenate(near).astype(int))), (len(true), len(predicted)))
    return int((maximum_bipartite_matching(edges, perm_type="column") >= 0).sum())


VARIANTS: dict[str, FalkConfig] = {
    "unet_falk_2d": FalkConfig(),
    "unet_falk_3d": FalkConfig(width=32, levels=(3, 4, 4), element_size_um=(1.0, 0.5, 0.5)),
    "unet_falk_2d_tiny": FalkConfig(width=4, levels=(2, 2)),
    "unet_falk_3d_tiny": FalkConfig(width=2, levels=(1, 2, 2), element_size_um=(1.0, 0.5, 0.5)),
}


def build(config: FalkConfig) -> FalkUNet:
    """Build the network of a variant."""
    return FalkUNet(config)
