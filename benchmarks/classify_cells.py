"""Cells of blood smears: crops in class folders, a recipe's training on them, and what it is worth.

    python benchmarks/classify_cells.py make    --data chula_rbc12 --out redcells
    python benchmarks/classify_cells.py train   --recipe redcells --data redcells [--train.epochs 5]
    python benchmarks/classify_cells.py quality --model runs/redcells --data redcells

The data is the Chula RBC-12 dataset (MIT, arXiv:2012.01321): smears of 640 x 480 pixels, of every cell its place and
one of 13 classes, of which "uncategorised" is left out. Or it is the BCCD dataset (MIT): smears of the same size with
boxes around red cells, white cells and platelets, and lists of which are for training (``--data bccd``, and the recipe
``cell-type``). Cells of one smear are all in one part. Accuracy is balanced over the classes, its interval is over
smears, and beside it stands a linear probe on the raw pixels, so that the number means something.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

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
from abbe.ops.boxes import Box
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
MARGIN = 0.25
"""Context on each side of a boxed cell, as a share of its longer side; these crops are as large as their cells."""
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
    verbs.choices["train"].add_argument("--recipe", default="redcells")
    verbs.choices["train"].add_argument("--run", type=Path, help="folder, runs/RECIPE unless given")
    verbs.choices["quality"].add_argument("--model", default="redcells", help="name, file, or the folder of a training")
    return parser.parse_known_args()


# ------------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True)
class Smear:
    """A picture, and what is known of its cells."""

    image: Path
    cells: list[tuple[Box, str]]
    """The square that is cut around each, and its class."""
    part: str = ""
    """Where the data's own lists put it."""


def make(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Cut a square around every cell and put it into the folder of its part and class."""
    smears = list(
        read_boxed(arguments.data) if (arguments.data / "Annotations").is_dir() else read_dotted(arguments.data)
    )
    if not smears:
        raise AbbeError(
            f"{arguments.data}: neither labels/*.txt nor Annotations/*.xml; expected the folder of Chula RBC-12 or BCCD"
        )
    for part in PARTS:
        shutil.rmtree(arguments.out / part, ignore_errors=True)
    for smear in smears:
        pixels = whole_plane(read(smear.image))
        for number, (box, kind) in enumerate(smear.cells):
            name = f"{smear.image.stem}_{number:03d}.png"
            write_png(arguments.out / smear.part / kind / name, cut(pixels, box).transpose(1, 2, 0))
    tell_counts(arguments.out)


def read_dotted(folder: Path) -> list[Smear]:
    """Read Chula RBC-12: places of cells as x, y and class; squares of one size around them."""
    found = []
    for path in sorted(folder.rglob("labels/*.txt")):
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        places = [(((int(y), int(y) + 1), (int(x), int(x) + 1)), CLASSES[int(kind)]) for x, y, kind in rows]
        cells = [(around(place, SIDE), kind) for place, kind in places if kind != LEFT_OUT]
        found.append(Smear(path.parents[1] / "images" / f"{path.stem}.jpg", cells))
    parts = deal([Counter(kind for _, kind in smear.cells) for smear in found])
    return [replace(smear, part=part) for smear, part in zip(found, parts, strict=True)]


def read_boxed(folder: Path) -> Iterator[Smear]:
    """Read BCCD: boxes of cells, and lists of the images of each part."""
    for part in PARTS:
        for stem in (folder / "ImageSets" / "Main" / f"{part}.txt").read_text(encoding="utf-8").split():
            image, notes = folder / "JPEGImages" / f"{stem}.jpg", folder / "Annotations" / f"{stem}.xml"
            if image.exists() and notes.exists():
                objects = ElementTree.parse(notes).findall("object")
                yield Smear(
                    image, [(around(box_of(one), margin=MARGIN), one.findtext("name", "")) for one in objects], part
                )


def box_of(note: ElementTree.Element) -> Box:
    """Read the (Y, X) spans of an annotated object; corners are counted from 1 and belong to it."""
    x, y, right, bottom = (int(note.findtext(f"bndbox/{name}", "0")) for name in ("xmin", "ymin", "xmax", "ymax"))
    return (y - 1, bottom), (x - 1, right)


def deal(smears: list[Counter[str]]) -> list[str]:
    """Divide whole smears so that the classes are shared out about as wanted, none missing in train or test."""
    kinds = sorted({kind for counts in smears for kind in counts})
    table = np.array([[counts[kind] for kind in kinds] for counts in smears], float)
    wanted = np.array(list(PARTS.values()))
    generator = np.random.default_rng(0)
    best, least = np.zeros(len(table), int), np.inf
    for _ in range(DRAWS):
        drawn = generator.choice(len(PARTS), len(table), p=wanted)
        shares = (np.eye(len(PARTS))[drawn].T @ table) / table.sum(axis=0)
        bad = ((shares - wanted[:, None]) ** 2 / wanted[:, None]).sum()
        if bad < least and shares[[0, 2]].min() > 0:
            best, least = drawn, bad
    return [list(PARTS)[part] for part in best]


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Cut (C, Y, X) of a square that may reach beyond the picture, mirrored there."""
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
    trained = train_recipe(arguments.recipe, arguments.data, overrides=pair_up(rest), out=arguments.run, tell=print)
    print(f"model: {trained.model}")


# --------------------------------------------------------------------------------------------------- quality


def quality(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Score the model on the test part, beside a linear probe on raw pixels and the most frequent class."""
    model = abbe.load(arguments.model)
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
