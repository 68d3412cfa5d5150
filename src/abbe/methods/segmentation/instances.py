"""Instances from dense maps: where objects are, and how deep inside one every pixel lies.

Not one paper: the distance map of an object as a second target beside its foreground (Bai and Urtasun 2017,
arXiv:1611.08303; Naylor et al. 2018, doi:10.1109/TMI.2018.2865709), decoded by a watershed (Meyer 1994)::

    image -> network -> foreground logit --- > 0 --------- regions --- summits --- watershed in each with several
                     -> depth in [0, 1] --- smoothed --------------------^

The depth of a pixel is its distance to the border of its object, divided by the largest in that object: 0 at the
border, 1 in the middle, whatever the size. Objects that touch are two hills with a valley between them. A summit counts
if it is prominent: if one has to go down far enough before one can rise to a higher one.

Stacks are treated as solids: in the target of voxels with coarse planes, distances are in micrometres.

Every connected region of foreground is decoded by itself, which is what lets :mod:`abbe.tiling.merge` put tiles
together exactly; the cost grows linearly with the pixels. Other targets that were tried are listed, with what they
scored on the validation split, in the documentation's page on segmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.segmentation import watershed
from torch import nn

from abbe.contract import Geometry, Watch
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.metrics.instances import match, scores
from abbe.nn.receptive_field import receptive_halo
from abbe.ops.totals import batch_total

THREE = slice(None, -2), slice(1, -1), slice(2, None)
"""The neighbours before, the pixels themselves and the neighbours behind, of a padded axis."""


@dataclass(frozen=True)
class InstancesConfig:
    """Loss weights, and the thresholds of the decoder."""

    depth_weight: float = 4.0
    """Weight of the depth's absolute error beside the foreground's cross-entropy and Dice loss."""
    background_weight: float = 0.3
    """Weight of background pixels in the depth's error; foreground has 1 more."""
    foreground: float = 0.5
    """Probability from which a pixel belongs to an object."""
    prominence: float = 0.25
    """How far the saddle between two summits of depth lies below both, for them to be two objects."""
    min_area: int = 16
    """Smallest object to report, in pixels."""

    @property
    def out_channels(self) -> int:
        """Maps that the network has to give."""
        return 2


class InstanceSegmentation(nn.Module):
    """The objective: a network with two maps, trained and decoded as above.

    Parameters
    ----------
    network
        Maps (B, C, [Z,] Y, X) to (B, 2, [Z,] Y, X); has ``in_channels`` and ``multiple``, the stride of its coarsest
        level: one number for both axes of a plane, or one for each axis.
    config
        Loss weights and thresholds.
    """

    joins = "merge"
    watch = Watch("map50_90", "max")

    def __init__(self, network: nn.Module, config: InstancesConfig | None = None):
        super().__init__()
        self.network = network
        self.config = config or InstancesConfig()

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return int(self.network.in_channels)  # type: ignore[arg-type]

    @cached_property
    def geometry(self) -> Geometry:
        """Halo of network and smoothing together, found by probing."""
        stride: Any = self.network.multiple
        multiple = (stride,) * 2 if isinstance(stride, int) else tuple(stride)
        return Geometry(receptive_halo(self, self.in_channels, multiple), multiple, (0,) * len(multiple))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute foreground logit and smoothed depth, (B, 2, [Z,] Y, X)."""
        return torch.cat(list(self.predict(x).values()), dim=1)

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make image, foreground and depth; pixels that nobody annotated get weight 0."""
        if sample.labels is None:
            raise AbbeError(f"{sample.name}: has no labels to learn from")
        depth = relative_depth(sample.labels, sample.pixel_size if sample.labels.ndim == 3 else None)
        known = np.ones(depth.shape, np.float32) if sample.ignore is None else (~sample.ignore).astype(np.float32)
        maps = np.stack([sample.labels > 0, depth, known]).astype(np.float32)  # (3, [Z,] Y, X)
        return {"image": torch.from_numpy(sample.image), "maps": torch.from_numpy(maps)}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute cross-entropy and Dice loss of the foreground, and the absolute error of the depth."""
        foreground, depth, known = batch["maps"].unbind(1)  # (B, [Z,] Y, X) each
        logit, raw = self.network(batch["image"]).float().unbind(1)
        total = batch_total(known.sum()).clamp(min=1)
        entropy = (F.binary_cross_entropy_with_logits(logit, foreground, reduction="none") * known).sum() / total
        overlap = dice_loss(logit.sigmoid() * known, foreground * known)
        weight = known * (self.config.background_weight + foreground)
        error = (weight * (raw.sigmoid() - depth).abs()).sum() / total
        loss = entropy + overlap + self.config.depth_weight * error
        return {"loss": loss, "entropy": entropy, "overlap": overlap, "depth": error}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute foreground logit and smoothed depth, (B, 1, [Z,] Y, X) each."""
        logit, raw = self.network(x).split(1, dim=1)
        return {"foreground": logit, "depth": smooth(raw.float().sigmoid())}

    def decode(
        self,
        outputs: dict[str, np.ndarray],
        *,
        exclude: np.ndarray | None = None,
        min_area: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Find the objects: ``labels`` 1..n and the connected ``regions`` of foreground, both ((Z,) Y, X) int32."""
        threshold = np.log(self.config.foreground / (1 - self.config.foreground))
        foreground = outputs["foreground"][0] > threshold
        if exclude is not None:
            foreground &= ~exclude
        regions, number = ndimage.label(foreground)
        labels = split_regions(regions, number, outputs["depth"][0], self.config.prominence)
        least = self.config.min_area if min_area is None else min_area
        return {"labels": keep_large(labels, least), "regions": regions}

    def certainty(self, outputs: dict[str, np.ndarray], decoded: dict[str, np.ndarray]) -> float:
        """Tell how sure the network is of the pixels of what was decoded, 0 to 1: the mean of |2 p - 1|."""
        logits = outputs["foreground"][0][decoded["labels"] > 0]
        return float(np.abs(np.tanh(logits / 2)).mean()) if logits.size else 0.0

    def score(self, decoded: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Measure average precision, counting error and others over a data set."""
        pairs = zip(decoded, truth, strict=True)
        return scores([match(true["labels"], found["labels"], true.get("ignore")) for found, true in pairs])


def relative_depth(labels: np.ndarray, pixel_size: Sequence[float] | None = None) -> np.ndarray:
    """Give each pixel's distance to the border of its object over the largest in that object, [0, 1].

    The edge of the image is no border: an object that it cuts goes on behind it.

    Parameters
    ----------
    labels
        ([Z,] Y, X).
    pixel_size
        Extents of a pixel along each axis, in any unit; equal ones unless given.
    """
    depth = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        inside = labels[box] == number
        sides = [(int(s.start > 0), int(s.stop < extent)) for s, extent in zip(box, labels.shape, strict=True)]
        padded = np.pad(inside, sides)
        if padded.all():
            depth[box][inside] = 1.0
            continue
        distance = ndimage.distance_transform_edt(padded, sampling=pixel_size)
        core = tuple(slice(low, low + extent) for (low, _), extent in zip(sides, inside.shape, strict=True))
        depth[box][inside] = (distance[core] / distance.max())[inside]
    return depth


def dice_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the soft Dice overlap (Milletari et al. 2016, arXiv:1606.04797), mean over the batch."""
    both = (probability * target).flatten(1).sum(dim=1)
    either = (probability + target).flatten(1).sum(dim=1)
    return (1 - (2 * both + 1) / (either + 1)).mean()


def smooth(maps: torch.Tensor) -> torch.Tensor:
    """Average twice over 3 pixels along each axis, (B, C, [Z,] Y, X), nearly a Gaussian of 1.15 px.

    The border pixels are repeated.
    """
    spatial = maps.ndim - 2
    for _ in range(2):
        maps = F.pad(maps, (1, 1) * spatial, mode="replicate")
        for after in range(spatial):
            rest = (slice(None),) * after
            before, here, behind = (maps[(..., part, *rest)] for part in THREE)
            maps = (before + here + behind) / 3
    return maps


def split_regions(regions: np.ndarray, number: int, depth: np.ndarray, prominence: float) -> np.ndarray:
    """Split each region among its prominent summits; gives objects 1..n, in the order of their regions."""
    summits, count = ndimage.label(is_summit(depth, regions > 0))
    owner = np.zeros(count + 1, np.int64)
    inside = np.flatnonzero(summits)
    owner[summits.flat[inside]] = regions.flat[inside]  # the region that a summit lies in
    summits_in = np.bincount(owner[1:], minlength=number + 1)
    single = np.flatnonzero(summits_in[1:] < 2) + 1
    numbers = np.zeros(number + 1, np.int32)
    numbers[single] = np.arange(1, len(single) + 1)
    labels = numbers[regions]
    contested = np.flatnonzero(summits_in[1:] >= 2) + 1
    if len(contested):
        flood(labels, regions, contested, depth, summits, prominence, len(single))
    return in_order_of(regions, labels)


def is_summit(depth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mark the pixels that no neighbour at one of their sides surpasses."""
    height = np.where(inside, depth, -np.inf)
    summit = inside.copy()
    for one, other in neighbours(depth.ndim):
        summit[one] &= height[one] >= height[other]
        summit[other] &= height[other] >= height[one]
    return summit


def neighbours(ndim: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Give for each axis the indices of all pixels but the first, and of those before them."""
    for axis in range(ndim):
        before = (slice(None),) * axis
        yield (*before, slice(1, None)), (*before, slice(None, -1))


def flood(
    labels: np.ndarray,
    regions: np.ndarray,
    contested: np.ndarray,
    depth: np.ndarray,
    summits: np.ndarray,
    prominence: float,
    offset: int,
) -> None:
    """Label the contested regions, from ``offset`` + 1 on, by the watersheds of their summits; works in place.

    The regions are laid side by side into one small picture first, for most of an image is not contested and a
    watershed pays for all of what it is given. They do not touch there, so each is flooded by itself. Depths are
    replaced by their ranks, equal ones in reading order: what comes first then never depends on the picture around.
    """
    boxes = ndimage.find_objects(regions)
    pieces = [(boxes[region - 1], regions[boxes[region - 1]] == region) for region in contested]
    places, shape = lay_out([piece.shape for _, piece in pieces])
    height, seeds, mask = np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    for (box, piece), place in zip(pieces, places, strict=True):
        height[place] = np.where(piece, depth[box], 0)
        seeds[place] = np.where(piece, summits[box], 0)
        mask[place] = piece
    inside = np.flatnonzero(mask)
    ranks = np.zeros(shape, np.int32)
    ranks.flat[inside[np.argsort(-height.flat[inside], kind="stable")]] = np.arange(len(inside))
    basins = watershed(ranks, seeds, mask=mask)
    flooded = join_basins(basins, height, prominence)[basins]
    for (box, piece), place in zip(pieces, places, strict=True):
        labels[box][piece] = flooded[place][piece] + offset


def join_basins(basins: np.ndarray, height: np.ndarray, prominence: float) -> np.ndarray:
    """Join every basin whose summit is not prominent to the one behind its highest saddle.

    The prominence of a summit is its height above the highest saddle to a summit that surpasses it (the dynamics of
    Grimaud 1992, doi:10.1117/12.60650). Gives the new number, 1..n, of each basin; that of 0 is 0.
    """
    first, second, saddle = saddles(basins, height)
    summit = np.full(int(basins.max()) + 1, -np.inf)
    np.maximum.at(summit, basins.ravel(), height.ravel())
    peak: list[float] = summit.tolist()
    parent = list(range(len(peak)))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    for a, b, level in zip(first.tolist(), second.tolist(), saddle.tolist(), strict=True):
        a, b = root(a), root(b)
        if a == b:
            continue
        lower, higher = (a, b) if peak[a] < peak[b] else (b, a)
        if peak[lower] - level < prominence:
            parent[lower] = higher
    roots = np.array([root(basin) for basin in range(len(parent))])
    present = np.zeros(len(parent), np.int32)
    present[roots[np.unique(basins)]] = 1
    present[0] = 0
    return (np.cumsum(present, dtype=np.int32) * present)[roots]


def saddles(basins: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of basins that touch, and the height of the highest saddle between the two, highest first."""
    codes, levels = [], []
    for one, other in neighbours(basins.ndim):
        a, b = basins[one], basins[other]
        touching = (a != b) & (a > 0) & (b > 0)
        a, b = a[touching].astype(np.int64), b[touching].astype(np.int64)
        codes.append((np.minimum(a, b) << 32) + np.maximum(a, b))
        levels.append(np.minimum(height[one], height[other])[touching])
    code, level = np.concatenate(codes), np.concatenate(levels)
    order = np.lexsort((code, -level))
    pairs, place = np.unique(code[order], return_index=True)
    by_level = np.argsort(place, kind="stable")
    pairs, level = pairs[by_level], level[order][place[by_level]]
    return pairs >> 32, pairs & 0xFFFFFFFF, level


def in_order_of(regions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Number the objects anew, those of the first region first; every object lies in one region."""
    region = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    region[labels.ravel()] = regions.ravel()
    numbers = np.zeros(len(region), np.int32)
    numbers[np.argsort(region, kind="stable")] = np.arange(len(region))
    return numbers[labels]


def lay_out(shapes: Sequence[tuple[int, ...]]) -> tuple[list[tuple[slice, ...]], tuple[int, ...]]:
    """Place boxes in rows, tall ones first, a pixel apart; gives their places and the extents of the whole.

    Stacks lie side by side, all on the ground. The whole is a square unless a box is taller than that.
    """
    area = sum((height + 1) * (width + 1) for *_, height, width in shapes)
    tallest, widest = (max(shape[axis] for shape in shapes) + 1 for axis in (-2, -1))
    row_length = max(min(int(area**0.5), area // tallest), widest)
    places: list[tuple[slice, ...]] = [()] * len(shapes)
    top = left = bottom = 0
    for index in sorted(range(len(shapes)), key=lambda i: -shapes[i][-2]):
        *deep, height, width = shapes[index]
        if left + width > row_length:
            top, left = bottom, 0
        places[index] = (*map(slice, deep), slice(top, top + height), slice(left, left + width))
        left, bottom = left + width + 1, max(bottom, top + height + 1)
    depths = (max(shape[axis] for shape in shapes) for axis in range(len(shapes[0]) - 2))
    return places, (*depths, bottom, row_length)


def keep_large(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Drop objects of fewer pixels and number the others from 1."""
    keep = np.bincount(labels.ravel()) >= max(min_area, 1)
    keep[0] = False
    return (np.cumsum(keep, dtype=np.int32) * keep)[labels]
