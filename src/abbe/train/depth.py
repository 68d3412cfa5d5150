"""How deep in a network its parameters lie, so that learning rates can fall from the head to the input.

Layer-wise decay: Clark et al. 2020, arXiv:2003.10555; for vision transformers Bao et al. 2021, arXiv:2106.08254.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

Unit = tuple[str, bool]
"""Name of a part of a network, and whether it is a block."""

CONTAINERS = (nn.Sequential, nn.ModuleList)


def layer_depths(network: nn.Module) -> dict[str, int]:
    """Give the depth of every parameter, by its name.

    Blocks are of a class with modules of its own that stands in a row of its like, an ``nn.Sequential`` or
    ``nn.ModuleList`` of several, somewhere in the network; plain sequences count where there is nothing else. What
    comes before the first block has depth 0, the blocks 1, 2, ... in the order of the network, what comes after the
    last one more than it. What lies between two blocks, as the step from stage to stage, goes with the second, also
    where all steps are kept in a list beside that of the stages.
    """
    parts = _Parts(_kinds_in_rows(network, loose=False) or _kinds_in_rows(network, loose=True))
    units = list(parts.units(network, ""))
    while len(units) == 1 and any(True for _ in network.get_submodule(units[0][0]).children()):
        units = list(parts.units(network.get_submodule(units[0][0]), f"{units[0][0]}."))
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


def _kinds_in_rows(network: nn.Module, loose: bool) -> set[type]:
    """Find the classes of blocks; if ``loose``, plain sequences may be such too."""
    found: set[type] = set()
    for row in network.modules():
        if isinstance(row, CONTAINERS):
            kinds = [type(child) for child in row.children() if any(True for _ in child.children())]
            found |= {kind for kind in kinds if kinds.count(kind) > 1 and (loose or kind not in CONTAINERS)}
    return found


class _Parts:
    """Takes networks apart whose blocks are of these classes."""

    def __init__(self, kinds: set[type]) -> None:
        self.kinds = kinds

    def units(self, module: nn.Module, prefix: str) -> Iterator[Unit]:
        """List the smallest parts that are not taken apart, in order."""
        children = dict(module.named_children())
        steps = self._steps(children)
        for name, child in children.items():
            if name in steps:
                yield from self._interleaved(children[steps[name]], prefix + steps[name], child, prefix + name)
            elif name not in steps.values():
                yield from self._parts_of(child, f"{prefix}{name}", self._is_block(child, module))

    def _parts_of(self, part: nn.Module, name: str, is_block: bool) -> Iterator[Unit]:
        if self._holds_rows(part):
            yield from self.units(part, f"{name}.")
        elif any(True for _ in part.parameters()):
            yield name, is_block

    def _steps(self, children: dict[str, nn.Module]) -> dict[str, str]:
        """Find lists of stages with a list of the steps between them or before each: names of both."""
        lists = {name: child for name, child in children.items() if isinstance(child, CONTAINERS)}
        rows = [name for name, child in lists.items() if self._holds_rows(child)]
        return {
            stages: steps
            for stages in rows
            for steps in lists
            if steps not in rows and _steps_fit(list(lists[steps].children()), len(list(lists[stages].children())))
        }

    def _interleaved(self, steps: nn.Module, steps_name: str, stages: nn.Module, name: str) -> Iterator[Unit]:
        before = dict(enumerate(steps.named_children(), len(list(stages.children())) - len(list(steps.children()))))
        for place, (inner, stage) in enumerate(stages.named_children()):
            if place in before:
                yield f"{steps_name}.{before[place][0]}", False
            yield from self._parts_of(stage, f"{name}.{inner}", self._is_block(stage, stages))

    def _is_block(self, child: nn.Module, parent: nn.Module) -> bool:
        return isinstance(parent, CONTAINERS) and type(child) in self.kinds

    def _holds_rows(self, module: nn.Module) -> bool:
        """Tell whether there are blocks in a module."""
        return any(self._is_block(child, inner) for inner in module.modules() for child in inner.children())


def _steps_fit(steps: list[nn.Module], stages: int) -> bool:
    """Tell whether modules can be steps before each of so many stages, or between them: with modules of their own."""
    return len(steps) > 1 and stages - len(steps) in (0, 1) and all(any(True for _ in s.children()) for s in steps)


def _unit_of(parameter: str, units: dict[str, int]) -> str:
    """Find the unit that a parameter lies in; empty for one that belongs to the network itself."""
    parts = parameter.split(".")
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in units), "")
