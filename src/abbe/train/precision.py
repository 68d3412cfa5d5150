"""Which arithmetic, memory layout and device a training uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def resolve_accelerator(name: str) -> str:
    """Turn ``"auto"`` into cuda, mps or cpu, whichever this machine has first."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(name: str, accelerator: str, thin: bool = False) -> str:
    """Turn ``"auto"`` into bfloat16 where the processor computes it natively, else float32.

    ``thin`` stacks, which somewhere in the network have fewer planes than a kernel, are float32 on a CPU: of kernels'
    planes that lie beside the stack oneDNN 3 gives gradients in bfloat16 that were never written.
    """
    if name != "auto":
        return name
    return "bfloat16" if _native_bfloat16(accelerator) and not (thin and accelerator == "cpu") else "float32"


def are_thin(crop: int | Sequence[int], method: Any) -> bool:
    """Tell whether crops of stacks have fewer than three planes at the coarsest level of a method's network."""
    multiple: Sequence[int] = getattr(getattr(method, "geometry", None), "multiple", ())
    planes = crop if isinstance(crop, int) else crop[0]
    return len(multiple) == 3 and planes // multiple[0] < 3


def _native_bfloat16(accelerator: str) -> bool:
    if accelerator in ("cuda", "gpu"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator != "cpu":
        return False
    # private names of torch, the only ones that tell; a version without them gets the safe answer
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory formats of images and of volumes, by the axes of a batch."""


@torch.no_grad()
def to_channels_last(module: nn.Module) -> None:
    """Lay out the kernels of convolutions with channels last, which they compute faster."""
    for parameter in module.parameters():
        if parameter.ndim in LAYOUTS:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.ndim])


def batch_to_channels_last(batch: dict[str, Any]) -> dict[str, Any]:
    """Lay out floating-point tensors of images and volumes with channels last."""
    return {name: _channels_last(value) for name, value in batch.items()}


def _channels_last(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim in LAYOUTS and value.is_floating_point():
        return value.contiguous(memory_format=LAYOUTS[value.ndim])
    return value
