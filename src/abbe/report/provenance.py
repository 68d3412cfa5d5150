"""What made a result: enough to make it again, and nothing about who made it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from abbe import __version__
from abbe.data.write import write_text

PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "pandas", "tifffile")
MODEL_KEYS = ("name", "method", "version", "sha256", "licence", "licences", "recipe", "data")
MAX_INPUTS = 50
"""Input names that are listed; the rest are counted."""


def provenance(
    command: Sequence[str],
    *,
    model: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    settings: Any = None,
    inputs: Sequence[str | Path] = (),
    started: datetime | None = None,
) -> dict[str, Any]:
    """Record what ran, with what, on what.

    Parameters
    ----------
    command
        The words of the command line, kept as they were typed.
    model
        The description of the model file; its name, method, checksum, licences and training data are kept.
    seed
        Of all random choices; None where there were none.
    device
        Where the network ran, as torch names it.
    settings
        A dataclass or mapping with every resolved option.
    inputs
        The input files. Of absolute paths only the last part is kept, for the others may name people.
    started
        When the run began, with a time zone; gives the duration.

    Returns
    -------
    dict
        JSON-able, in the order in which people read it. Home folders are written ``~`` except in the command.
    """
    now = datetime.now(UTC)
    return {
        "command": shlex.join(str(word) for word in command),
        "abbe": __version__,
        "model": _anonymous(jsonable(_known(model)), _home()),
        "seed": seed,
        "settings": _anonymous(jsonable(settings), _home()),
        "inputs": {"number": len(inputs), "names": [_name(path) for path in inputs[:MAX_INPUTS]]},
        "started": None if started is None else started.astimezone(UTC).isoformat(timespec="seconds"),
        "finished": now.isoformat(timespec="seconds"),
        "seconds": None if started is None else round((now - started).total_seconds(), 2),
        "hardware": _hardware(device),
        "software": _software(),
    }


def write_provenance(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON, whole or not at all."""
    write_text(path, json.dumps(jsonable(record), indent=2, ensure_ascii=False) + "\n")


def jsonable(value: Any) -> Any:
    """Turn dataclasses, paths, numpy's numbers and arrays into what JSON knows; NaN and infinity become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def _anonymous(value: Any, home: str) -> Any:
    """Write ``~`` for the home folder in every text of a JSON-able value."""
    if isinstance(value, dict):
        return {key: _anonymous(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return [_anonymous(item, home) for item in value]
    return value.replace(home, "~") if isinstance(value, str) else value


def _home() -> str:
    """Find the home folder; a text that no path holds where there is none or it is the root of all paths."""
    try:
        home = Path.home()
    except RuntimeError:
        return "\0"
    return str(home) if home != home.parent else "\0"


def _known(model: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if model is None else {key: model[key] for key in MODEL_KEYS if key in model}


def _name(path: str | Path) -> str:
    pure = PurePath(path)
    return pure.name if pure.is_absolute() else pure.as_posix()


def _hardware(device: str) -> dict[str, Any]:
    """Name the processor, its cores, the threads in use and, where it ran there, the accelerator."""
    hardware: dict[str, Any] = {
        "device": device,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    # Measuring masks that exist needs no torch; seconds of import are not spent on a line of the record.
    torch = sys.modules.get("torch")
    if torch is not None:
        hardware["threads"] = torch.get_num_threads()
        if device.startswith("cuda") and torch.cuda.is_available():
            hardware["accelerator"] = torch.cuda.get_device_name(device)
    return hardware


def _processor() -> str:
    """Ask the kernel where the standard library only knows the architecture."""
    try:
        listing = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in listing.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
