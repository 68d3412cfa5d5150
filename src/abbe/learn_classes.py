"""What training on folders of classes needs beside a recipe: the images in parts, scores, an honest temperature."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from abbe.adopt import adopt
from abbe.data.augment import AugmentConfig
from abbe.data.class_checks import Look, check_classes, look_at, of_test
from abbe.data.class_samples import ClassSamples
from abbe.data.classes import ClassFolder, Labelled, classes_of, divide, find_classes, join_duplicates, with_groups
from abbe.data.datasets import TrainingDataset
from abbe.data.normalize import Colours, Normalization
from abbe.data.squares import square
from abbe.errors import AbbeError
from abbe.learn_input import Coloured
from abbe.methods.backbones.classification import Classification, weights_of_classes
from abbe.metrics.classes import fit_temperature, scores
from abbe.model import Model, build_method, load_model
from abbe.tiling.prepare import Predictor
from abbe.train.recipe import Recipe
from abbe.train.settings import build_config
from abbe.weights.file import Description, is_model
from abbe.weights.load import load_strict
from abbe.weights.records import find_model

BATCH = 32
"""Pictures that are classified together."""
MANY = 2000
"""Images whose check takes long enough to be announced."""


@dataclass(frozen=True)
class ClassSource:
    """Images of classes in two parts, no group in both."""

    train: list[Labelled]
    validation: list[Labelled]
    classes: tuple[str, ...]
    """In the order of the network's logits."""


def find_class_source(recipe: Recipe, known: Sequence[str] | None, tell: Callable[[str], None]) -> ClassSource:
    """Find the images of all folders, check them, and divide them as the recipe says.

    Parameters
    ----------
    recipe
        Its ``data`` names folders, groups and folds.
    known
        Classes of the model that training starts from; their order is kept where the folders have the same.
    tell
        Gets a line for everything odd.

    Raises
    ------
    AbbeError
        When there are no images, or they cannot be learnt from; the sentence names the first reason.
    """
    if not recipe.data.paths:
        raise AbbeError(f"recipe {recipe.name}: names no data; say where the folders of classes are with --data FOLDER")
    folders = [_found(Path(path), alone=len(recipe.data.paths) == 1) for path in recipe.data.paths]
    images = with_groups([one for folder in folders for one in folder if one.split != "test"], recipe.data.groups)
    test = [one for folder in folders for one in folder if one.split == "test"]
    if len(images) + len(test) > MANY:
        tell(f"reading {len(images) + len(test):,} images once, to check them")
    look, look_test = (look_at(some, recipe.data.in_channels) for some in (images, test))
    train, validation = _parts(images, look, recipe)
    checked = check_classes(train, validation, look.digests | look_test.digests, folders, test)
    findings = sorted([*look.findings, *of_test(look_test), *checked], key=lambda finding: finding.level)
    for finding in findings:
        tell(f"{finding.level}: {finding.text}")
    errors = [finding.text for finding in findings if finding.level == "error"]
    if errors:
        many = f"{len(errors)} errors in the data, the first: " if len(errors) > 1 else ""
        raise AbbeError(f"{recipe.data.paths[0]}: {many}{errors[0]}")
    classes = _ordered(recipe, classes_of(train), known)
    counts = Counter(one.kind for one in train)
    tell(f"classes: {', '.join(f'{name} ({counts[name]})' for name in classes)}")
    return ClassSource(train, validation, classes)


def _found(path: Path, alone: bool) -> ClassFolder:
    """Find the images of a folder; of several folders the names begin with the folder's own."""
    folder = find_classes(path)
    if alone:
        return folder
    named = [dataclasses.replace(one, name=f"{path}/{one.name}", group=f"{path}/{one.group}") for one in folder]
    return ClassFolder(named, folder.empty, folder.loose)


def _parts(images: list[Labelled], look: Look, recipe: Recipe) -> tuple[list[Labelled], list[Labelled]]:
    """Keep the splits of the folders, or make some in which equal images are together."""
    data = recipe.data
    validation = [one for one in images if one.split == "val"]
    if validation and not data.folds:
        return [one for one in images if one.split != "val"], validation
    together = join_duplicates(images, look.digests)
    return divide(together, data.validation_fraction, data.folds, data.fold, recipe.train.seed)


def _ordered(recipe: Recipe, found: tuple[str, ...], known: Sequence[str] | None) -> tuple[str, ...]:
    """Choose the order of the classes; a list of the recipe's own must name those of the folders."""
    wanted = recipe.options.get("classes")
    if wanted and set(wanted) != set(found):
        raise AbbeError(
            f"recipe {recipe.name}: options.classes is {', '.join(wanted)}, but the folders are {', '.join(found)}; "
            "rename one or the other"
        )
    for order in (wanted, known):
        if order and set(order) == set(found):
            return tuple(order)
    return found


def settle_options(recipe: Recipe, source: ClassSource) -> None:
    """Write into the recipe what the data decides: classes, their weights, and the size of the pictures."""
    options = recipe.options
    options["classes"] = list(source.classes)
    options.setdefault("size", recipe.train.crop_extents(2)[0])
    if len(set(recipe.train.crop_extents(2))) > 1 or options["size"] != recipe.train.crop_extents(2)[0]:
        raise AbbeError(f"train.crop is {recipe.train.crop}; expected one side, the square that the classifier takes")
    balance = float(options.get("balance", 0))
    if balance and not options.get("class_weights"):
        counts = Counter(one.kind for one in source.train)
        options["class_weights"] = list(weights_of_classes([counts[name] for name in source.classes], balance))


def refuse_size(recipe: Recipe, description: Description) -> None:
    """Try the network on a picture of the recipe's size, without computing anything.

    Raises
    ------
    AbbeError
        When it takes no pictures of that size.
    """
    side, channels = description.options["size"], description.config["in_channels"]
    with torch.device("meta"), torch.inference_mode():
        method = build_method(description).eval()
        try:
            method(torch.zeros(1, channels, side, side))
        except (ValueError, RuntimeError) as error:
            raise AbbeError(
                f"recipe {recipe.name}: {recipe.method} takes no pictures of {side} px ({error}); choose another side "
                "with --train.crop"
            ) from error


def opened_start(name: str | None) -> Model | None:
    """Load the model that training starts from; None where there is none, or where others published its weights."""
    if not name:
        return None
    try:
        path = find_model(name)
    except AbbeError:
        return None  # adopting it will tell where it was looked for
    return load_model(path) if is_model(path) else None


def start_from(method: Classification, recipe: Recipe, config: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Take the weights of another classifier, or published ones; the last layer too, if it has the same classes."""
    name, start = str(recipe.start_from), opened_start(recipe.start_from)
    if start is None:
        adopted = adopt(recipe.method, name, config)
        load_strict(method.network, adopted.network.state_dict(), name)
        return
    theirs: Any = start.method
    if not isinstance(theirs, Classification):
        raise AbbeError(f"{name}: is no classifier, so a training of classes cannot start from it")
    tensors = theirs.state_dict()
    if theirs.options.classes != method.options.classes:
        head = head_of(method.network, method.options.num_classes)
        known = theirs.options.num_classes or start.description.config.get("num_classes", 0)
        tell(
            f"{name} has {known} classes, the folders {method.options.num_classes} others or in another order; its "
            "last layer begins anew"
        )
        own = method.state_dict()
        tensors |= {key: own[key] for key in own if key.startswith(f"network.{head}.")}
    load_strict(method, tensors, name)


def head_of(network: nn.Module, classes: int) -> str:
    """Name the last layer that gives so many numbers."""
    names = [name for name, layer in network.named_modules() if _gives(layer, classes)]
    if not names:
        raise AbbeError(f"{type(network).__name__}: no layer gives {classes} logits")
    return names[-1]


def _gives(layer: nn.Module, classes: int) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim > 1 and weight.shape[0] == classes


def class_samples(recipe: Recipe, method: Classification, images: Sequence[Labelled]) -> ClassSamples:
    """Give the images as the network is to see them."""
    options = method.options
    normalization = build_config(Normalization, recipe.data.normalization, f"{recipe.name}: data.normalization")
    channels = recipe.data.in_channels
    return ClassSamples(images, options.classes, normalization.normalize, channels, options.size, options.fit)


def class_training_data(
    recipe: Recipe, method: Classification, source: ClassSource, colours: Colours
) -> TrainingDataset:
    """Augmented pictures, drawn by the balance of the recipe."""
    samples = class_samples(recipe, method, source.train)
    counts = np.bincount(samples.targets, minlength=len(source.classes))
    steps = recipe.train.steps_per_epoch or max(len(samples) // recipe.train.batch_size, 1)
    return TrainingDataset(
        samples,
        Coloured(method.prepare, colours),
        build_config(AugmentConfig, recipe.data.augment, f"{recipe.name}: data.augment"),
        (method.options.size,) * 2,
        steps * recipe.train.batch_size,
        recipe.train.seed,
        (counts[samples.targets] ** -recipe.data.class_balance).tolist() if recipe.data.class_balance else None,
    )


@dataclass(frozen=True)
class ClassValidation:
    """Scores of a method on images that it does not train on."""

    samples: ClassSamples
    colours: Colours

    def __call__(self, method: Classification) -> dict[str, float]:
        """Measure top-1 and balanced accuracy, calibration error and likelihood."""
        return scores(self._outputs(method, "probability"), self.samples.targets)

    def calibrate(self, method: Classification) -> float:
        """Fit the temperature, which the method has from now on."""
        temperature = round(fit_temperature(self._outputs(method, "logit"), self.samples.targets), 4)
        method.options = dataclasses.replace(method.options, temperature=temperature)
        return temperature

    def _outputs(self, method: Classification, name: str) -> np.ndarray:
        predictor = Predictor(method, backend="torch")
        return np.concatenate([predictor(windows)[name] for windows in self._windows()])

    def _windows(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self.samples), BATCH):
            places = range(first, min(first + BATCH, len(self.samples)))
            size = self.samples.size
            yield np.stack([self.colours.apply(square(self.samples[place].image, size, "crop")) for place in places])


def finish(method: Classification, validation: ClassValidation, description: Description) -> dict[str, float]:
    """Calibrate the trained method, say so in its description, and measure it."""
    before = validation(method)["calibration_error"]
    description.options["temperature"] = validation.calibrate(method)
    return validation(method) | {"calibration_error_before": before}
