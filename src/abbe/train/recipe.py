"""Recipes: one TOML file holds all that a training needs; it opens with its command, cost and result.

::

    # Nuclei in fluorescence, stained tissue and cytology
    # command: abbe train nuclei --data dsb2018
    # cost: one hour on two cores
    # result: AP@0.5 0.89 on the fluorescence test split

    name = "nuclei"
    method = "unet_residual"
    ...
    [train]
    epochs = 60
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from abbe.errors import AbbeError
from abbe.train.settings import build_config, literal, nearest, to_toml

_COMMENTS = ("title", "command", "cost", "result")
_FREE = (["normalization"], ["augment"], ["sums"])
_LEAST = {"batch_size": 1, "epochs": 1, "validate_every": 1, "devices": 1, "nodes": 1, "crop": 1} | dict.fromkeys(
    (
        "steps",
        "minutes",
        "steps_per_epoch",
        "warmup_steps",
        "workers",
        "patience",
        "learning_rate",
        "gradient_clip",
        "seed",
    ),
    0,
)


@dataclass
class TrainConfig:
    """How to train: length, optimizer, schedule, averaging, precision, validation and devices."""

    seed: int = 0
    """Seed of everything random: order, crops, augmentation, noise, dropout."""
    epochs: int = 50
    """How many epochs to train."""
    steps: int = 0
    """How many optimizer steps to train; 0: ``epochs`` decides."""
    minutes: float = 0.0
    """Longest time to train; the schedule follows the clock then, and no two runs are equal; 0: any."""
    steps_per_epoch: int = 0
    """Optimizer steps between two epoch ends; 0: as many as there are batches in the training set."""
    batch_size: int = 8
    """Samples per step, over all devices together; they share them equally."""
    crop: int | tuple[int, ...] = 256
    """Crops that the network sees, in pixels: their side, or their extents along (Z,) Y and X."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW (no decay of norms and biases), Adam, or SGD with momentum."""
    learning_rate: float = 1e-3
    """Highest learning rate of the schedule."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (adamw) or L2 penalty (adam, sgd)."""
    momentum: float = 0.9
    """Momentum of sgd; first beta of adam and adamw."""
    second_beta: float = 0.999
    """Second beta of adam and adamw."""
    frozen_norms: bool = False
    """Batch norms keep the means and deviations they have, as when a training with other or smaller batches ends."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block of the network to the one before it, head to input; 1: one rate."""
    warmup_steps: int = 0
    """Steps during which the learning rate rises linearly to its highest value."""
    schedule: Literal["cosine", "constant", "inverse_root", "plateau"] = "cosine"
    """Course of the learning rate after the warm-up: half a cosine down to zero, constant, as 1 / √step, or halved
    after ten validations without a better score."""
    gradient_clip: float = 1.0
    """Largest L2 norm of the gradient of all parameters together; 0: unlimited."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0: no average."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto: bfloat16 where the processor computes it natively."""
    workers: int = 0
    """Processes that prepare samples; 0: in the training process."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: int = 0
    """Stop after so many validations without a better score; 0: never."""
    checkpoint_seconds: float = 300.0
    """Save within an epoch when the last save is older; the end of every epoch is always saved."""
    deterministic: bool = False
    """Allow deterministic operations only, also on a GPU; slower there."""
    accelerator: str = "auto"
    """Device kind: auto, cpu, cuda or mps."""
    devices: int = 1
    """Devices of each machine to train on together."""
    nodes: int = 1
    """Machines to train on together."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """What each device holds: ddp, the whole model; fsdp, a part of weights, gradients and averages; auto: ddp."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (min(value, default=0) if isinstance(value, tuple) else value) >= least:  # NaN is neither
                raise AbbeError(f"train.{name}: expected at least {least}, found {value}")
        if not 0 <= self.ema_decay < 1:
            raise AbbeError(f"train.ema_decay: expected 0 (off) or a decay below 1, found {self.ema_decay}")
        if not 0 <= self.second_beta < 1:
            raise AbbeError(f"train.second_beta: expected 0 or above and below 1, found {self.second_beta}")
        if not 0 < self.layer_decay <= 1:
            raise AbbeError(f"train.layer_decay: expected above 0 and at most 1 (off), found {self.layer_decay}")
        if self.minutes and self.processes > 1:  # each would follow a clock of its own
            raise AbbeError("train.minutes: several devices cannot end by the clock; choose train.steps")
        if self.batch_size % self.processes:
            enough = math.ceil(self.batch_size / self.processes) * self.processes
            raise AbbeError(
                f"train.batch_size: {self.batch_size} samples cannot be shared equally by {self.processes} devices;"
                f" choose a multiple of {self.processes}, such as {enough}"
            )

    @property
    def processes(self) -> int:
        """Devices of all machines, each with a process of its own."""
        return self.devices * self.nodes

    def crop_extents(self, axes: int) -> tuple[int, ...]:
        """Give the extents of crops for a network of so many spatial axes."""
        extents = self.crop if isinstance(self.crop, tuple) else (self.crop,) * axes
        if len(extents) != axes:
            raise AbbeError(f"train.crop: {len(extents)} extents {extents}, but the network has {axes} spatial axes")
        return extents


@dataclass
class DataConfig:
    """What to train on, and how images become the network's input."""

    paths: list[str] = field(default_factory=list)
    """Folders with annotated images."""
    simulated: dict[str, int] = field(default_factory=dict)
    """What to simulate: how many for ``train`` and ``val``, and their ``seed``. Stacks of nuclei where objects are
    learnt and no folder is given; scenes that join the images of the folders where restoration is."""
    sums: dict[str, Any] = field(default_factory=dict)
    """Sums of whole numbers that a translation learns, by the names of their own configuration."""
    weights: list[float] = field(default_factory=list)
    """How often samples come from each folder, and behind them from simulated scenes, relative to the others; empty: by
    the number of images."""
    validation_fraction: float = 0.15
    """Part of the images to set aside for validation where the data has no such split."""
    folds: int = 0
    """Of images in class folders: divide into so many parts, and validate on one, whatever splits there are; 0: no."""
    fold: int = 0
    """Which of the folds to validate on, from 0."""
    groups: str = ""
    """Of images in class folders: which belong together, never to be divided. A CSV file with the columns image and
    group, or what separates the group from the rest of a file's name; empty: none do."""
    class_balance: float = 0.0
    """How often images are drawn, as a power of one over the number in their class: 1: all classes alike."""
    sources: list[str] = field(default_factory=list)
    """What the data is and under which licence, for the model's card."""
    in_channels: int = 1
    """Channels that the network takes."""
    depth: Literal["z", "time"] = "z"
    """Of noisy images: what a network of stacks takes as its third axis, the planes of a stack or the times of a
    series; the model keeps it."""
    normalization: dict[str, Any] = field(default_factory=dict)
    """Settings of the normalisation of intensities, by the names of its own configuration."""
    augment: dict[str, Any] = field(default_factory=dict)
    """Settings of the augmentation, by the names of its own configuration."""


@dataclass
class Recipe:
    """Everything that makes a model: the method, its objective, the data and the training."""

    name: str = ""
    """What the model will be called."""
    method: str = ""
    """Catalog name of the network."""
    objective: str | None = None
    """What wraps the network and defines its loss, where a topic has several."""
    network: dict[str, Any] = field(default_factory=dict)
    """Settings of the network that differ from its variant."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the objective."""
    start_from: str | None = None
    """Model name or file whose weights to begin with."""
    diameter: tuple[float, float] | None = None
    """Range of object diameters, in pixels, that the trained model will know."""
    pixel_size: tuple[float, ...] | None = None
    """µm per pixel along (Z,) Y and X to which images are brought, in training and in use; None: as they come."""
    licence: str = ""
    """Licence of the weights that come out."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to train on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
    title: str = ""
    """First comment line: what the recipe makes."""
    command: str = ""
    """Comment line: the command that runs it."""
    cost: str = ""
    """Comment line: time and hardware that it takes."""
    result: str = ""
    """Comment line: what it measured."""


@dataclass(frozen=True)
class RecipeSummary:
    """The first comment lines of a recipe."""

    name: str
    """Name to give to :func:`load_recipe`."""
    title: str
    """What it makes."""
    command: str
    """The command that runs it."""
    cost: str
    """Time and hardware."""
    result: str
    """What it measured."""


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe of the package by name, or any TOML file by path, and change single settings.

    Parameters
    ----------
    name_or_path
        ``"nuclei"`` or ``"my/recipe.toml"``.
    overrides
        Dotted keys and their values, which may be texts: ``{"train.learning_rate": "1e-3"}``.

    Raises
    ------
    AbbeError
        For an unknown recipe, a file that is not TOML, an unknown key (with the nearest right one), a value
        of the wrong type.
    """
    text, name, where = _recipe_text(name_or_path)
    return parse_recipe(text, overrides, name=name, where=where)


def parse_recipe(
    text: str, overrides: Mapping[str, Any] | None = None, *, name: str = "", where: str = "recipe"
) -> Recipe:
    """Build a recipe from TOML text; see :func:`load_recipe`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AbbeError(f"{where}: not a TOML file ({error})") from None
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return build_config(Recipe, {"name": name, **_comments(text), **values}, where)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as TOML that :func:`parse_recipe` reads back equal."""
    values = dataclasses.asdict(recipe)
    comments = {key: " ".join(values.pop(key).split()) for key in _COMMENTS}
    lines = [f"# {comments['title']}"] if comments["title"] else []
    lines += [f"# {key}: {comments[key]}" for key in _COMMENTS[1:] if comments[key]]
    return "\n".join([*lines, "", to_toml(values)]).lstrip("\n")


def list_recipes() -> list[RecipeSummary]:
    """Name the recipes in the package with their first comment lines, in alphabetical order."""
    files = sorted(_packaged().items())
    return [RecipeSummary(name, **_comments(file.read_text(encoding="utf-8"))) for name, file in files]


def _packaged() -> dict[str, Any]:
    folder = resources.files("abbe.recipes")
    return {file.name.removesuffix(".toml"): file for file in folder.iterdir() if file.name.endswith(".toml")}


def _recipe_text(name_or_path: str | Path) -> tuple[str, str, str]:
    """Return the text of a recipe, its name, and what to call it in messages."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path.stem, str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise AbbeError(f"{path}: cannot be read as a recipe ({error})") from None
    recipes = _packaged()
    if str(name_or_path) not in recipes:
        raise AbbeError(f"no recipe named {str(name_or_path)!r}; {nearest(str(name_or_path), recipes)}")
    return recipes[str(name_or_path)].read_text(encoding="utf-8"), str(name_or_path), str(name_or_path)


def _comments(text: str) -> dict[str, str]:
    """Read title, command, cost and result from the comment lines that open a file."""
    found = dict.fromkeys(_COMMENTS, "")
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        key, colon, rest = words.partition(":")
        if colon and key.strip().lower() in _COMMENTS[1:]:
            found[key.strip().lower()] = rest.strip()
        elif not found["title"]:
            found["title"] = words
    return found


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for the key ``"a.b"``; free mappings read a text as TOML would."""
    *path, last = key.split(".")
    table = values
    for name in path:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise AbbeError(f"{key}: {name!r} is a single value and has no settings of its own")
        table = inner
    free = path and (path[0] in ("network", "options") or (path[0] == "data" and path[1:2] in _FREE))
    table[last] = literal(value) if free and isinstance(value, str) else value
