"""Weights that others published: opened without running any code, whatever wraps them."""

from __future__ import annotations

import pickle
import re
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
INNER = "module"
"""Where some keep the tensors inside one of these."""
DEPTH = 4
"""Wrappers around one another that are opened."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of a training put in front of every name."""
COUNTER = "n_averaged"
"""What torch's averaging of weights keeps beside the prefixed names: how often it averaged."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""What the unpickler calls the thing that it refuses to open."""


def read_foreign(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a published file: safetensors, PyTorch's zip or pickle, or NumPy's npz.

    Its content tells which of them it is, whatever its name. Pickles are opened with an unpickler that builds tensors
    and plain containers and nothing else.

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
    if start[8:9] == b"{":
        return _safetensors(path)
    if path.suffix == ".npz" or _is_npz(path):
        return _npz(path)
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        return _unwrapped(_torch(path), path)
    raise AbbeError(f"{path}: neither safetensors nor a PyTorch or NumPy file; expected published weights")


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return _plain(load_file(path))
    except (SafetensorError, ValueError) as error:
        raise AbbeError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def _is_npz(path: Path) -> bool:
    """Tell NumPy's zip of arrays from PyTorch's, which holds a pickle."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _npz(path: Path) -> dict[str, torch.Tensor]:
    if not zipfile.is_zipfile(path):
        raise AbbeError(f"{path}: not a whole npz file, or none at all; download it again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise AbbeError(
                f"{path}: holds Python objects, which could run code and are not opened; expected arrays of numbers"
            ) from error
        raise AbbeError(f"{path}: not a whole npz file of numbers ({_first(error)}); download it again") from error
    return {name: _tensor(array, name, path) for name, array in read.items()}


def _tensor(array: np.ndarray, name: str, path: Path) -> torch.Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        told = f"{name!r} is an array of {array.dtype.name}"
        raise AbbeError(f"{path}: {told}; expected numbers that PyTorch knows in every array") from error


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how a pickle is written, before it is refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AbbeError(
            f"{path}: {_refused(str(error))}, and is not opened; save its state_dict() alone with torch.save"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AbbeError(f"{path}: not a whole PyTorch file ({_first(error)}); download it again") from error


def _refused(told: str) -> str:
    """Say why a pickle is refused: what it holds may be harmless, but only running it would tell."""
    found = _GLOBAL.search(told)
    if found is None:
        return "a pickle that is damaged or of an unknown kind"
    return f"a pickle with {found[1]} in it, which could run code"


def _first(error: Exception) -> str:
    """Take the first sentence of an error's text; the others are advice of its library."""
    return str(error).split(". ")[0].strip() or type(error).__name__


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Find the tensors in what a checkpoint holds."""
    if tensors := _inside(content, DEPTH):
        return _plain(tensors)
    raise AbbeError(f"{path}: holds no tensors by name; expected a state dict, alone or under {', '.join(WRAPPERS)}")


def _inside(content: Any, depth: int) -> dict[str, torch.Tensor]:
    """Take the tensors of the first wrapper that has some, else those beside them; empty where there are none."""
    if not isinstance(content, Mapping) or not depth:
        return {}
    for name in (*WRAPPERS, INNER):  # before the tensors beside them, which are such as the best score
        if tensors := _inside(content.get(name), depth - 1):
            return tensors
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors if any(tensor.ndim for tensor in tensors.values()) else {}  # single numbers are no network


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take prefixes off that all names share."""
    named = dict(tensors)
    if all(name.startswith(PREFIXES[0]) for name in named if name != COUNTER):
        named.pop(COUNTER, None)
    for prefix in PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named
