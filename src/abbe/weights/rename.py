"""Published tensors under our names and back: literal tables of key templates, strict in both directions.

A table is a tuple of rules ``(theirs, ours)`` or ``(theirs, ours, change)``::

    ("layer{stage+1}.{block}.bn{n}.{LEAF}", "stages.{stage}.{block}.norm{n}.{LEAF}")
    ("blocks/{i}/query/kernel", "blocks.{i}.qkv.weight", part(0, 3, HEADS_LAST))

Fields in small letters stand for whole numbers, with ``+1`` or ``-1`` where one side counts from elsewhere; fields in
capitals stand for a word. The first rule that fits a key decides. A change says how the numbers lie differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch

from abbe.errors import AbbeError
from abbe.weights.load import listed

Tensors = dict[str, torch.Tensor]
Reshape = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]
"""Takes a tensor and the fields of the network's config."""
_FIELD = re.compile(r"\{([A-Za-z_]+)([+-]\d+)?\}")


@dataclass(frozen=True)
class Change:
    """How a published tensor differs from ours in all but its name."""

    ours: Reshape
    """From theirs to ours."""
    theirs: Reshape
    """Back."""
    part: int = 0
    """Which part of our tensor it is, along the first axis."""
    parts: int = 1
    """Of how many, all of one extent."""


KEEP = Change(lambda t, _: t, lambda t, _: t)
TRANSPOSED = Change(lambda t, _: t.T, lambda t, _: t.T)
"""Of a linear layer, (in, out) in place of (out, in)."""
HWIO = Change(lambda t, _: t.permute(3, 2, 0, 1), lambda t, _: t.permute(2, 3, 1, 0))
"""Of a convolution, (Y, X, in, out) in place of (out, in, Y, X)."""


def part(number: int, of: int, change: Change = KEEP) -> Change:
    """Say that a tensor is one of several that make up ours."""
    return Change(change.ours, change.theirs, number, of)


@dataclass(frozen=True)
class Layout:
    """The names that somebody publishes a network's tensors under.

    Attributes
    ----------
    name : str
        Who, such as "torchvision".
    rules : tuple
        See the head of this file.
    dropped : tuple of str
        Templates of keys that carry nothing, such as counters.
    config : mapping
        Fields of the network's config that hold for all that is published so.
    """

    name: str
    rules: tuple[tuple[Any, ...], ...]
    dropped: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _rules(self) -> tuple[tuple[str, str, Change], ...]:
        return tuple(
            (theirs, ours, *change) if change else (theirs, ours, KEEP) for theirs, ours, *change in self.rules
        )

    def strange(self, keys: Sequence[str]) -> list[str]:
        """Give the published keys that no rule fits."""
        return [key for key in keys if not self._is_dropped(key) and not self._to_ours(key)]

    def to_ours(self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], source: str) -> Tensors:
        """Rename and reshape published tensors.

        Parameters
        ----------
        tensors
            By their names.
        config
            Fields of the network's config, for changes that need the number of heads and the like.
        source
            The file, for messages.

        Raises
        ------
        AbbeError
            Where a key fits no rule, a part of a tensor is missing, or two keys are one tensor.
        """
        if strange := self.strange(list(tensors)):
            raise AbbeError(f"{source}: not in the layout of {self.name}; unexpected: {listed(strange)}")
        pieces: dict[str, dict[int, torch.Tensor]] = {}
        wanted: dict[str, int] = {}
        for key, tensor in tensors.items():
            if self._is_dropped(key):
                continue
            name, change = self._to_ours(key)
            if change.part in pieces.setdefault(name, {}):
                raise AbbeError(
                    f"{source}: holds {name!r} twice in the layout of {self.name}, the second time as {key!r}"
                )
            pieces[name][change.part] = change.ours(tensor, config)
            wanted[name] = change.parts
        torn = [name for name, found in pieces.items() if len(found) != wanted[name]]
        if torn:
            absent = [key for name in torn for key, _ in self._theirs(name) if key not in tensors]
            raise AbbeError(f"{source}: lacks {listed(absent)} in the layout of {self.name}")
        return {name: _joined([found[i] for i in sorted(found)]) for name, found in pieces.items()}

    def to_theirs(self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Tensors:
        """Go the other way; what they have and we do not is left out.

        Raises
        ------
        AbbeError
            Where one of our names fits no rule.
        """
        renamed: Tensors = {}
        for name, tensor in tensors.items():
            found = self._theirs(name)
            if not found:
                raise AbbeError(f"{name}: the layout of {self.name} has no name for it")
            for key, change in found:
                piece = tensor.chunk(change.parts)[change.part] if change.parts > 1 else tensor
                renamed[key] = change.theirs(piece, config).contiguous()
        return renamed

    def called(self, name: str) -> str:
        """Call one of our tensors as they do, for messages; by both names where its numbers lie differently."""
        found = self._theirs(name)
        theirs = " + ".join(key for key, _ in found) or name
        return theirs if all(change is KEEP for _, change in found) else f"{theirs} (here {name})"

    def _theirs(self, name: str) -> list[tuple[str, Change]]:
        """Give their keys of one of our tensors, several where it comes in parts; none where they have none."""
        found = [
            (_filled(theirs, match, ours), change)
            for theirs, ours, change in self._rules
            if (match := _pattern(ours).fullmatch(name)) is not None
        ]
        return found[: found[0][1].parts] if found else []

    def _to_ours(self, key: str) -> Any:
        for theirs, ours, change in self._rules:
            if (match := _pattern(theirs).fullmatch(key)) is not None:
                return _filled(ours, match, theirs), change
        return None

    def _is_dropped(self, key: str) -> bool:
        return any(_pattern(template).fullmatch(key) for template in self.dropped)


def recognise(keys: Sequence[str], layouts: Sequence[Layout], source: str) -> Layout:
    """Choose the layout that all keys fit.

    Raises
    ------
    AbbeError
        Where none does; it names what the nearest one does not expect.
    """
    strange = {layout.name: layout.strange(keys) for layout in layouts}
    nearest = min(layouts, key=lambda layout: len(strange[layout.name]))
    if unknown := strange[nearest.name]:
        known = ", ".join(layout.name for layout in layouts)
        raise AbbeError(
            f"{source}: {len(unknown)} of {len(keys)} tensors are of no layout that is known for this network "
            f"({known}); nearest is {nearest.name}, where unexpected: {listed(unknown)}"
        )
    return nearest


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(pieces)) if len(pieces) > 1 else pieces[0].contiguous()


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    """Turn a template into an expression with a group for each field; a field that comes again has to be the same."""
    parts, end, seen = [], 0, set()
    for found in _FIELD.finditer(template):
        parts.append(re.escape(template[end : found.start()]))
        name, end = found.group(1), found.end()
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{'[A-Za-z_]+' if name.isupper() else '[0-9]+'})")
        seen.add(name)
    return re.compile("".join(parts) + re.escape(template[end:]))


def _filled(template: str, match: re.Match[str], matched: str) -> str:
    """Fill the fields of a template with what another one matched, counting each side from where it begins."""
    begins = {name: int(step or 0) for name, step in _FIELD.findall(matched)}

    def value(field: re.Match[str]) -> str:
        name, step = field.group(1), int(field.group(2) or 0)
        found = match.group(name)
        return found if name.isupper() else str(int(found) - begins[name] + step)

    return _FIELD.sub(value, template)
