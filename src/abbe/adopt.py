"""Weights from a file into a network of the catalog, whoever published them and under whatever names."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from abbe.errors import AbbeError
from abbe.methods.catalog import ENTRIES, entry, module_of, published, tables_of, variant
from abbe.train.settings import build_config
from abbe.weights.file import Description, is_model, read_model
from abbe.weights.foreign import read_foreign
from abbe.weights.load import load_strict
from abbe.weights.published import Published, check_hash, find_record, find_weights
from abbe.weights.rename import Layout, Tensors, recognise

COUNTER = "num_batches_tracked"
"""Of a batch normalisation: how often it was trained. Some publish it, some do not, and nothing depends on it."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """A network with weights from a file."""

    network: Any
    """In training mode, on the CPU."""
    config: Any
    """Of the network, a dataclass."""
    path: Path
    """Of the file."""
    record: Published | None
    """What is known of the file; None where nobody told of it."""
    untrained: bool = False
    """Whether the last layer knows nothing, for it is random or zero."""
    told: Description | None = None
    """What a model of Abbe says of itself."""


def adopt(name: str, weights: str | Path, given: dict[str, Any]) -> Adopted:
    """Build a network and load a file of Abbe, or one in a layout that is known for it.

    Parameters
    ----------
    name
        Of the network in the catalog.
    weights
        A file, or the name of a published one in the folder of published files.
    given
        Fields of the network's config. With ``in_channels`` the filters of the first layer are made to fit; with
        ``num_classes`` a last layer of other classes stays random, and a warning says so.

    Raises
    ------
    AbbeError
        When there is no such file, it is not whole, would run code, or is not of this network.
    """
    known, records = entry(name), published()
    path = find_weights(weights, records, name)
    record = find_record(path, records, name)
    if record is not None and record.sha256:
        check_hash(path, record)
    known_fields, description = dict(record.config) if record else {}, None
    if is_model(path):
        tensors, description = _of_abbe(path)
        known_fields = description.config if description.network == name else {}
    else:
        tensors = _of_others(path, name, known_fields | given)
    config = _config(name, known_fields | given)
    network = module_of(known.file).build(config)
    fresh = _load(network, tensors, name, given, path)
    return Adopted(network, config, path, record, fresh or _is_zero(network, name), description)


def _config(name: str, fields: Mapping[str, Any]) -> Any:
    base = variant(name)
    return build_config(type(base), dataclasses.asdict(base) | dict(fields), f"create({name!r})")


def _of_abbe(path: Path) -> tuple[Tensors, Description]:
    """Read the network of a model of Abbe."""
    tensors, description = read_model(path)
    return {key.removeprefix("network."): tensor for key, tensor in tensors.items()}, description


def _of_others(path: Path, name: str, fields: Mapping[str, Any]) -> Tensors:
    """Read a published file and rename its tensors."""
    tables = tables_of(entry(name).file)
    tensors = read_foreign(path)
    if tables is None:
        raise AbbeError(f"{path}: not a model of Abbe, and no published weights of {name!r} are known")
    layout = _layout(list(tensors), tables.LAYOUTS, name, path)
    return layout.to_ours(tensors, dataclasses.asdict(_config(name, fields)), str(path))


def _layout(keys: list[str], layouts: tuple[Layout, ...], name: str, path: Path) -> Layout:
    try:
        return recognise(keys, layouts, str(path))
    except AbbeError as error:
        for file in dict.fromkeys(known.file for known in ENTRIES.values()):
            tables = tables_of(file)
            if tables is not None and any(not layout.strange(keys) for layout in tables.LAYOUTS):
                others = [other for other, known in ENTRIES.items() if known.file == file]
                raise AbbeError(
                    f"{path}: weights of another network than {name!r}, for its names are those of {', '.join(others)}"
                ) from error
        raise


def _load(network: Any, tensors: Tensors, name: str, given: Mapping[str, Any], path: Path) -> bool:
    """Load tensors, fitted to what was given; tells whether the last layer has stayed random."""
    expected = network.state_dict()
    tables = tables_of(entry(name).file)
    fitted = dict(tensors) | {key: value for key, value in expected.items() if key.endswith(COUNTER)}
    fitted |= {key: value for key, value in tensors.items() if key.endswith(COUNTER)}
    if tables is not None and "in_channels" in given:
        for key in tables.STEM:
            if key in fitted and key in expected:
                fitted[key] = fit_channels(fitted[key], expected[key].shape[1])
        for key in _ending(tables):
            if key in fitted and key in expected:
                fitted[key] = fit_outputs(fitted[key], expected[key].shape[0])
    fresh = False
    if tables is not None and "num_classes" in given:
        fitted, fresh = _fit_classes(fitted, expected, tables.HEAD, path)
    try:
        load_strict(network, fitted, str(path))
    except AbbeError as error:
        told = _told_apart(name, tensors) if tables is not None else ""
        raise AbbeError(f"{path}: {told}" if told else str(error)) from error
    return fresh


def _is_zero(network: Any, name: str) -> bool:
    """Tell whether a last layer is all zeros, as that of some pre-trained weights is published."""
    tables = tables_of(entry(name).file)
    if tables is None:
        return False
    last = [tensor for key, tensor in network.state_dict().items() if key.startswith(tables.HEAD)]
    return bool(last) and not any(tensor.any() for tensor in last)


def fit_channels(filters: torch.Tensor, channels: int) -> torch.Tensor:
    """Make the filters (out, C, Y, X) of a first layer take another number of channels.

    For one channel they are summed, so that a grey image gives what it gave as colour; for others they are repeated in
    turn and scaled, so that the sum over channels keeps its size.
    """
    present = filters.shape[1]
    if channels == present:
        return filters
    if channels == 1:
        return filters.sum(1, keepdim=True)
    turns = torch.arange(channels) % present
    return filters[:, turns] * (present / channels)


def fit_colours(values: Sequence[float], channels: int) -> list[float]:
    """Give the mean or deviation of each channel where a first layer was made to take others: see `fit_channels`."""
    if channels == 1:
        return [sum(values) / len(values)]
    return [values[channel % len(values)] for channel in range(channels)]


def fit_outputs(filters: torch.Tensor, channels: int) -> torch.Tensor:
    """Make the filters (C, ...) of a last layer that gives an image give another number of channels.

    For one channel they are averaged, so that a grey image gives the mean of what it gave as colour; for others they
    are repeated in turn.
    """
    present = filters.shape[0]
    if channels == present:
        return filters
    return filters.mean(0, keepdim=True) if channels == 1 else filters[torch.arange(channels) % present]


def _ending(tables: Any) -> tuple[str, ...]:
    """Tensors whose first axis is the image's channels: where a table has them, an image comes out."""
    return getattr(tables, "ENDING", ())


def _fit_classes(tensors: Tensors, expected: Tensors, head: tuple[str, ...], path: Path) -> tuple[Tensors, bool]:
    """Leave the last layer random where it has other classes, and tell whether it is."""
    old = {key: tensor for key, tensor in tensors.items() if key.startswith(head)}
    new = {key: tensor for key, tensor in expected.items() if key.startswith(head)}
    if {key: tensor.shape for key, tensor in old.items()} == {key: tensor.shape for key, tensor in new.items()}:
        return tensors, False
    if new and old:
        classes = [next(iter(some.values())).shape[0] for some in (old, new)]
        logger.warning(
            "%s: tells %d classes apart, not %d; the last layer is random and has to be trained", path, *classes
        )
    return {key: tensor for key, tensor in tensors.items() if key not in old} | new, bool(new)


def _told_apart(name: str, tensors: Tensors) -> str:
    """Say of which network of the same paper the tensors are, or what to give so that they fit this one."""
    tables = tables_of(entry(name).file)
    shapes = _body(tensors, tables)
    for other in module_of(entry(name).file).VARIANTS:
        if body_shapes(other) != shapes:
            continue
        if other != name:
            return f"these are weights of {other!r}, not of {name!r}; give that name"
        channels = next((tensors[key].shape[1] for key in tables.STEM if key in tensors), None)
        if _ending(tables):
            return f"weights of {name!r}, but they have in_channels={channels}: give it"
        classes = next((tensor.shape[0] for key, tensor in tensors.items() if key.startswith(tables.HEAD)), 0)
        return f"weights of {name!r}, but they have in_channels={channels} and num_classes={classes}: give both"
    return ""


@cache
def body_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a network's tensors by name, but for those that depend on the image's channels or classes."""
    known = entry(name)
    with torch.device("meta"):
        network = module_of(known.file).build(variant(name))
    return _body(network.state_dict(), tables_of(known.file))


def _body(tensors: Tensors, tables: Any) -> dict[str, tuple[int, ...]]:
    """Give the shapes of all that depends neither on the image's channels nor on the classes."""
    return {
        key: tuple(tensor.shape)
        for key, tensor in tensors.items()
        if not key.startswith(tables.HEAD) and key not in (*tables.STEM, *_ending(tables)) and not key.endswith(COUNTER)
    }
