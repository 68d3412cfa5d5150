"""The objects table of a label image of any size, measured in bands of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from abbe.data.image import Image
from abbe.report.objects import objects_table

BAND = 2**22
"""Pixels of a band, unless the objects in it are larger."""


def measure_labels(labels: np.ndarray, image: Image | None = None, *, name: str = "", band: int = BAND) -> pd.DataFrame:
    """Measure every object, with memory for a band rather than for the image.

    Parameters
    ----------
    labels
        (Y, X), whole numbers, 0 is background; also a memory map.
    image
        Planar, of the same extents: for intensities, pixel size and name.
    name
        Goes into the column ``image``; that of the image unless given.
    band
        Pixels to measure at a time.

    Returns
    -------
    pandas.DataFrame
        As :func:`abbe.report.objects.objects_table` gives, by ascending label.
    """
    rows = max(band // max(labels.shape[1], 1), 1)
    size = pixel_size_yx(image) if image is not None else None
    tables = [
        objects_table(
            part,
            image.region(y0, y0 + len(part), 0, labels.shape[1]) if image is not None else None,
            pixel_size=size,
            name=name or (image.name if image is not None else ""),
            channels=image.channels if image is not None else (),
            offset=(y0, 0),
            extent=labels.shape,
        )
        for y0, part in whole_objects(labels, rows)
    ]
    filled = [table for table in tables if len(table)]
    if not filled:
        return tables[0]
    return pd.concat(filled, ignore_index=True).sort_values("label", ignore_index=True)


def whole_objects(labels: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a label image into windows of rows that together hold every object once, and whole.

    Yields
    ------
    tuple
        The window's first row, and its labels without the objects that belong to another window.
    """
    height = len(labels)
    start, stop = 0, min(rows, height)
    finished = np.zeros(1, bool)  # by label: it was in an earlier window
    while True:
        window = labels[start:stop]
        waiting = np.unique(window[-1]) if stop < height else np.zeros(0, labels.dtype)
        finished = np.pad(finished, (0, max(int(window.max()) + 1 - len(finished), 0)))
        excluded = finished.copy()
        excluded[waiting] = excluded[0] = True
        yield start, np.where(excluded[window], 0, window)
        if stop == height:
            return
        finished |= np.bincount(window.ravel(), minlength=len(finished)).astype(bool) & ~excluded
        pending = (np.isin(window, waiting[waiting > 0])).any(axis=1)
        start += int(pending.argmax()) if pending.any() else len(window)
        stop = min(max(stop, start) + rows, height)


def pixel_size_yx(image: Image) -> tuple[float, float] | None:
    """Give µm per pixel along Y and X, or None where unknown."""
    size = image.pixel_size
    return (size["y"], size["x"]) if "y" in size and "x" in size else None
