"""Which dense map tells touching nuclei apart best? One network predicts all candidates and each is decoded.

    python benchmarks/instance_targets.py --data dsb2018

``--data`` is the folder with ``fluorescence`` and ``histology``. The network, the crops and their augmentation are
those of the recipe ``nuclei``, so the candidates share everything but what they are; half an hour on two cores. Each
decoder has a threshold, for which the table gives the best on the validation split. The test split is not touched.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.segmentation import watershed
from torch.utils.data import DataLoader

from abbe.data.channels import match_channels
from abbe.data.datasets import PairDataset, TrainingDataset, find_pairs
from abbe.data.normalize import Normalization
from abbe.data.sample import Sample
from abbe.learn import find_sources, training_data
from abbe.methods.backbones.unet_residual import VARIANTS, UNetResidual
from abbe.methods.segmentation.instances import dice_loss, keep_large, relative_depth, smooth, split_regions
from abbe.metrics.instances import match, scores
from abbe.nn.memory import tune_allocator
from abbe.train.recipe import load_recipe
from tables import machine, print_table

FOREGROUND, INTERIOR, BORDER, DEPTH, OFFSET = 0, 1, 2, 3, slice(4, 6)
CHANNELS = 6
REACH = 20.0
"""Pixels that an offset of 1 stands for."""
BORDER_WIDTH = 1.5
"""Pixels from the outline that belong to the border."""
MIN_AREA = 16
SIDES = np.ones((3, 3), bool)

Maps = np.ndarray
"""(6, Y, X): probabilities of foreground, interior and border, the depth, and the offset to the centre (y, x)."""
Decoder = Callable[[Maps, float], np.ndarray]


class Targets:
    """All candidates of a crop."""

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make the image and its six maps."""
        assert sample.labels is not None
        return {"image": torch.from_numpy(sample.image), "maps": torch.from_numpy(draw(sample.labels))}


def draw(labels: np.ndarray) -> Maps:
    """Draw the six maps of a label image."""
    maps = np.zeros((CHANNELS, *labels.shape), np.float32)
    maps[FOREGROUND] = labels > 0
    maps[DEPTH] = relative_depth(labels)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        inside = labels[box] == number
        deep = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] > BORDER_WIDTH
        maps[INTERIOR][box][deep] = 1
        maps[BORDER][box][inside & ~deep] = 1
        places = np.argwhere(inside)
        offsets = (places.mean(axis=0) - places) / REACH
        for axis in (0, 1):
            maps[OFFSET][axis][box][inside] = offsets[:, axis]
    return maps


def train(data: TrainingDataset, steps: int, batch_size: int, seed: int) -> UNetResidual:
    """Train one network on all candidates at once; gives its averaged weights."""
    torch.manual_seed(seed)
    config = VARIANTS["unet_residual"]
    network = UNetResidual(3, CHANNELS, config.widths, config.blocks, config.detail).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-3
    )
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    for step, batch in enumerate(DataLoader(data, batch_size, num_workers=1)):
        image = batch["image"].to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            raw = network(image)
        loss = loss_of(raw.float(), batch["maps"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}, loss {float(loss):.3f}", flush=True)
    return average.module.eval()


def loss_of(raw: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Add up one loss per candidate, each of its usual kind."""
    foreground = maps[:, FOREGROUND]
    classes = slice(FOREGROUND, BORDER + 1)
    entropy = 3 * F.binary_cross_entropy_with_logits(raw[:, classes], maps[:, classes])
    overlap = dice_loss(raw[:, FOREGROUND].sigmoid(), foreground) + dice_loss(
        raw[:, INTERIOR].sigmoid(), maps[:, INTERIOR]
    )
    depth = ((raw[:, DEPTH].sigmoid() - maps[:, DEPTH]).abs() * (0.3 + foreground)).mean()
    offset = ((raw[:, OFFSET] - maps[:, OFFSET]).abs() * foreground[:, None]).mean()
    return entropy + overlap + 4 * depth + 4 * offset


@torch.inference_mode()
def predict(network: UNetResidual, image: np.ndarray) -> Maps:
    """Compute the six maps of an image (C, Y, X) at its own scale."""
    pads = [(0, -extent % network.multiple) for extent in image.shape[1:]]
    padded = np.pad(image, [(0, 0), *pads], mode="reflect")
    raw = network(torch.from_numpy(padded)[None])[0, :, : image.shape[1], : image.shape[2]]
    raw[:4] = raw[:4].sigmoid()
    return raw.numpy()


# ------------------------------------------------------------------------------------------------------- decoders


def components(maps: Maps, threshold: float) -> np.ndarray:
    """Take connected regions of foreground for objects."""
    return ndimage.label(maps[FOREGROUND] > threshold)[0]


def without_border(maps: Maps, threshold: float) -> np.ndarray:
    """Take connected regions of foreground that is not border, and give the border to the nearest."""
    foreground = maps[FOREGROUND] > 0.5
    seeds = ndimage.label(foreground & (maps[BORDER] < threshold))[0]
    return watershed(np.zeros(seeds.shape), seeds, mask=foreground)


def from_interiors(maps: Maps, threshold: float) -> np.ndarray:
    """Flood the foreground from connected regions of interior."""
    return watershed(-maps[INTERIOR], ndimage.label(maps[INTERIOR] > threshold)[0], mask=maps[FOREGROUND] > 0.5)


def by_votes(maps: Maps, threshold: float) -> np.ndarray:
    """Let every pixel vote for a centre; peaks of votes, ``threshold`` pixels apart, are the objects."""
    foreground = maps[FOREGROUND] > 0.5
    places = np.argwhere(foreground)
    extent = np.array(foreground.shape)
    centres = np.clip(places + REACH * maps[OFFSET][:, foreground].T, 0, extent - 1).round().astype(int)
    votes = np.zeros(foreground.shape, np.float32)
    np.add.at(votes, tuple(centres.T), 1)
    votes = ndimage.gaussian_filter(votes, 1.5)
    peaks = (votes == ndimage.maximum_filter(votes, 2 * int(threshold) + 3)) & (votes > 0.5)
    seeds = ndimage.label(peaks, SIDES)[0]
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    labels = np.zeros(foreground.shape, np.int32)
    labels[foreground] = seeds[tuple(nearest[:, *centres.T])]
    return labels


def from_depth(maps: Maps, threshold: float, smoothed: bool) -> np.ndarray:
    """Flood the foreground from the connected parts that are deeper than a threshold."""
    depth = smoothed_depth(maps) if smoothed else maps[DEPTH]
    return watershed(-depth, ndimage.label(depth > threshold)[0], mask=maps[FOREGROUND] > 0.5)


def by_prominence(maps: Maps, threshold: float) -> np.ndarray:
    """Split the foreground among the prominent summits of the smoothed depth, as the package does."""
    regions, number = ndimage.label(maps[FOREGROUND] > 0.5)
    return split_regions(regions, number, smoothed_depth(maps), threshold)


def smoothed_depth(maps: Maps) -> np.ndarray:
    return smooth(torch.from_numpy(maps[DEPTH])[None, None])[0, 0].numpy()


DECODERS: dict[tuple[str, str], tuple[Decoder, tuple[float, ...]]] = {
    ("foreground", "connected regions"): (components, (0.4, 0.5, 0.6, 0.7)),
    ("foreground and border", "connected regions of foreground without border"): (without_border, (0.3, 0.5, 0.7)),
    ("interior", "connected regions of interior as markers, watershed"): (from_interiors, (0.4, 0.5, 0.6, 0.7)),
    ("offset to the centre", "pixels vote for their centre"): (by_votes, (2, 3, 5, 8)),
    ("relative depth", "parts deeper than a threshold as markers, watershed"): (
        partial(from_depth, smoothed=False),
        (0.3, 0.4, 0.5, 0.6, 0.7),
    ),
    ("relative depth, smoothed", "the same after a blur of 1 px"): (
        partial(from_depth, smoothed=True),
        (0.3, 0.4, 0.5, 0.6, 0.7),
    ),
    ("relative depth, smoothed", "prominent summits"): (by_prominence, (0.05, 0.1, 0.15, 0.2, 0.3)),
}


def best_scores(network: UNetResidual, folders: list[Path]) -> Iterator[list[str]]:
    """Give a row of the table per decoder, at the threshold of the best mean AP over both data sets."""
    data = [list(predictions(network, folder)) for folder in folders]
    for (target, how), (decode, thresholds) in DECODERS.items():
        found = {threshold: [score(images, decode, threshold) for images in data] for threshold in thresholds}
        threshold, chosen = max(found.items(), key=lambda item: sum(one["map50_90"] for one in item[1]))
        cells = [[f"{one[key]:.3f}" for one in chosen] for key in ("ap50", "map50_90")]
        counts = [f"{100 * one['count_error']:.0f} %" for one in chosen]
        yield [target, how, f"{threshold:g}", *(" / ".join(cell) for cell in (*cells, counts))]


def predictions(network: UNetResidual, folder: Path) -> Iterator[tuple[Maps, np.ndarray]]:
    """Give maps and true labels of the validation images."""
    for sample in PairDataset(find_pairs(folder / "val"), Normalization().normalize, 3):
        yield predict(network, match_channels(sample.image, 3, sample.name)), sample.labels


def score(images: list[tuple[Maps, np.ndarray]], decode: Decoder, threshold: float) -> dict[str, float]:
    """Decode all images and score them together."""
    found = [keep_large(decode(maps, threshold).astype(np.int32), MIN_AREA) for maps, _ in images]
    return scores([match(truth, labels) for (_, truth), labels in zip(images, found, strict=True)])


def main() -> None:
    """Train, decode and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with fluorescence and histology")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tune_allocator()
    recipe = load_recipe("nuclei", {"train.seed": arguments.seed, "train.steps_per_epoch": arguments.steps})
    folders = [arguments.data / kind for kind in ("fluorescence", "histology")]
    recipe.data.paths, recipe.data.weights = [str(folder) for folder in folders], [0.65, 0.35]
    data = training_data(recipe, Targets(), find_sources(recipe))
    network = train(data, arguments.steps, recipe.train.batch_size, arguments.seed)
    header = ["target", "decoder", "threshold", "AP@0.5", "mean AP 0.5–0.9", "count error"]
    title = f"Targets on validation images, fluorescence / stained tissue, {arguments.steps} steps; {machine()}"
    print_table(title, header, list(best_scores(network, folders)))


if __name__ == "__main__":
    main()
