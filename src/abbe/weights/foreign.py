"""Weights that others published: opened without running any code, whatever wraps them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from abbe.errors import AbbeError

WRAPPERS = ("model_ema", "params_ema", "state_dict_ema", "ema", "model", "state_dict", "params", "net", "network")
"""Where checkpoints keep the tensors among other things; the averaged ones before those that were descended."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of a training put in front of every name."""


def read_foreign(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a published file: safetensors, PyTorch's zip or pickle, or NumPy's npz.

    Pickles are opened with an unpickler that builds tensors and plain containers and nothing else.

    Raises
    ------
    AbbeError
        If it is missing, cut, of another kind, without tensors, or a pickle that would run code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read as weights ({error.strerror})") from error
    if not start:
        raise AbbeError(f"{path}: an empty file, no weights")
    if path.suffix == ".npz":
        return _npz(path)
    if start[8:9] == b"{":
        return _safetensors(path)
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        return _unwrapped(_torch(path), path)
    raise AbbeError(f"{path}: neither safetensors nor a PyTorch or NumPy file; expected published weights")


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return _plain(load_file(path))
    except (SafetensorError, ValueError) as error:
        raise AbbeError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def _npz(path: Path) -> dict[str, torch.Tensor]:
    if not zipfile.is_zipfile(path):
        raise AbbeError(f"{path}: not a whole npz file, or none at all; download it again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise AbbeError(
                f"{path}: holds Python objects, which could run code and are not opened; expected arrays of numbers"
            ) from error
        raise AbbeError(f"{path}: not a whole npz file of numbers ({_first(error)}); download it again") from error


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how a pickle is written, before it is refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AbbeError(
            f"{path}: a pickle that wants to run code, and is not opened; save its state_dict() alone with torch.save"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AbbeError(f"{path}: not a whole PyTorch file ({_first(error)}); download it again") from error


def _first(error: Exception) -> str:
    """Take the first sentence of an error's text; the others are advice of its library."""
    return str(error).split(". ")[0].strip() or type(error).__name__


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Find the tensors in what a checkpoint holds."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is not None:  # before the tensors beside it, which are such as the best score
            content = content[inner]
            continue
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return _plain(tensors)
        break
    raise AbbeError(f"{path}: holds no tensors by name; expected a state dict, alone or under {', '.join(WRAPPERS)}")


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take prefixes off that all names share."""
    named = dict(tensors)
    for prefix in PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named
