"""Decoded parts of a file, kept for the next read: tiles overlap, and decoding is most of what reading costs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

KEPT_BYTES = 64 * 2**20
"""What is kept of one image, or a single part if that is more."""


class Kept:
    """The last parts that were used, up to :data:`KEPT_BYTES`; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock, self._parts, self._bytes = threading.Lock(), OrderedDict[Hashable, np.ndarray](), 0

    def get(self, key: Hashable) -> np.ndarray | None:
        """Give a part, if it is there."""
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
            return self._parts.get(key)

    def put(self, key: Hashable, part: np.ndarray) -> None:
        """Keep a part in place of those that were used longest ago."""
        with self._lock:
            if key not in self._parts:
                self._parts[key] = part
                self._bytes += part.nbytes
            while self._bytes > KEPT_BYTES and len(self._parts) > 1:
                self._bytes -= self._parts.popitem(last=False)[1].nbytes

    def __getstate__(self) -> dict[str, object]:
        """Travel empty."""
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]
