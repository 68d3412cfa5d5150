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
from abbe.weights.published import Published, check_hash, check_licence, find_record, find_weights
from abbe.weights.rename import Layout, Tensors, recognise

COUNTER = "num_batches_tracked"
"""Of a batch normalisation: how often it was trained. Some publish it, some do not, and nothing depends on it."""
LEAST = {"in_channels": 1, "out_channels": 1, "num_classes": 0}
"""Smallest numbers that a config can have."""
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


@dataclass(frozen=True)
class Content:
    """What a file of weights holds."""

    path: Path
    """Where it is."""
    tensors: Tensors
    """By our names in a model of Abbe, otherwise by those of the layout."""
    fields: Mapping[str, Any]
    """What is known of the network's config."""
    layout: Layout | None = None
    """How its publisher names the tensors; None for a model of Abbe."""
    description: Description | None = None
    """What a model of Abbe says of itself."""

    def called(self, name: str) -> str:
        """Call one of our tensors as the file does."""
        return name if self.layout is None else self.layout.called(name)


def adopt(name: str, weights: str | Path, given: dict[str, Any], *, accept_license: bool = False) -> Adopted:
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
    accept_license
        Also take weights whose licence forbids commercial use.

    Raises
    ------
    AbbeError
        When there is no such file, it is not whole, would run code, or is not of this network; when its licence has to
        be accepted first.
    """
    known, records = entry(name), published()
    path = find_weights(weights, records, name)
    record = find_record(path, records, name)
    if record is not None and not accept_license:
        check_licence(record)
    if record is not None and record.sha256:
        check_hash(path, record)
    content = _of_abbe(path, name) if is_model(path) else _of_others(path, name, record)
    config = config_of(name, {**content.fields, **given})
    network = module_of(known.file).build(config)
    fresh = _load(network, config, content, name, given)
    return Adopted(network, config, path, record, fresh or _is_zero(network, name), content.description)


def config_of(name: str, fields: Mapping[str, Any]) -> Any:
    """Build the config of a network from the fields that differ from the catalog's.

    Raises
    ------
    AbbeError
        When there is no such network or field, or no network can have such a number.
    """
    base = variant(name)
    config = build_config(type(base), dataclasses.asdict(base) | dict(fields), f"create({name!r})")
    for field, least in LEAST.items():
        if getattr(config, field, least) < least:
            raise AbbeError(f"create({name!r}): {field} is {getattr(config, field)}; expected {least} at least")
    return config


def _of_abbe(path: Path, name: str) -> Content:
    """Read the network of a model of Abbe."""
    tensors, description = read_model(path)
    fields = description.config if description.network == name else {}
    own = {key.removeprefix("network."): tensor for key, tensor in tensors.items()}
    return Content(path, own, fields, description=description)


def _of_others(path: Path, name: str, record: Published | None) -> Content:
    """Read a published file and tell its layout."""
    tables = tables_of(entry(name).file)
    tensors = read_foreign(path)
    if tables is None:
        raise AbbeError(f"{path}: not a model of Abbe, and no published weights of {name!r} are known")
    layout = _layout(list(tensors), tables.LAYOUTS, name, path)
    return Content(path, tensors, {**layout.config, **(record.config if record else {})}, layout)


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


def _load(network: Any, config: Any, content: Content, name: str, given: Mapping[str, Any]) -> bool:
    """Load tensors, fitted to what was given; tells whether the last layer has stayed random."""
    expected, tensors = network.state_dict(), content.tensors
    if content.layout is not None:
        tensors = content.layout.to_ours(tensors, dataclasses.asdict(config), str(content.path))
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
        fitted, fresh = _fit_classes(fitted, expected, tables.HEAD, content.path)
    try:
        load_strict(network, fitted, str(content.path), content.called)
    except AbbeError as error:
        told = _told_apart(name, tensors, config, given) or _told_by(content.description, name)
        raise AbbeError(f"{content.path}: {told}" if told else str(error)) from error
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


def _optional(tables: Any) -> dict[str, str]:
    """Layers that not every file has: the field that says how wide one is, and the beginning of its names."""
    return getattr(tables, "OPTIONAL", {})


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


def _told_by(description: Description | None, name: str) -> str:
    """Say of which network a model of Abbe is, where it is another one."""
    if description is None or description.network == name:
        return ""
    told = f"a model of {description.network!r}, not of {name!r}; give that name"
    return f"{told}, or open it with abbe.load, which needs none"


def _told_apart(name: str, tensors: Tensors, config: Any, given: Mapping[str, Any]) -> str:
    """Say of which network of the same paper the tensors are, or what to give so that they fit this one."""
    tables = tables_of(entry(name).file)
    if tables is None:
        return ""
    shapes = _body(tensors, tables)
    if body_shapes(name) != shapes:
        others = [other for other in module_of(entry(name).file).VARIANTS if body_shapes(other) == shapes]
        return f"these are weights of {others[0]!r}, not of {name!r}; give that name" if others else ""
    found = _decided(tensors, tables)
    needed = [f"{key}={found[key]}" for key in found if key not in given and found[key] != getattr(config, key)]
    if not needed:
        return ""
    number = ("it", "both", "all")[len(needed) - 1]
    return f"weights of {name!r}, but they have {' and '.join(needed)}: give {number}"


def _decided(tensors: Tensors, tables: Any) -> dict[str, int]:
    """Read the fields of a network's config that the extents of a file's tensors decide."""
    stems = [tensors[key] for key in tables.STEM if key in tensors]
    channels = {"in_channels": stems[0].shape[1]} if stems else {}
    if _ending(tables):
        return channels
    widths = {"num_classes": tables.HEAD, **_optional(tables)}
    return channels | {field: _extent(tensors, beginning) for field, beginning in widths.items()}


def _extent(tensors: Tensors, beginning: str | tuple[str, ...]) -> int:
    """Give the first extent of a layer's tensors; 0 where there is none."""
    return next((tensor.shape[0] for key, tensor in tensors.items() if key.startswith(beginning)), 0)


@cache
def body_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a network's tensors by name, but for those that depend on the image's channels or classes."""
    known = entry(name)
    with torch.device("meta"):
        network = module_of(known.file).build(variant(name))
    return _body(network.state_dict(), tables_of(known.file))


def _body(tensors: Tensors, tables: Any) -> dict[str, tuple[int, ...]]:
    """Give the shapes of all that depends neither on the image's channels nor on the classes, and is in every file."""
    ends = (*tables.HEAD, *_optional(tables).values())
    return {
        key: tuple(tensor.shape)
        for key, tensor in tensors.items()
        if not key.startswith(ends) and key not in (*tables.STEM, *_ending(tables)) and not key.endswith(COUNTER)
    }
