"""How much memory a forward takes, found out without taking it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def live_bytes(forward: Callable[[torch.Tensor], Any], x: torch.Tensor) -> int:
    """Run a forward on tensors of the device "meta", which have shapes and no values.

    Returns
    -------
    int
        The most bytes that its activations, and what it returns, hold at a time; its input and weights not counted.
    """
    with torch.no_grad(), _Watch() as watch:
        outputs = forward(x)
    del outputs
    return watch.most


class _Watch(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as somebody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in before and id(storage) not in self._alive:
                self._enter(storage)
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._alive[key] = weakref.finalize(storage, self._leave, key, size)
        self.now += size
        self.most = max(self.most, self.now)

    def _leave(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
