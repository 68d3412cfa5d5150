"""Abbe: deep-learning image analysis for microscopy and biomedical images.

The door for visitors. Nothing heavy is imported until a name is used::

    import abbe

    result = abbe.segment("plate1/well_A1.tif")
    result.objects      # a DataFrame, one row per object
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abbe.api import classify, convert, create, embed, evaluate, info, load, measure, read, restore, segment

__version__ = "0.1.0"
__all__ = [
    "classify",
    "convert",
    "create",
    "embed",
    "evaluate",
    "info",
    "load",
    "measure",
    "read",
    "restore",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("abbe.api"), name)
    raise AttributeError(f"module 'abbe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
