"""How images come to a network that is trained on from another one: as that one saw them, unless the recipe differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abbe.adopt import body_shapes
from abbe.conversion import tell_input
from abbe.data.datasets import Prepare
from abbe.data.normalize import Colours, Normalization
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.catalog import entry, published, tables_of
from abbe.train.recipe import Recipe
from abbe.train.settings import build_config
from abbe.weights.file import Description, is_model, read_description
from abbe.weights.published import find_record
from abbe.weights.records import find_model

SHAPES = {"percentile": ("low", "high")}
"""Settings of a normalisation that matter to some kinds only."""


def settle_input(recipe: Recipe, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write into a recipe how the model that it starts from saw images, where the recipe does not say.

    Parameters
    ----------
    recipe
        Its ``data.normalization`` is filled in where it is empty.
    tell
        Gets a line that says what is taken over, or that the recipe differs.

    Returns
    -------
    dict
        Mean and deviation of each channel that the start's publisher used, for the new model's description; empty
        where there are none, or the recipe brings grey values to other ranges.

    Raises
    ------
    AbbeError
        When the start is of another network or takes other channels.
    """
    start = described_start(recipe)
    if start is None or not start.normalization:
        return {}
    theirs = build_config(Normalization, start.normalization, f"{recipe.start_from}: normalization")
    told = f"{theirs.kind}{_of_channels(start.colours)}"
    if recipe.data.normalization:
        own = build_config(Normalization, recipe.data.normalization, f"{recipe.name}: data.normalization")
        if _effect(own) != _effect(theirs):
            tell(
                f"warning: {recipe.start_from} saw grey values scaled by {told}, but the recipe's data.normalization "
                f"is {own.kind}; without that setting the training would take over the former"
            )
            return {}
    else:
        recipe.data.normalization = dict(start.normalization)
        tell(f"grey values are scaled as for {recipe.start_from}: {told}")
    return {name: start.colours[name] for name in ("mean", "std") if name in start.colours}


def described_start(recipe: Recipe) -> Description | None:
    """Read what the start of a recipe says of itself, or what is known of a published file; None where nothing is."""
    name = recipe.start_from
    if not name:
        return None
    path = _file_of(name)
    if path is not None and is_model(path):
        return _checked(read_description(path), recipe)
    record = find_record(name, published(), recipe.method)
    if record is None:
        return None
    description = Description(name, recipe.method, {"in_channels": recipe.data.in_channels})
    tell_input(description, record)
    return description


def _file_of(name: str) -> Path | None:
    try:
        return find_model(name)
    except AbbeError:
        return None  # adopting it will tell where it was looked for


def _checked(start: Description, recipe: Recipe) -> Description:
    """Refuse a start of another network or of other channels, for its weights would not fit."""
    channels = start.config.get("in_channels", recipe.data.in_channels)
    if start.network != recipe.method and not _alike(start.network, recipe.method):
        raise AbbeError(
            f"{recipe.start_from}: a {start.network!r}, but recipe {recipe.name} trains a {recipe.method!r}; choose "
            f"another start with --start_from, or --method {start.network}"
        )
    if channels != recipe.data.in_channels:
        raise AbbeError(
            f"{recipe.start_from}: takes {channels} channels, but recipe {recipe.name} gives "
            f"{recipe.data.in_channels}; --data.in_channels {channels} gives as many, or `abbe convert --in-channels` "
            "makes the start fit"
        )
    return start


def _alike(one: str, other: str) -> bool:
    """Tell whether two networks have the same tensors, such as ResNets that differ in where the stride is."""
    file = entry(one).file
    if file != entry(other).file or tables_of(file) is None:
        return False
    return body_shapes(one) == body_shapes(other)


def _effect(normalization: Normalization) -> tuple[Any, ...]:
    """Tell normalisations apart by what they do."""
    matters = ("kind", *SHAPES.get(normalization.kind, ()), *(["joint"] if normalization.kind != "none" else []))
    return tuple(getattr(normalization, name) for name in matters)


def _of_channels(colours: dict[str, Any]) -> str:
    if not colours.get("mean"):
        return ""
    mean, std = (", ".join(f"{value:g}" for value in colours[name]) for name in ("mean", "std"))
    return f", then less {mean} and over {std} per channel"


def colours_of(description: Description) -> Colours:
    """Take mean and deviation of each channel from a description."""
    return Colours(*(tuple(description.colours.get(name, ())) for name in ("mean", "std")))


@dataclasses.dataclass(frozen=True)
class Coloured:
    """A method's ``prepare`` behind mean and deviation, which come after all changes of the grey values."""

    prepare: Prepare
    colours: Colours

    def __call__(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Prepare a sample."""
        return self.prepare(dataclasses.replace(sample, image=self.colours.apply(sample.image)), generator)
