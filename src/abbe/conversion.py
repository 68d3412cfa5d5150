"""Published weights, or a model of Abbe, stored as a model file: what it is, sees and tells goes into the header."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abbe import __version__
from abbe.adopt import Adopted, adopt, fit_colours
from abbe.data.class_names import made_different, read_class_names
from abbe.errors import AbbeError
from abbe.methods.catalog import entry, published
from abbe.weights.file import Description, is_model, read_description, save_model
from abbe.weights.published import Published, find_record, find_weights

IMAGENET_CLASSES = 1000
OF_CLASSES = ("classes", "class_weights", "temperature")
"""Options of a classifier that go with its classes."""


def convert(
    weights: str | Path,
    to: str | Path,
    network: str | None,
    given: dict[str, Any],
    classes: str | Path | Sequence[str] | None = None,
    *,
    accept_license: bool = False,
) -> Path:
    """Store published weights as a model of Abbe, with licence, data, classes and normalisation where they are known.

    Parameters
    ----------
    weights, given, accept_license
        As for :func:`adopt`.
    to
        The file to write.
    network
        Name in the catalog, where the file's name does not tell it.
    classes
        Names in the order of the outputs, or a file of :func:`abbe.data.class_names.read_class_names`.

    Raises
    ------
    AbbeError
        As :func:`adopt` does, when ``network`` is not given and the name of the file does not tell it, and when there
        are not as many names as classes.
    """
    to = Path(to).expanduser()
    if to.suffix != ".safetensors":
        raise AbbeError(f"{to}: a model is stored as .safetensors; give a name that ends so")
    if network is None:
        network = _network_of(weights)
    adopted = adopt(network, weights, given, accept_license=accept_license)
    description = _description(network, to.stem, adopted)
    if names := _class_names(network, adopted, classes):
        description.options["classes"] = names
    tensors = {f"network.{name}": tensor for name, tensor in adopted.network.state_dict().items()}
    to.parent.mkdir(parents=True, exist_ok=True)
    return save_model(to, tensors, description)


def _network_of(weights: str | Path) -> str:
    """Tell the network of a published file by its name, and of a model of Abbe by what it says."""
    found = find_record(weights, published())
    if found is not None:
        return found.network
    path = find_weights(weights, published())
    if path.is_file() and is_model(path):
        return read_description(path).network
    raise AbbeError(
        f"{weights}: not the name of a published file; give its network with --network, or rename it as `abbe models` "
        "lists it"
    )


def _description(network: str, name: str, adopted: Adopted) -> Description:
    if adopted.told is not None and adopted.told.network == network:
        return _told_anew(adopted.told, name, adopted)
    description = Description(
        name=name,
        network=network,
        config=dataclasses.asdict(adopted.config),
        objective=entry(network).objective,
        data=[adopted.path.name],
        untrained=adopted.untrained,
        abbe=__version__,
    )
    record = adopted.record
    if description.objective == "classification":
        tell_input(description, record)
    if record is not None:
        description.licence = record.licence
        description.data = [f"{record.data}, as {record.address}"]
        description.metrics = {f"{record.tested}, as published": {"top-1 %": record.top1}} if record.top1 else {}
    return description


def _told_anew(told: Description, name: str, adopted: Adopted) -> Description:
    """Take over what a model of Abbe says of itself, but for what was changed."""
    config, options, colours = dataclasses.asdict(adopted.config), dict(told.options), dict(told.colours)
    if config.get("num_classes") != told.config.get("num_classes"):
        options = {key: value for key, value in options.items() if key not in OF_CLASSES}
    for key in ("mean", "std"):
        if key in colours:
            colours[key] = fit_colours(colours[key], config["in_channels"])
    return dataclasses.replace(
        told,
        name=name,
        config=config,
        options=options,
        colours=colours,
        metrics={} if adopted.untrained else told.metrics,
        untrained=adopted.untrained or told.untrained,
        abbe=__version__,
    )


def _class_names(network: str, adopted: Adopted, given: str | Path | Sequence[str] | None) -> list[str]:
    """Find what the classes are called: as given, as the publisher says, or of ImageNet as torchvision has them."""
    number, record = getattr(adopted.config, "num_classes", 0), adopted.record
    if given is not None:
        names = read_class_names(Path(given).expanduser()) if isinstance(given, str | Path) else made_different(given)
        source = str(given) if isinstance(given, str | Path) else "classes"
        if len(names) != number:
            raise AbbeError(
                f"{source}: {len(names)} names, but {network!r} with these weights tells {number} classes apart; "
                "expected one for each, in the order of its outputs"
            )
        return names
    if record is None or adopted.untrained:
        return []
    if record.classes:
        return list(record.classes) if len(record.classes) == number else []
    return imagenet_names() if record.data.endswith("ImageNet-1k") and number == IMAGENET_CLASSES else []


def imagenet_names() -> list[str]:
    """Take the names of ImageNet's thousand classes from torchvision; none where it is not installed."""
    try:
        from torchvision.models import ResNet50_Weights
    except (ImportError, RuntimeError):  # the latter where it was built for another torch
        return []
    return made_different(ResNet50_Weights.DEFAULT.meta["categories"])


def tell_input(description: Description, record: Published | None) -> None:
    """Say in a description how pictures come to the network: their side, and their values as the publisher had them."""
    config = description.config
    size = record.size if record is not None else config.get("image_size", 0)
    description.options = {"size": size} if size else {}
    if record is not None:
        channels = config["in_channels"]
        colours = {"mean": fit_colours(record.mean, channels), "std": fit_colours(record.std, channels)}
        description.colours = {**colours, "size": record.size}
        description.normalization = {"kind": "range"}
