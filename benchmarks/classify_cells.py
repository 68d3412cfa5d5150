"""Red cells by shape: crops in class folders, the recipe's training on them, and what it is worth.

    python benchmarks/classify_cells.py make    --data chula_rbc12 --out redcells
    python benchmarks/classify_cells.py train   --data redcells --run runs/redcells [--train.epochs 5]
    python benchmarks/classify_cells.py quality --data redcells --run runs/redcells

The data is the Chula RBC-12 dataset (MIT, arXiv:2012.01321): smears of 640 x 480 pixels, of every cell its place and
one of 13 classes, of which "uncategorised" is left out. Cells of one smear are all in one part. Accuracy is balanced
over the classes, its interval is over smears, and beside it stands a linear probe on the raw pixels, so that the number
means something.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import abbe
from abbe.api import train as train_recipe
from abbe.cli.training import pair_up
from abbe.data.classes import class_indices, classes_of, find_classes, with_groups
from abbe.data.datasets import whole_plane
from abbe.data.read import read
from abbe.data.squares import around, inside, mirror_out, square
from abbe.data.write import write_png
from abbe.errors import AbbeError
from abbe.evaluation import evaluate_classes
from abbe.methods.backbones.classification import weights_of_classes
from abbe.metrics.classes import bootstrap, scores
from abbe.settings import SegmentSettings
from tables import machine, print_table

CLASSES = (
    *("normal", "macrocyte", "microcyte", "spherocyte", "target", "stomatocyte", "ovalocyte"),
    *("teardrop", "burr", "schistocyte", "uncategorised", "hypochromia", "elliptocyte"),
)
"""By the numbers of the label files."""
LEFT_OUT = "uncategorised"
SIDE = 56
"""Pixels of a crop: a large cell and some ground around it. All alike, since size tells classes apart."""
PARTS = {"train": 0.6, "val": 0.15, "test": 0.25}
"""Shares of the smears."""
DRAWS = 20_000
"""Random divisions that are tried for one in which every class is divided about so: some are in few smears only."""
PROBE_SIDE = 24
"""Pixels to which crops are shrunk for the linear probe."""
DECAYS = (1e-3, 1e-2, 1e-1)
"""Penalties of the linear probe, the best on val is taken."""


def main() -> None:
    arguments, rest = parse()
    print(machine())
    try:
        arguments.verb(arguments, rest)
    except AbbeError as error:
        sys.exit(str(error))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (make, train, quality):
        sub = verbs.add_parser(verb.__name__, help=verb.__doc__)
        sub.add_argument("--data", type=Path, required=True)
        sub.set_defaults(verb=verb)
    verbs.choices["make"].add_argument("--out", type=Path, required=True, help="folder for the crops")
    for name in ("train", "quality"):
        verbs.choices[name].add_argument("--run", type=Path, default=Path("runs/redcells"))
    return parser.parse_known_args()


# ------------------------------------------------------------------------------------------------------ data


def make(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Cut a square around every cell and put it into the folder of its part and class."""
    smears = sorted(arguments.data.rglob("labels/*.txt"))
    if not smears:
        raise AbbeError(f"{arguments.data}: no labels/*.txt; expected the folder of the Chula RBC-12 dataset")
    cells = {path: read_cells(path) for path in smears}
    parts = deal({path.stem: Counter(kind for *_, kind in found) for path, found in cells.items()})
    for part in PARTS:
        shutil.rmtree(arguments.out / part, ignore_errors=True)
    for path, found in cells.items():
        pixels = whole_plane(read(path.parents[1] / "images" / f"{path.stem}.jpg"))
        for number, (x, y, kind) in enumerate(found):
            crop = cut(pixels, x, y)
            write_png(
                arguments.out / parts[path.stem] / kind / f"{path.stem}_{number:03d}.png", crop.transpose(1, 2, 0)
            )
    tell_counts(arguments.out)


def deal(smears: dict[str, Counter[str]]) -> dict[str, str]:
    """Divide whole smears so that the classes are shared out about as wanted, none missing in train or test."""
    kinds = sorted({kind for counts in smears.values() for kind in counts})
    table = np.array([[counts[kind] for kind in kinds] for counts in smears.values()], float)
    wanted = np.array(list(PARTS.values()))
    generator = np.random.default_rng(0)
    best, least = np.zeros(len(table), int), np.inf
    for _ in range(DRAWS):
        drawn = generator.choice(len(PARTS), len(table), p=wanted)
        shares = (np.eye(len(PARTS))[drawn].T @ table) / table.sum(axis=0)
        bad = ((shares - wanted[:, None]) ** 2 / wanted[:, None]).sum()
        if bad < least and shares[[0, 2]].min() > 0:
            best, least = drawn, bad
    return {name: list(PARTS)[part] for name, part in zip(smears, best, strict=True)}


def read_cells(path: Path) -> list[tuple[int, int, str]]:
    """Read x, y and class of the cells of a smear."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [(int(x), int(y), CLASSES[int(number)]) for x, y, number in rows]
    return [cell for cell in found if cell[2] != LEFT_OUT]


def cut(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    box = around(((y, y + 1), (x, x + 1)), SIDE)
    part = inside(box, pixels.shape[1:])
    (top, bottom), (left, right) = part
    return mirror_out(pixels[:, top:bottom, left:right], part, box)


def tell_counts(folder: Path) -> None:
    counts = Counter((one.split, one.kind) for one in find_classes(folder))
    kinds = sorted({kind for _, kind in counts})
    rows = [[kind, *(str(counts[part, kind]) for part in ("train", "val", "test"))] for kind in kinds]
    print_table("Cells", ["class", "train", "val", "test"], rows)


# -------------------------------------------------------------------------------------------------- training


def train(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Train by the recipe; further words change it, such as --train.epochs 5."""
    trained = train_recipe("redcells", arguments.data, overrides=pair_up(rest), out=arguments.run, tell=print)
    print(f"model: {trained.model}")


# --------------------------------------------------------------------------------------------------- quality


def quality(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Score the model on the test part, beside a linear probe on raw pixels and the most frequent class."""
    model = abbe.load(arguments.run)
    result = evaluate_classes(model, arguments.data, "test", SegmentSettings(), groups="_")
    rows = [[model.name, *cells(result.scores, result.intervals)]]
    parts = {part: load_part(arguments.data, part) for part in ("train", "val", "test")}
    probability, truth, groups = linear_probe(parts)
    rows.append(["linear probe on pixels", *cells(scores(probability, truth), bootstrap(probability, truth, groups))])
    most = np.bincount(parts["train"][1]).argmax()
    constant = np.eye(probability.shape[1])[np.full(len(truth), most)]
    rows.append(["most frequent class", *cells(scores(constant, truth), bootstrap(constant, truth, groups))])
    title = f"{len(truth)} cells of {len(np.unique(groups))} smears [95 % intervals by resampling smears]"
    print_table(title, ["", "balanced accuracy", "top-1", "calibration error"], rows)
    worst = result.images.assign(right=result.images["truth"] == result.images["class"]).groupby("truth")["right"]
    table = [[name, f"{share:.2f}", str(n)] for name, share, n in zip(worst.mean().index, worst.mean(), worst.size())]
    print_table("Recall", ["class", "right", "cells"], table)


def cells(found: dict[str, float], intervals: dict[str, tuple[float, float]]) -> list[str]:
    shown = [
        f"{found[name]:.3f} [{low:.3f}, {high:.3f}]"
        for name in ("balanced_accuracy", "top1")
        for low, high in [intervals[name]]
    ]
    return [*shown, f"{found['calibration_error']:.3f}"]


Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels (N, D), classes (N,), and the smear of each."""


def load_part(folder: Path, part: str) -> Part:
    everything = find_classes(folder)
    images = with_groups([one for one in everything if one.split == part], "_")
    small = [square(whole_plane(read(one.image)).astype(np.float32) / 255, PROBE_SIDE, "crop") for one in images]
    groups = np.array([one.group for one in images])
    return np.stack(small).reshape(len(images), -1), class_indices(images, classes_of(everything)), groups


def linear_probe(parts: dict[str, Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit softmax regressions that weigh all classes alike; give the test probabilities of the best one on val."""
    mean, deviation = parts["train"][0].mean(axis=0), parts["train"][0].std(axis=0) + 1e-6
    ready = {name: torch.from_numpy((pixels - mean) / deviation) for name, (pixels, _, _) in parts.items()}
    fits = [fit_probe(ready["train"], torch.from_numpy(parts["train"][1]), decay) for decay in DECAYS]
    found = [{name: (x @ w + b).softmax(1).numpy() for name, x in ready.items()} for w, b in fits]
    best = max(found, key=lambda one: scores(one["val"], parts["val"][1])["balanced_accuracy"])
    return best["test"], parts["test"][1], parts["test"][2]


def fit_probe(x: torch.Tensor, truth: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.bincount(truth)
    balance = torch.tensor(weights_of_classes(counts.tolist(), 1.0))
    w, b = (torch.zeros(shape, requires_grad=True) for shape in ((x.shape[1], len(counts)), (len(counts),)))
    optimizer = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ w + b, truth, weight=balance) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return w.detach(), b.detach()


if __name__ == "__main__":
    main()
