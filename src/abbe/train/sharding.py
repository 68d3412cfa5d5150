"""Weights split among processes, so that each holds a part (fully sharded data parallelism, arXiv:2304.11277).

A split tensor is a ``DTensor``: it knows its whole shape and holds this process's rows. Before a block runs, the
processes put its weights together, and afterwards each forgets those of the others. What is written to disk is whole,
so that it loads anywhere; what is read is whole, and each process keeps its part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from abbe.errors import AbbeError
from abbe.train.checkpoint import load_into


def shard(method: Any, mesh: Any) -> None:
    """Split the parameters of a method, in place.

    Parameters
    ----------
    method
        An ``nn.Module`` with ``training_step``, equal in all processes.
    mesh
        The processes, a one-dimensional ``DeviceMesh``.

    Raises
    ------
    AbbeError
        When a parameter has no axis along which it could be split.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    scalars = [name for name, parameter in method.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise AbbeError(f"train.strategy: fsdp cannot split the single number {scalars[0]}; choose ddp")
    for parameter in method.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)  # others are refused
    for block in blocks(method):
        fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)
    register_fsdp_forward_method(method, "training_step")


def blocks(module: nn.Module) -> list[nn.Module]:
    """Find the parts whose weights are put together one after the other: the members of the outermost lists.

    There are none where two parts share a parameter, for it can be split only once.
    """
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    if max(uses.values(), default=0) > 1:
        return []
    return [member for member in _members(module) if next(member.parameters(), None) is not None]


def _members(module: nn.Module) -> Iterator[nn.Module]:
    in_list = isinstance(module, nn.ModuleList)
    for child in module.children():
        if in_list and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from _members(child)


def is_split(value: Any) -> bool:
    """Whether other processes hold parts of a tensor, or of a module's weights."""
    if isinstance(value, nn.Module):
        return any(map(is_split, value.parameters()))
    return hasattr(value, "full_tensor")


def local(tensor: Any) -> torch.Tensor:
    """Give this process's part of a tensor, which shares its memory."""
    return tensor.to_local() if is_split(tensor) else tensor


def whole(state: Any) -> Any:
    """Put the split tensors in nested dicts, lists and tuples together, on the CPU; every process must call it."""
    if is_split(state):
        return state.detach().full_tensor().cpu()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return type(state)(map(whole, state)) if isinstance(state, list | tuple) else state


def load_whole(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy whole weights into a module, of which this process may hold a part, in place."""
    if not is_split(module):
        load_into(module, weights)
        return
    for name, tensor in module.state_dict(keep_vars=True).items():
        copy_whole(tensor, weights[name])


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, whole, into one whose parameters may be split."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _part_like(parameters[index], value) for name, value in found.items()}
        for index, found in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


@torch.no_grad()
def copy_whole(tensor: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part."""
    local(tensor).copy_(local(_part_like(tensor, source)))


def _part_like(tensor: Any, value: Any) -> Any:
    """Split a value as a tensor of its shape is; all processes have the whole value, so that none has to send it."""
    if not is_split(tensor) or not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
