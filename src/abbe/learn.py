"""From annotated images to a model, and from a model to honest numbers: recipes paired with data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from abbe import __version__
from abbe.data.augment import AugmentConfig
from abbe.data.checks import check_dataset
from abbe.data.datasets import Pair, PairDataset, Pairs, TrainingDataset, find_pairs, find_splits, split
from abbe.data.normalize import Normalization
from abbe.data.resample import resample
from abbe.data.sample import Sample
from abbe.data.select import Series
from abbe.data.volumes import varied_volumes, write_volumes
from abbe.errors import AbbeError
from abbe.evaluation import measure, read_truth
from abbe.learn_classes import (
    ClassValidation,
    class_samples,
    class_training_data,
    find_class_source,
    finish,
    opened_start,
    refuse_size,
    settle_options,
    start_from,
)
from abbe.learn_input import colours_of, settle_input
from abbe.learn_noisy import OBJECTIVES as NOISY
from abbe.learn_noisy import (
    axes_of,
    find_noisy_images,
    fit_crops,
    noisy_training_data,
    noisy_validation_data,
    recipe_objective,
    settle_noisy,
)
from abbe.learn_restoration import (
    RestorationValidation,
    check_damages,
    find_restoration_source,
    restoration_samples,
    restoration_training_data,
)
from abbe.learn_sequences import sequence_training_data, sequence_validation, settle_sequences, sums_of
from abbe.lesson import Lesson, Trained, teach
from abbe.methods.catalog import OBJECTIVES, module_of, variant
from abbe.model import build_method, load_model
from abbe.settings import SegmentSettings
from abbe.train.processes import Processes
from abbe.train.recipe import Recipe, dump_recipe, load_recipe
from abbe.train.settings import build_config
from abbe.weights.file import Description
from abbe.weights.load import load_strict

UNREADY = {"masked_tokens": "nothing makes or reads sequences for masked tokens"}
"""Objectives that no data can be found for, and why."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The annotated images of one folder, by split."""

    folder: Path
    train: list[Pair]
    validation: list[Pair]


def train_recipe(
    name: str | Path,
    data: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    tell: Callable[[str], None] = logger.info,
    progress: bool = True,
) -> Trained:
    """Train the method of a recipe on annotated images.

    Parameters
    ----------
    name
        A recipe's name or TOML file.
    data
        Folders; those of the recipe unless given.
    overrides
        Dotted keys of the recipe and their values.
    out
        The run folder, ``runs/<recipe>`` unless given.
    from_scratch
        Random weights, whatever the recipe starts from.
    resume
        Go on with the run that is in ``out``.
    tell
        Gets a line for everything worth knowing before the training begins, in the process that leads.
    progress
        Show progress on standard error.

    Raises
    ------
    AbbeError
        When recipe or data are unusable; the sentence says what and where.
    """
    recipe = load_recipe(name, overrides)
    if not Processes(recipe.train).leads:
        tell = logger.debug
    if data:
        recipe.data.paths = [str(path) for path in data]
        sources = len(data) + bool(recipe.data.simulated)
        theirs = len(recipe.data.weights) == sources or "data.weights" in (overrides or {})
        recipe.data.weights = recipe.data.weights if theirs else []  # those of the recipe's own folders
    if from_scratch:
        recipe.start_from = None
    run = Path(out or Path("runs") / recipe.name)
    lesson = _lesson(recipe, run, tell)
    tell(lesson.plan)
    return teach(lesson, recipe, run, resume=resume, progress=progress)


def _lesson(recipe: Recipe, run: Path, tell: Callable[[str], None]) -> Lesson:
    """Prepare what the objective of a recipe asks for."""
    objective = recipe_objective(recipe)
    if objective in UNREADY:
        raise AbbeError(f"recipe {recipe.name}: {UNREADY[objective]}; train it from Python with abbe.train.fit.fit")
    if objective == "translation":
        return _sequence_lesson(recipe, tell)
    if objective == "restoration":
        return restoration_lesson(recipe, tell)
    if objective in NOISY:
        return noisy_lesson(recipe, find_noisy_images(recipe), tell)
    return _class_lesson(recipe, tell) if objective == "classification" else _object_lesson(recipe, run, tell)


def _object_lesson(recipe: Recipe, run: Path, tell: Callable[[str], None]) -> Lesson:
    """Prepare a training on images with labelled objects."""
    settle_input(recipe, tell)
    description = describe(recipe)
    method = starting_method(recipe, description, tell)
    dimensions = len(method.geometry.multiple)
    description.axes = "CYX" if dimensions == 2 else "CZYX"
    sources = find_sources(recipe, simulate(recipe, run, tell))
    report_findings(sources, tell, volume=dimensions == 3)
    training_set = training_data(recipe, method, sources)
    validation = [pair for source in sources for pair in source.validation]
    fast = SegmentSettings(backend="torch")
    truth = [read_truth(pair, dimensions) for pair in validation]
    score = partial(measure, description=description, pairs=validation, truth=truth, settings=fast)
    return Lesson(
        method,
        description,
        training_set,
        _counted(sum(len(source.train) for source in sources), len(validation)),
        score if validation else None,
        partial(score, method) if validation else None,
        "segment",
    )


def _class_lesson(recipe: Recipe, tell: Callable[[str], None]) -> Lesson:
    """Prepare a training on images in folders of classes."""
    colours = settle_input(recipe, tell)
    source = find_class_source(recipe, _known_classes(recipe), tell)
    settle_options(recipe, source)
    description = describe(recipe)
    description.colours = colours
    refuse_size(recipe, description)
    method = starting_method(recipe, description, tell)
    training_set = class_training_data(recipe, method, source, colours_of(description))
    validation = None
    if source.validation:
        validation = ClassValidation(class_samples(recipe, method, source.validation), colours_of(description))
    return Lesson(
        method,
        description,
        training_set,
        _counted(len(source.train), len(source.validation)),
        validation,
        partial(finish, method, validation, description) if validation else None,
        "classify",
    )


def _sequence_lesson(recipe: Recipe, tell: Callable[[str], None]) -> Lesson:
    """Prepare a training on sums that are made."""
    sums = sums_of(recipe)
    settle_sequences(recipe, sums)
    description = describe(recipe)
    description.axes = "N"
    method = starting_method(recipe, description, tell)
    validation = sequence_validation(sums)
    plan = f"training on sums of up to {sums.digits} digits, validating on {sums.validated} that are held out"
    data = sequence_training_data(recipe, method, sums)
    return Lesson(method, description, data, plan, validation, partial(validation, method), "translate")


def restoration_lesson(recipe: Recipe, tell: Callable[[str], None]) -> Lesson:
    """Prepare a training on good images, or on pairs of a bad and a good one."""
    source = find_restoration_source(recipe, tell)
    description = describe(recipe)
    if not source.worsened and not source.noisy:
        description.options["kinds"] = ()  # nobody knows what was done to them
    method = starting_method(recipe, description, tell)
    training_set = restoration_training_data(recipe, method, source)
    check_damages(method, restoration_samples(recipe, method, source.train))
    validation = None
    if source.validation:
        validation = RestorationValidation(restoration_samples(recipe, method, source.validation), recipe.train.seed)
    return Lesson(
        method,
        description,
        training_set,
        _counted(len(source.train), len(source.validation)),
        validation,
        partial(validation, method) if validation else None,
        "restore",
    )


def noisy_lesson(recipe: Recipe, images: Sequence[Series], tell: Callable[[str], None]) -> Lesson:
    """Prepare a training on noisy images alone, which may be those that are to be restored."""
    if axes_of(recipe) == 3 and all(series[0].extents[0] == 1 and "T" in series.axes for series in images):
        tell("warning: series of planes, seen one by one; --data.depth time gives their times as the third axis")
    pieces = settle_noisy(recipe, images, tell)
    description = describe(recipe)
    method = starting_method(recipe, description, tell)
    pieces = fit_crops(recipe, method, pieces, tell)
    description.axes = {2: "CYX", 3: "CTYX" if recipe.data.depth == "time" else "CZYX"}[len(method.geometry.multiple)]
    counts = (len(pieces.train), "piece"), (sum(map(len, images)), "frame"), (len(images), "image")
    plan = "learning from " + " of ".join(_number(*count) for count in counts)
    return Lesson(
        method,
        description,
        noisy_training_data(recipe, method, pieces),
        plan,
        None,
        None,
        "restore",
        noisy_validation_data(recipe, method, pieces),
    )


def _counted(train: int, validation: int) -> str:
    return f"training on {_number(train, 'image')}, validating on {validation}"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _known_classes(recipe: Recipe) -> tuple[str, ...] | None:
    """Name the classes of the model that training starts from."""
    start = opened_start(recipe.start_from)
    return None if start is None else getattr(getattr(start.method, "options", None), "classes", None)


def simulate(recipe: Recipe, run: Path, tell: Callable[[str], None]) -> list[str]:
    """Make the stacks that a recipe without folders trains on, in the run's folder where they are not there yet.

    Gives the folders to train on: those of the recipe, or the one that was made.
    """
    wanted = recipe.data.simulated
    if recipe.data.paths or not wanted:
        return recipe.data.paths
    unknown = wanted.keys() - {"train", "val", "seed"}
    if unknown or not wanted.get("train"):
        raise AbbeError(f"recipe {recipe.name}: data.simulated is {wanted}; expected numbers for train, val and seed")
    folder = run / "simulated"
    for place, name in enumerate(("train", "val")):
        if not (folder / name).is_dir():
            tell(f"simulating {wanted.get(name, 0)} stacks of nuclei in {folder / name}")
            write_volumes(folder / name, varied_volumes(wanted.get(name, 0), 2 * wanted.get("seed", 0) + place))
    return [str(folder)]


def find_sources(recipe: Recipe, folders: Sequence[str] | None = None) -> list[Source]:
    """Find the images of each folder, the recipe's own unless given, in their splits or else in stable ones by name."""
    folders = recipe.data.paths if folders is None else folders
    if not folders:
        raise AbbeError(f"recipe {recipe.name}: names no data; say where the annotated images are with --data FOLDER")
    _check_weights(recipe)
    return [_find_source(Path(path), recipe) for path in folders]


def _check_weights(recipe: Recipe) -> None:
    weights, folders = recipe.data.weights, len(recipe.data.paths)
    if weights and (len(weights) != folders or min(weights) < 0 or max(weights) == 0):
        raise AbbeError(
            f"recipe {recipe.name}: data.weights is {weights} for {folders} folder{'s' * (folders > 1)}; expected one "
            "number for each, none below 0 and one above, or an empty list for equal shares"
        )


def _find_source(folder: Path, recipe: Recipe) -> Source:
    if not folder.is_dir():
        raise AbbeError(f"{folder}: no such folder; --data takes a folder with images and their labels")
    splits = find_splits(folder)
    if "train" in splits and "val" in splits:
        return Source(folder, find_pairs(splits["train"]), find_pairs(splits["val"]))
    pairs: Sequence[Pair] = find_pairs(splits.get("train", folder))
    share = recipe.data.validation_fraction
    if len(pairs) < 2 or share == 0:
        return Source(folder, list(pairs), [])
    train, validation = split(pairs, [1 - share, share], recipe.train.seed)
    return Source(folder, train, validation)


def report_findings(sources: Sequence[Source], tell: Callable[[str], None], volume: bool = False) -> None:
    """Check the data before hours are spent on it; an error ends it, a warning is told."""
    pairs = Pairs([pair for source in sources for pair in (*source.train, *source.validation)])
    findings = check_dataset(pairs, volume=volume)
    for finding in findings:
        tell(f"{finding.level}: {finding.text}")
    errors = [finding.text for finding in findings if finding.level == "error"]
    if errors:
        raise AbbeError(f"{sources[0].folder}: {len(errors)} errors in the data, the first: {errors[0]}")


def describe(recipe: Recipe) -> Description:
    """Describe the model that a recipe will make."""
    objective = recipe_objective(recipe)
    options = build_config(_options_type(objective), recipe.options, f"{recipe.name}: options")
    ends = {"in_channels": recipe.data.in_channels}
    ends |= {name: getattr(options, name) for name in ("out_channels", "num_classes") if hasattr(options, name)}
    published = dataclasses.asdict(variant(recipe.method))
    base = published | {name: value for name, value in ends.items() if name in published}
    config = build_config(type(variant(recipe.method)), base | recipe.network, f"{recipe.name}: network")
    normalization = build_config(Normalization, recipe.data.normalization, f"{recipe.name}: data.normalization")
    return Description(
        name=recipe.name,
        network=recipe.method,
        config=dataclasses.asdict(config),
        objective=objective,
        options=dataclasses.asdict(options),
        normalization=dataclasses.asdict(normalization),
        diameter=recipe.diameter,
        pixel_size=recipe.pixel_size,
        recipe=dump_recipe(recipe),
        data=list(recipe.data.sources),
        licence=recipe.licence,
        abbe=__version__,
    )


def _options_type(objective: str) -> Any:
    found = OBJECTIVES.get(objective)
    if found is None:
        raise AbbeError(f"no objective is called {objective!r}; there are {', '.join(OBJECTIVES)}")
    return getattr(module_of(found.file), found.config)


def starting_method(recipe: Recipe, description: Description, tell: Callable[[str], None] = logger.info) -> Any:
    """Build the method, with the weights that the recipe starts from or random ones of its seed."""
    import torch

    torch.manual_seed(recipe.train.seed)
    method = build_method(description)
    if recipe.start_from:
        if recipe_objective(recipe) == "classification":
            start_from(method, recipe, description.config, tell)
            return method
        start = load_model(recipe.start_from)
        load_strict(method, start.method.state_dict(), f"{recipe.start_from} for recipe {recipe.name}")  # type: ignore[attr-defined]
    return method


def training_data(recipe: Recipe, method: Any, sources: Sequence[Source]) -> TrainingDataset:
    """Augmented crops of all sources, drawn by the weights of the recipe."""
    pairs = [pair for source in sources for pair in source.train]
    weights = None
    if recipe.data.weights:
        shares = np.array(recipe.data.weights) / np.array([max(len(source.train), 1) for source in sources])
        weights = np.repeat(shares, [len(source.train) for source in sources]).tolist()
    normalization = build_config(Normalization, recipe.data.normalization, f"{recipe.name}: data.normalization")
    axes, resampled = len(method.geometry.multiple), recipe.pixel_size is not None
    volume, channels = axes == 3, recipe.data.in_channels
    samples: Any = PairDataset(pairs, normalization.normalize, channels, volume=volume, cache=not resampled)
    if recipe.pixel_size is not None:
        samples = Resampled(samples, recipe.pixel_size)
    steps = recipe.train.steps_per_epoch or max(len(pairs) // recipe.train.batch_size, 1)
    return TrainingDataset(
        samples,
        method.prepare,
        build_config(AugmentConfig, recipe.data.augment, f"{recipe.name}: data.augment"),
        recipe.train.crop_extents(axes),
        steps * recipe.train.batch_size,
        recipe.train.seed,
        weights,
    )


class Resampled:
    """Samples brought to the pixel size that a model works at, and kept."""

    def __init__(self, samples: PairDataset, pixel_size: tuple[float, ...]):
        self.samples, self.pixel_size = samples, pixel_size
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = resample(self.samples[index], self.pixel_size)
        return self._kept[index]
