"""What there is to know about a name: the card of a model, the paper and file of a network, the text of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abbe.errors import AbbeError
from abbe.methods.catalog import ENTRIES, entry
from abbe.weights.records import RECORDS, find_model, read_card

if TYPE_CHECKING:
    from abbe.weights.file import Description

SHOWN = 12
"""Names of classes that a card lists."""
SCALINGS = {
    "percentile": "percentiles {low:g} and {high:g} of the whole image become 0 and 1",
    "minmax": "the extremes of the whole image become 0 and 1",
    "zscore": "the whole image gets mean 0 and deviation 1",
    "none": "none",
}


def card(name: str) -> str:
    """Give the text that ``abbe show NAME`` prints.

    Parameters
    ----------
    name
        Of a model, a network or a recipe; or a model file, or the folder of a training.

    Raises
    ------
    AbbeError
        When there is nothing of that name, or the file is no model.
    """
    recipe = files("abbe.recipes") / f"{name}.toml"
    parts = [read_card(name)] if name in RECORDS else []
    parts += [_network(name)] if name in ENTRIES else []
    parts += [f"recipe {name}\n\n{recipe.read_text(encoding='utf-8')}"] if recipe.is_file() else []
    if not parts and Path(name).expanduser().exists():
        parts = [file_card(find_model(name))]
    if not parts:
        known = sorted({*RECORDS, *ENTRIES})
        raise AbbeError(
            f"{name}: no model, network or recipe has that name, nor has a file; there are {', '.join(known)}"
        )
    return "\n\n".join(part.strip() for part in parts)


def file_card(path: Path) -> str:
    """Give the card of a model file: what it says of itself, its size and hash, without reading its tensors.

    Raises
    ------
    AbbeError
        When it is no model file.
    """
    from abbe.weights.file import count_parameters, file_hash, read_description  # bring torch

    description, parameters = read_description(path), count_parameters(path)
    size = path.stat().st_size / 1e6
    rows = [("file", f"{path}, {size:.1f} MB, sha256 {file_hash(path)[:16]}…")]
    return f"{model_card(description, parameters)}\n{_aligned(rows)}"


def model_card(description: Description, parameters: int | None = None) -> str:
    """Give the card of a model as text, from what its file says of itself."""
    return f"model {description.name}\n{_aligned(_facts(description, parameters))}"


def summary(path: Path) -> str:
    """Tell of a model file in one line: network, parameters, channels, classes, licence."""
    from abbe.weights.file import count_parameters, read_description

    description = read_description(path)
    config = description.config
    known = [
        description.network,
        f"{count_parameters(path) / 1e6:.2f} M parameters",
        f"{config['in_channels']} channels" if "in_channels" in config else "",
        _classes(description),
        f"licence {description.licence}" if description.licence else "licence unknown",
    ]
    return "; ".join(fact for fact in known if fact)


def _facts(description: Description, parameters: int | None) -> Iterator[tuple[str, str]]:
    """List what a description says, a label and a text each."""
    known = ENTRIES.get(description.network)
    config, colours = description.config, description.colours
    yield "network", description.network
    if known is not None:
        yield "paper", f"{known.title} ({known.year}), {known.paper}"
    if parameters is not None:
        yield "parameters", f"{parameters / 1e6:.2f} million"
    yield "method", description.objective or (known.objective if known else "")
    yield "classes", _classes(description)
    yield "input", f"{config['in_channels']} channels" if "in_channels" in config else ""
    yield "scaling", _colours(colours) if colours else _scaling(description.normalization)
    yield "objects", _range(description.diameter)
    if description.pixel_size is not None:
        yield "pixels", f"{' x '.join(f'{size:g}' for size in description.pixel_size)} µm"
    yield "licence", description.licence or "unknown"
    yield "data", "; ".join(description.data) or "unknown"
    for data, scores in description.metrics.items():
        yield "measured", f"{_scores(scores)} on {data}"
    yield "recipe", "inside the file" if description.recipe else ""
    yield "written by", f"Abbe {description.abbe}" if description.abbe else ""


def _classes(description: Description) -> str:
    names = description.options.get("classes", ())
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{len(names)} classes: {', '.join(names[:SHOWN])}{more}"
    number = description.config.get("num_classes")
    if number is None:
        return ""
    if description.untrained:
        return f"{number} classes, of which nothing is known before a training"
    return f"{number} classes, whose names are not known" if number else "no classes, features come out"


def _colours(colours: dict[str, Any]) -> str:
    mean, std = (", ".join(f"{value:g}" for value in colours.get(name, ())) for name in ("mean", "std"))
    side = f", at {colours['size']} px" if colours.get("size") else ""
    return f"0 to 1, then less {mean} and over {std} per channel{side}"


def _scaling(normalization: dict[str, Any]) -> str:
    if not normalization:
        return ""
    values = {"low": 1.0, "high": 99.8} | normalization
    together = "" if normalization.get("joint", True) else ", each channel by itself"
    return SCALINGS.get(str(normalization.get("kind", "percentile")), "unknown").format(**values) + together


def _range(diameter: tuple[float, float] | None) -> str:
    return "" if diameter is None else f"{diameter[0]:g} to {diameter[1]:g} px across at the network"


def _scores(scores: Any) -> str:
    if not isinstance(scores, dict):
        return str(scores)
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, int | float) else f"{name} {value}" for name, value in scores.items()
    )


def _aligned(rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    return "\n".join(f"  {label:12s}{text}" for label, text in rows if text)


def _network(name: str) -> str:
    known = entry(name)
    lines = [
        f"network {name}",
        f"  paper   {known.title} ({known.year}), {known.paper}",
        f"  file    {files('abbe.methods') / known.file}",
        f"  task    {known.task}",
        f"  recipe  {known.recipe or 'none'}",
    ]
    return "\n".join(lines)
