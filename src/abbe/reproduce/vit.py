"""What the paper of the vision transformer says of attention (Dosovitskiy et al. 2021, arXiv:2010.11929), tried small.

Fig. 7 (right) and Appendix D.7: some heads of the lowest layers look close by, others far already; deeper down all look
far. Appendix D.4, Table 8: without position embeddings the network is a bag of patches, and clearly worse. Both on a
network of minutes, on folders of classes or on drawn digits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abbe.methods.attention.vit import ViT, ViTConfig
from abbe.methods.backbones.classification import Classification, ClassificationOptions
from abbe.nn.rope import grid
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.reproduce.pictures import SIDE, Pictures, load_pictures
from abbe.train.fit import fit
from abbe.train.recipe import TrainConfig

PATCH = 4
KINDS = ("learned positions", "no positions")
COLOURS = dict(zip(KINDS, ("tab:blue", "tab:orange"), strict=True))


@dataclass(frozen=True)
class Budget:
    """How much is tried."""

    seeds: int = 2
    """Trainings of each kind."""
    steps: int = 700
    look_every: int = 50
    """Steps between two measurements of what is held out."""
    batch: int = 64
    learning_rate: float = 2e-3
    """The highest one, of AdamW."""
    pictures: int = 4000
    """Most of them to train on."""
    held_out: int = 2000
    """Most of them to measure on."""
    looked_at: int = 128
    """Pictures whose attention is measured, as in the paper."""
    width: int = 48
    depth: int = 6
    heads: int = 3


BUDGET = Budget()


@dataclass(frozen=True)
class Lesson:
    """Pictures to train on, as the trainer takes them."""

    pictures: Pictures

    def __len__(self) -> int:
        return len(self.pictures.pixels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.pictures.pixels[index], "class": self.pictures.classes[index]}

    def set_epoch(self, epoch: int) -> None:
        """Nothing here is random."""


def run(settings: ClaimSettings, tell: Callable[[str], None]) -> Found:
    """Train with positions and without, and measure how far each head looks."""
    pictures = load_pictures(settings.data, BUDGET.pictures, BUDGET.held_out, settings.seed)
    tested = len(pictures.held_out_classes)
    tell(f"{len(pictures.classes)} pictures of {pictures.number} classes from {pictures.source}")
    if pictures.note:
        tell(pictures.note)
    accuracies, distances = [], []
    for seed in range(settings.seed, settings.seed + BUDGET.seeds):
        for kind in KINDS:
            network, accuracy = learn(kind, pictures, seed)
            accuracies.append(accuracy.assign(kind=kind, seed=seed))
            tell(f"seed {seed}, {kind}: {100 * accuracy['accuracy'].iloc[-1]:.1f} % right")
            if kind == KINDS[0]:
                looked_at = pictures.held_out_pixels[: BUDGET.looked_at]
                distances.append(distance_table(network, looked_at).assign(seed=seed))
    learned, far = pd.concat(accuracies, ignore_index=True), pd.concat(distances, ignore_index=True)
    rows = [far.assign(what="attention distance"), learned.assign(what="accuracy")]
    table = pd.concat(rows, ignore_index=True)
    return Found(*judged(learned, far, tested), table, draw(learned, far, f"{tested} held out, {pictures.source}"))


def judged(learned: pd.DataFrame, far: pd.DataFrame, tested: int) -> tuple[bool, str]:
    """Hold the numbers against both halves of the claim.

    The first holds where the mean distance is larger in the last third of the layers than in the first third, and a
    head of the first third looks less than half as far as the farthest there; the second where positions are worth more
    than two standard errors of the difference in accuracy.
    """
    layers = far.groupby("layer")["distance"].mean()
    third = max(1, len(layers) // 3)
    first, last = float(layers.iloc[:third].mean()), float(layers.iloc[-third:].mean())
    low = far[far["layer"] <= third]["distance"]
    final = learned.groupby(["kind", "seed"])["accuracy"].last().unstack(0).mean()
    gain = float(final[KINDS[0]] - final[KINDS[1]])
    error = float(np.sqrt(sum(p * (1 - p) for p in final) / (tested * learned["seed"].nunique())))
    apart, needed = bool(last > first and low.min() < low.max() / 2), bool(gain > 2 * error)
    right = [f"{100 * final[kind]:.1f} %" for kind in KINDS]
    sentence = (
        f"heads {'differ' if apart else 'do not differ'} as in the paper: those of the first {third} of {len(layers)} "
        f"layers look {low.min():.1f} to {low.max():.1f} px far, {first:.1f} on average, those of the last {third} "
        f"{last:.1f} (all places alike: {evenly():.1f}); positions are {'' if needed else 'not clearly '}needed: with "
        f"learned ones {right[0]} of the held-out pictures are right, without {right[1]} (standard error of the "
        f"difference {100 * error:.1f} %; {BUDGET.seeds} seed{'s' * (BUDGET.seeds > 1)})."
    )
    return apart and needed, sentence


# ------------------------------------------------------------------------------------------------- the network


def learn(kind: str, pictures: Pictures, seed: int) -> tuple[ViT, pd.DataFrame]:
    """Train a network, and give it with its ``accuracy`` on the held-out pictures by ``step``."""
    torch.manual_seed(seed)
    b = BUDGET
    channels, train = pictures.pixels.shape[1], Lesson(pictures)
    network = ViT(ViTConfig(channels, pictures.number, SIDE, PATCH, b.width, b.depth, b.heads, mlp=4 * b.width))
    if kind == KINDS[1]:
        network.positions.requires_grad_(False).zero_()
    names = tuple(map(str, range(pictures.number)))
    method = Classification(network, ClassificationOptions(classes=names, size=SIDE))
    config = TrainConfig(
        seed=seed,
        steps=b.steps,
        steps_per_epoch=b.look_every,
        batch_size=min(b.batch, len(train)),
        learning_rate=b.learning_rate,
        weight_decay=0.05,
        warmup_steps=b.steps // 10,
        ema_decay=0.0,
        precision="float32",
        accelerator="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        validate = partial(scored, pictures=pictures)
        history = fit(method, train, None, config, place, validate=validate, progress=False).history
    return network.eval(), history[["step", "accuracy"]]


@torch.no_grad()
def scored(method: Classification, pictures: Pictures) -> dict[str, float]:
    """Measure the part of the held-out pictures that is right."""
    found = torch.cat([method(part).argmax(dim=1) for part in pictures.held_out_pixels.split(200)])
    accuracy = float((found == pictures.held_out_classes).float().mean())
    return {"accuracy": accuracy, method.watch.name: accuracy}


# ------------------------------------------------------------------------------------------------ the distances


@torch.no_grad()
def distance_table(network: ViT, images: torch.Tensor) -> pd.DataFrame:
    """Measure how far each head looks: ``layer`` from 1, ``head``, ``distance``."""
    distances = attention_distance(network, images)
    layers, heads = distances.shape
    places = [(layer, head) for layer in range(layers) for head in range(heads)]
    rows = [{"layer": i + 1, "head": j + 1, "distance": float(distances[i, j])} for i, j in places]
    return pd.DataFrame(rows)


def attention_distance(network: ViT, images: torch.Tensor) -> torch.Tensor:
    """Average the pixels between a patch and those it looks at, weighted by its attention: (layers, heads).

    The class token has no place and is left out.
    """
    names = [f"blocks.{i}.attention" for i in range(len(network.blocks))]
    maps = torch.stack(list(network.features(images, names).values()))[..., 1:, 1:]  # (L, B, heads, N, N)
    weights = maps / maps.sum(dim=-1, keepdim=True)
    extents = tuple(extent // side for extent, side in zip(images.shape[2:], network.patch, strict=True))
    return (weights * patch_distances(extents, network.patch)).sum(dim=-1).mean(dim=(1, 3))


def patch_distances(extents: tuple[int, ...], patch: tuple[int, int]) -> torch.Tensor:
    """Give the pixels between the centres of any two patches of a grid: (N, N)."""
    centres = grid(extents) * torch.tensor(patch, dtype=torch.float32)
    return torch.cdist(centres, centres)


def evenly() -> float:
    """Give the distance of a head that looks at all places alike."""
    return float(patch_distances((SIDE // PATCH,) * 2, (PATCH, PATCH)).mean())


# ------------------------------------------------------------------------------------------------- the figure


def draw(learned: pd.DataFrame, far: pd.DataFrame, held_out: str) -> Figure:
    """Draw the distance of every head, and the accuracy with positions and without."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_distances(left, far)
    for (kind, seed), curve in learned.groupby(["kind", "seed"], sort=False):
        label = kind if seed == learned["seed"].min() else None
        right.plot(curve["step"], curve["accuracy"], color=COLOURS[kind], label=label)
    right.set(title=f"right of {held_out}", xlabel="step", ylabel="share")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_distances(axes: Axes, far: pd.DataFrame) -> None:
    axes.plot(far["layer"], far["distance"], "o", markersize=4, alpha=0.6, label="a head")
    layers = far.groupby("layer")["distance"].mean()
    axes.plot(layers.index, layers, color="black", label="mean of the layer")
    axes.axhline(evenly(), color="grey", linestyle=":", label="all places alike")
    axes.set(title="mean attention distance", xlabel="layer", ylabel="pixels", ylim=(0, None), xticks=layers.index)
    axes.legend(frameon=False, loc="lower right")
