"""A model on annotated images: it segments them as a user would, and the result is scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.classification import Classifier
from abbe.data.classes import class_indices, find_classes, with_groups
from abbe.data.datasets import Pair, find_pairs, find_splits
from abbe.data.labels import read_labels
from abbe.data.read import read
from abbe.data.select import select
from abbe.data.sequences import SumsConfig, held_out_sums, to_text
from abbe.data.write import write_table, write_text
from abbe.errors import AbbeError
from abbe.methods.attention.translation import Translation
from abbe.methods.backbones.classification import Classification
from abbe.metrics import classes as class_metrics
from abbe.metrics.instances import bootstrap, match, scores
from abbe.model import Model
from abbe.report.classes import class_columns
from abbe.settings import ClassifySettings, SegmentSettings
from abbe.train.recipe import parse_recipe
from abbe.train.settings import build_config
from abbe.translation import translated, truth_of
from abbe.weights.file import Description


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on a data set."""

    scores: dict[str, float]
    """Over all objects of all images."""
    intervals: dict[str, tuple[float, float]]
    """95 % intervals of the deciding numbers, by resampling images."""
    images: pd.DataFrame
    """One row per image, worst first: objects annotated, found, and AP at IoU 0.5. Of sequences a row for each."""

    def save(self, folder: Path | str) -> None:
        """Write scores.json, with the intervals, and images.csv."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        numbers = {"scores": self.scores, "intervals": self.intervals}
        write_text(Path(folder) / "scores.json", json.dumps(numbers, indent=2) + "\n")
        write_table(Path(folder) / "images.csv", self.images)


def evaluate_model(
    model: Model,
    data: Path | None = None,
    split_name: str | None = None,
    settings: SegmentSettings | None = None,
    groups: str = "",
) -> Evaluation:
    """Segment annotated images, or classify those in folders of classes, as a user would, and score the result.

    Of classes ``groups`` says which images belong together; see :func:`abbe.data.classes.with_groups`. A model of sums
    makes those to test with itself, and takes no data.

    Raises
    ------
    AbbeError
        When the folder holds no annotated images, or not the split that was asked for.
    """
    settings = settings or SegmentSettings()
    if isinstance(model.method, Translation):
        return evaluate_sums(model, data)
    if data is None:
        raise AbbeError(f"model {model.name!r} is measured on annotated images; say where they are with --data FOLDER")
    if isinstance(model.method, Classification):
        return evaluate_classes(model, data, split_name, settings, groups)
    pairs = find_pairs(_split_folder(data, split_name))
    matches = []
    for pair in pairs:
        truth = read_truth(pair, model.dimensions)
        found = model.predict(pair.image, settings, measure=False).labels
        matches.append(match(truth["labels"], np.asarray(found), truth["ignore"]))
    rows = [
        {"image": pair.name, "annotated": m.n_truth, "found": m.n_predicted, "ap50": scores([m])["ap50"]}
        for pair, m in zip(pairs, matches, strict=True)
    ]
    images = pd.DataFrame(rows).sort_values("ap50", ignore_index=True)
    intervals = {name: bootstrap(matches, name, seed=0) for name in ("ap50", "map50_90", "count_error")}
    return Evaluation(scores(matches), intervals, images)


def evaluate_classes(
    model: Model, data: Path, split_name: str | None, settings: SegmentSettings, groups: str = ""
) -> Evaluation:
    """Classify images in folders of classes, and score the result.

    Parameters
    ----------
    model, data, split_name, settings
        As for :func:`evaluate_model`.
    groups
        Which images belong together, for the intervals; see :func:`abbe.data.classes.with_groups`.

    Raises
    ------
    AbbeError
        When the folder holds no folders of classes, or classes that the model lacks.
    """
    classifier = Classifier(model)
    images = with_groups(find_classes(_split_folder(data, split_name)), groups)
    truth = class_indices(images, classifier.classes)
    shared = {field.name for field in fields(ClassifySettings)} & {field.name for field in fields(SegmentSettings)}
    chosen = ClassifySettings(**{name: getattr(settings, name) for name in shared})
    pictures = (classifier.picture(select(one.image, chosen)[0]) for one in images)
    probability = classifier.probabilities(pictures, chosen)
    table = class_columns(probability, classifier.classes)[["class", "probability"]]
    table.insert(0, "image", [one.name for one in images])
    table.insert(1, "truth", [one.kind for one in images])
    table["p_truth"] = probability[np.arange(len(truth)), truth]
    intervals = class_metrics.bootstrap(probability, truth, np.array([one.group for one in images]))
    worst_first = table.sort_values("p_truth", ignore_index=True)
    return Evaluation(class_metrics.scores(probability, truth), intervals, worst_first)


def evaluate_sums(model: Model, data: Path | None = None) -> Evaluation:
    """Let a model add the sums that are kept for testing, and score the result.

    Raises
    ------
    AbbeError
        When there is data, or the model does not say which sums it has learnt.
    """
    method = model.method
    assert isinstance(method, Translation)
    if data is not None:
        raise AbbeError(f"--data {data}: model {model.name!r} makes the sums to test with itself; leave it out")
    recipe = parse_recipe(model.description.recipe)
    if not recipe.data.sums:
        raise AbbeError(f"model {model.name!r} does not say which sums it has learnt, so there are none to test with")
    pairs = held_out_sums(build_config(SumsConfig, recipe.data.sums, f"{model.name}: data.sums"), "test")
    found = list(translated(method, pairs))
    rows = [
        {"source": pair.name, "target": to_text(pair.target), "found": to_text(tokens), "difficulty": pair.difficulty}
        for pair, tokens in zip(pairs, found, strict=True)
    ]
    table = pd.DataFrame(rows)
    table["right"] = table["target"] == table["found"]
    again = np.random.default_rng(0).binomial(len(table), table["right"].mean(), 1000) / len(table)
    low, high = np.quantile(again, (0.025, 0.975))
    worst_first = table.sort_values(["right", "difficulty"], ascending=[True, False], kind="stable", ignore_index=True)
    scores_found = method.score([{"tokens": tokens} for tokens in found], truth_of(pairs))
    return Evaluation(scores_found, {"exact_match": (float(low), float(high))}, worst_first)


def _split_folder(data: Path, name: str | None) -> Path:
    if not data.is_dir():
        raise AbbeError(f"{data}: no such folder; --data takes a folder with images and their labels")
    splits = find_splits(data)
    if name is None:
        return splits.get("test", data)
    if name not in splits:
        raise AbbeError(f"{data}: has no split {name!r}; it has {', '.join(splits) or 'none'}")
    return splits[name]


def measure(
    method: Any,
    *,
    description: Description,
    pairs: Sequence[Pair],
    truth: Sequence[dict[str, Any]],
    settings: SegmentSettings,
) -> dict[str, float]:
    """Segment every image as a user would, and score it against its annotation."""
    model = Model(method, description)
    decoded = [{"labels": np.asarray(model.predict(pair.image, settings, measure=False).labels)} for pair in pairs]
    return method.score(decoded, truth)


def read_truth(pair: Pair, dimensions: int = 2) -> dict[str, Any]:
    """Read the annotation of a pair, of a plane or a stack: labels, and what to ignore if anything."""
    image = read(pair.image)
    extents = (image.planar() if dimensions == 2 else image.volume()).extents
    annotation = read_labels(pair.labels, extents, pair.image.name, pair.coco)
    return {"labels": annotation.labels, "ignore": annotation.ignore}
