"""One annotated image, as training and evaluation see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Sample:
    """An image and what is known about it; all arrays share the spatial axes."""

    image: np.ndarray
    """(C, Y, X) or (C, Z, Y, X), float32, normalised."""
    labels: np.ndarray | None = None
    """(Y, X) or (Z, Y, X), int32: 0 is background, every object has its own number."""
    ignore: np.ndarray | None = None
    """Like ``labels``, bool: pixels that nobody annotated; no loss and no score there."""
    pixel_size: tuple[float, ...] | None = None
    """µm per pixel along each spatial axis, where known."""
    name: str = ""
    """What to call it in messages and tables."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What only one method needs, by its own name."""


@dataclass
class TokenPair:
    """A sequence of tokens and the one that belongs behind it, without tokens for begin, end and padding."""

    source: np.ndarray
    """(S), whole numbers."""
    target: np.ndarray
    """(T), likewise; empty where there is only one sequence."""
    name: str = ""
    """What to call it in messages."""
    difficulty: int = 0
    """How hard it is, on a scale of its own kind."""
