"""How deep in a network its parameters lie, so that learning rates can fall from the head to the input.

Layer-wise decay: Clark et al. 2020, arXiv:2003.10555; for vision transformers Bao et al. 2021, arXiv:2106.08254.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def layer_depths(network: nn.Module) -> dict[str, int]:
    """Give the depth of every parameter, by its name.

    Blocks are what stands in a row of its like: the modules of an ``nn.Sequential`` or ``nn.ModuleList`` that holds
    several of one kind with modules of their own, however deep such rows are nested. What comes before the first block
    has depth 0, the blocks 1, 2, ... in the order of the network, what comes after the last one more than it. What lies
    between two blocks, as the step from stage to stage, goes with the second.
    """
    units = list(_units(network, ""))
    while len(units) == 1 and any(True for _ in network.get_submodule(units[0][0]).children()):
        units = list(_units(network.get_submodule(units[0][0]), f"{units[0][0]}."))
    blocks = [place for place, (_, is_block) in enumerate(units) if is_block]
    depth_of = {name: _depth(place, blocks) for place, (name, _) in enumerate(units)}
    return {name: depth_of.get(_unit_of(name, depth_of), 0) for name, _ in network.named_parameters()}


def _depth(place: int, blocks: list[int]) -> int:
    """Count the blocks up to a place; without any block, every part of the network is one."""
    if not blocks:
        return place
    if place < blocks[0]:
        return 0
    return sum(block < place for block in blocks) + 1


def depth_scale(depth: int, deepest: int, decay: float) -> float:
    """Give the factor of the learning rate at a depth: 1 at the deepest, ``decay`` times less with every step up."""
    return decay ** (deepest - depth)


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, bool]]:
    """List the smallest parts that are not taken apart, in order, and whether each is a block."""
    kinds = [type(child) for child in module.children()]
    in_row = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        whole = f"{prefix}{name}"
        if _holds_rows(child):
            yield from _units(child, f"{whole}.")
        elif any(True for _ in child.parameters()):
            yield whole, in_row and kinds.count(type(child)) > 1 and any(True for _ in child.children())


def _holds_rows(module: nn.Module) -> bool:
    """Tell whether a module has a row of blocks in it, or is one."""
    return any(_is_row(inner) for inner in module.modules())


def _is_row(module: nn.Module) -> bool:
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    kinds = [type(child) for child in module.children() if any(True for _ in child.children())]
    return any(kinds.count(kind) > 1 for kind in kinds)


def _unit_of(parameter: str, units: dict[str, int]) -> str:
    """Find the unit that a parameter lies in; empty for one that belongs to the network itself."""
    parts = parameter.split(".")
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in units), "")
