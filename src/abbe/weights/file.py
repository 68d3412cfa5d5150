"""A model is one file: tensors in safetensors, and in its header all that is needed to use them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from abbe.data.write import atomic
from abbe.errors import AbbeError

FORMAT = 1
"""Version of the header; a reader refuses what is newer than itself."""
AVERAGED = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of tensors that no gradient reaches."""


@dataclass
class Description:
    """What a model file says of itself."""

    name: str
    """What people call it."""
    network: str
    """Name of the network in the catalog."""
    config: dict[str, Any] = field(default_factory=dict)
    """Every field of the network's config."""
    objective: str = ""
    """Name of the method that trained the network."""
    options: dict[str, Any] = field(default_factory=dict)
    """Every field of the method's config, decoding thresholds included."""
    normalization: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`abbe.data.normalize.Normalization`."""
    axes: str = "CYX"
    """What it takes at a time."""
    diameter: tuple[float, float] | None = None
    """Range of object diameters in pixels that it saw in training; other sizes are rescaled into it."""
    pixel_size: tuple[float, ...] | None = None
    """µm per pixel that it works at, where the method demands one."""
    colours: dict[str, Any] = field(default_factory=dict)
    """Of published weights: ``mean`` and ``std`` of each channel, applied to the normalised image, and ``size``, the
    side in pixels at which they were tested."""
    stains: str = "off"
    """Dyes that colour images are taken apart into for it, as :class:`abbe.settings.StainSettings` has them."""
    recipe: str = ""
    """The resolved recipe, as TOML."""
    data: list[str] = field(default_factory=list)
    """What it was trained on, with licence."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What it measured, by data set."""
    untrained: bool = False
    """Whether the last layer is random or zero, so that what comes out means nothing before a training."""
    licence: str = ""
    """Of the weights."""
    abbe: str = ""
    """Version of Abbe that wrote the file."""


def save_model(path: Path | str, tensors: dict[str, torch.Tensor], description: Description) -> Path:
    """Write a model file; it appears whole or not at all."""
    header = {"abbe": json.dumps({"format": FORMAT, **asdict(description)})}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(Path(path)) as beside:
        beside.write_bytes(save(stored, metadata=header))
    return Path(path)


def read_model(path: Path | str) -> tuple[dict[str, torch.Tensor], Description]:
    """Read the tensors and the description of a model file.

    Raises
    ------
    AbbeError
        When the file is missing, cut, a pickle, not a model of Abbe, or from a newer version.
    """
    path = Path(path)
    description = read_description(path)
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118


def read_description(path: Path | str) -> Description:
    """Read the header only; raises as :func:`read_model` does."""
    path = Path(path)
    _refuse_foreign(path)
    with _opened(path) as file:
        header = (file.metadata() or {}).get("abbe")
    if header is None:
        raise AbbeError(
            f"{path}: a safetensors file without Abbe's description, so its network is unknown; "
            "give its network's name to abbe.create(name, weights=FILE)"
        )
    return _parse(path, header)


def count_parameters(path: Path | str) -> int:
    """Count the numbers that were learnt, from the header alone; those that a batch norm counts or averages are not.

    Raises
    ------
    AbbeError
        When the file is not whole.
    """
    with _opened(Path(path)) as file:
        learnt = [name for name in file.keys() if not name.endswith(AVERAGED)]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in learnt)


def is_model(path: Path | str) -> bool:
    """Tell whether a file says of itself that it is a model of Abbe; raises where it is safetensors, but not whole."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read as weights ({error.strerror})") from error
    if start[8:9] != b"{":
        return False
    with _opened(Path(path)) as file:
        return "abbe" in (file.metadata() or {})


def file_hash(path: Path | str) -> str:
    """Give the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path: Path, header: str) -> Description:
    try:
        values = dict(json.loads(header))
    except (ValueError, TypeError) as error:
        raise AbbeError(f"{path}: its description is damaged ({error}); copy or download it again") from error
    written = values.pop("format", 0)
    if written > FORMAT:
        raise AbbeError(
            f"{path}: written by Abbe {values.get('abbe', '?')} in model format {written}, this version reads up to "
            f"{FORMAT}; pip install --upgrade abbe"
        )
    unknown = values.keys() - {f.name for f in fields(Description)}
    if unknown:
        raise AbbeError(f"{path}: its description has unknown entries: {', '.join(sorted(unknown))}")
    absent = [name for name in ("name", "network") if name not in values]
    if absent:
        raise AbbeError(f"{path}: its description lacks {' and '.join(absent)}")
    for name in ("diameter", "pixel_size"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Description(**values)


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise AbbeError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from error


def _refuse_foreign(path: Path) -> None:
    if path.is_dir():
        raise AbbeError(
            f"{path}: a folder without model.safetensors, which a training writes at its end; --resume goes on with one"
        )
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read as a model ({error.strerror})") from error
    if not start:
        raise AbbeError(f"{path}: an empty file, not a model")
    if start[8:9] == b"{":  # behind the length of safetensors' header, which may begin with any byte
        return
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        raise AbbeError(
            f"{path}: a pickle, which can run code and is not opened as a model; Abbe reads .safetensors, and "
            "`abbe convert` makes them of published weights"
        )
