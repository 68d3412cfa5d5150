"""Columns of the object tables for the brightness of objects, and the names of channels in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

INTENSITIES: dict[str, str] = {
    "mean": "mean of its pixels",
    "min": "smallest of its pixels",
    "max": "largest of its pixels",
    "sum": "sum over its pixels, background not subtracted",
}
"""Measurements of a channel; their columns are named ``<measurement>_<channel>``."""


def channel_names(n: int, names: Sequence[str] = ()) -> list[str]:
    """Make channel names fit for columns.

    One channel is always ``intensity``, so that the tables of single-channel images fit together whatever their
    channel is called. Of more channels each keeps its name with everything but letters and digits as ``_``;
    nameless ones are ``channel1``, ``channel2`` …; equal names are numbered: ``DAPI``, ``DAPI_2``.
    """
    if n == 1:
        return ["intensity"]
    cleaned: list[str] = []
    for index in range(n):
        given = names[index] if index < len(names) else ""
        stem = re.sub(r"\W+", "_", given).strip("_") or f"channel{index + 1}"
        taken = {other.lower() for other in cleaned}
        candidates = (stem if k == 1 else f"{stem}_{k}" for k in range(1, n + 2))
        cleaned.append(next(name for name in candidates if name.lower() not in taken))
    return cleaned


def intensity_columns(measured: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name the columns of every channel.

    Parameters
    ----------
    measured
        With ``intensity_mean`` and so on, as regionprops calls them, each (N, C).
    names
        Of the channels, see :func:`channel_names`.
    """
    return {
        f"{measurement}_{channel}": measured[f"intensity_{measurement}"][:, index]
        for index, channel in enumerate(names)
        for measurement in INTENSITIES
    }


def intensity_meaning(column: str) -> tuple[str, str]:
    """Give unit and meaning of a channel's column; two empty texts for a column of something else."""
    measurement, _, channel = column.partition("_")
    if measurement not in INTENSITIES or not channel:
        return "", ""
    where = "" if channel == "intensity" else f" in channel {channel}"
    return "grey level", INTENSITIES[measurement] + where
