"""Checkpoints that survive a power cut: written beside, renamed, the previous one kept, free of code."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from abbe.errors import AbbeError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically; a file that was there becomes ``<stem>.previous<suffix>``.

    Raises
    ------
    AbbeError
        When the file cannot be written; the one that was there is left as it is.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        raise AbbeError(f"{path}: the checkpoint cannot be written ({error}); is the disk full?") from error


def previous(path: Path) -> Path:
    """Name the file that holds the checkpoint before this one."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint, or the previous one where this one is cut or missing; no code in the file is run.

    Raises
    ------
    AbbeError
        When neither can be read.
    """
    problems: list[str] = []
    for candidate in (path, previous(path)):
        try:
            state = torch.load(candidate, map_location=device, weights_only=True)
            if problems and path.exists():
                warnings.warn(f"{path} is damaged; continuing from {candidate.name}", stacklevel=2)
            return state
        except Exception as error:  # torch raises many kinds for damaged files
            problems.append(f"{candidate.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise AbbeError(f"{path.parent}: no readable checkpoint ({'; '.join(problems)})")


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a method's weights from ``best.pt`` or ``last.pt``: the averaged ones where they exist.

    Returns
    -------
    dict
        The method's whole ``state_dict`` on the CPU, contiguous.
    """
    state = load_checkpoint(path)
    return {name: tensor.contiguous() for name, tensor in {**state["model"], **(state.get("ema") or {})}.items()}


def random_states() -> dict[str, Any]:
    """Collect the states of torch's, NumPy's and Python's global generators as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the global generators as :func:`random_states` found them."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Leave the global generators as they were before a ``with`` block."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def seed_everything(seed: int) -> None:
    """Seed the global generators, for layers such as dropout that know no other."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def load_into(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights into a module in place, whatever its memory format and device."""
    module.load_state_dict(weights, strict=True)
