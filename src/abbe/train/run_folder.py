"""The folder of a run: resolved recipe, environment, log, curves and checkpoints."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from abbe import __version__
from abbe.errors import AbbeError

# what may change between the parts of a run without making it another one
_FREE = {"train.workers", "train.checkpoint_seconds", "train.patience", "train.epochs", "train.steps"} | {
    *("train.minutes", "train.accelerator", "train.devices", "train.nodes", "train.strategy"),
}


class RunFolder:
    """Paths of a run, and the check that nothing in them is lost.

    Parameters
    ----------
    path
        The folder; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.environment = self.path / "environment.json"
        self.log = self.path / "log.jsonl"
        self.last = self.path / "checkpoints" / "last.pt"
        self.best = self.path / "checkpoints" / "best.pt"

    def open(self, recipe_text: str, *, resume: bool) -> None:
        """Make the folder with its recipe and environment, or check that it can be resumed.

        Raises
        ------
        AbbeError
            When there is a run already and ``resume`` is false, when there is none to resume, when its recipe
            is another one, or when the folder cannot be written.
        """
        if resume:
            self._check_same(recipe_text)
        elif self.recipe.exists() or self.last.exists():
            raise AbbeError(f"{self.path}: holds a training run; add --resume to continue it, or choose another --out")
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.recipe, recipe_text)
            write_atomically(self.environment, json.dumps(describe_environment(), indent=2) + "\n")
        except OSError as error:
            raise AbbeError(f"{self.path}: the run folder cannot be written ({error.strerror or error})") from None

    def _check_same(self, recipe_text: str) -> None:
        if not self.recipe.exists():
            raise AbbeError(f"{self.path}: holds no training run to resume; leave out --resume to begin one")
        before = _flat(tomllib.loads(self.recipe.read_text(encoding="utf-8")))
        now = _flat(tomllib.loads(recipe_text))
        changed = sorted(
            key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key not in _FREE
        )
        if changed:
            key = changed[0]
            raise AbbeError(
                f"{self.path}: was begun with {key} = {before.get(key)!r}, now {now.get(key)!r}; resume with"
                " the recipe it was begun with, or choose another --out"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def describe_environment() -> dict[str, Any]:
    """Collect versions, machine and command."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "abbe": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "lightning", "numpy")},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Name the processor; Linux tells it only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
