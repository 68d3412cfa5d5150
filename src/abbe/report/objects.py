"""One row per object: place, size, shape and brightness, in pixels and, where the pixel size is known, in µm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from abbe.errors import AbbeError
from abbe.ops.regions import region_properties
from abbe.report.intensities import channel_names, intensity_columns, intensity_meaning
from abbe.report.volumes import VOLUME_COLUMNS

COLUMNS: dict[str, tuple[str, str]] = {
    "image": ("", "name of the image"),
    "label": ("", "number of the object in the label image"),
    "centroid_y": ("px", "mean row of its pixels; the centre of the first pixel is 0"),
    "centroid_x": ("px", "mean column of its pixels"),
    "area": ("px", "number of its pixels"),
    "perimeter": ("px", "length of its outline, through the centres of its border pixels"),
    "circularity": ("", "4π area / perimeter², 1 for a disk and at most 1; empty for objects without an outline"),
    "eccentricity": ("", "of the ellipse with the same second moments: 0 for a circle, towards 1 for a line"),
    "solidity": ("", "share of its convex hull that it fills"),
    "orientation": ("rad", "angle from the y axis to the major axis, −π/2 to π/2, counter-clockwise"),
    "major_axis": ("px", "longer diameter of the ellipse with the same second moments"),
    "minor_axis": ("px", "shorter diameter of that ellipse"),
    "equivalent_diameter": ("px", "diameter of the disk with the same area"),
    "touches_border": ("", "whether the edge of the image cuts it"),
    "centroid_y_um": ("µm", "mean row of its pixels"),
    "centroid_x_um": ("µm", "mean column of its pixels"),
    "area_um2": ("µm²", "area"),
    "perimeter_um": ("µm", "length of its outline; empty where pixels are not square"),
    "major_axis_um": ("µm", "longer diameter; empty where pixels are not square"),
    "minor_axis_um": ("µm", "shorter diameter; empty where pixels are not square"),
    "equivalent_diameter_um": ("µm", "diameter of the disk with the same area"),
}
"""Name of each column of the object table: (unit, meaning), in the order of the table. The µm columns exist only where
the pixel size is known; :data:`abbe.report.intensities.INTENSITIES` follow for every channel: ``mean_DAPI``."""

SERIES_COLUMNS: dict[str, tuple[str, str]] = {
    "time": ("", "time point it was found in, from 0"),
    "channel": ("", "channel it was found in: its name, or its number from 0"),
    "z": ("", "plane it was found in, from 0"),
}
"""Columns after ``label`` where time points, channels or planes were segmented one by one."""

SQUARE = 0.01
"""Pixels whose sides differ by less than this share count as square."""

_PROPERTIES = {
    "area": "area",
    "perimeter": "perimeter",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "orientation": "orientation",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "equivalent_diameter": "equivalent_diameter",
}


def objects_table(
    labels: np.ndarray,
    image: np.ndarray | None = None,
    *,
    pixel_size: tuple[float, float] | None = None,
    name: str = "",
    channels: Sequence[str] = (),
    offset: tuple[int, int] = (0, 0),
    extent: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Measure the objects of a label image.

    Parameters
    ----------
    labels
        (Y, X), whole numbers, 0 is background; numbers may have gaps.
    image
        (C, Y, X) or (Y, X), the values to measure, usually the image as it was read.
    pixel_size
        µm per pixel along Y and X; adds the columns in µm. Lengths in any direction are given in µm only where
        the two differ by less than 1 %; area and centroids always.
    name
        Goes into the column ``image``.
    channels
        Names of the channels; see :func:`abbe.report.intensities.channel_names`.
    offset, extent
        Where `labels` are a part of an image: the part's first row and column, and the (Y, X) of the whole.
        Every object must lie within the part.

    Returns
    -------
    pandas.DataFrame
        One row per object by ascending label; the columns of :data:`COLUMNS` and the intensities of every channel,
        the same columns without rows where there are no objects.

    Raises
    ------
    AbbeError
        If labels are not (Y, X) whole numbers, or the image does not lie on them.
    """
    intensity = _checked(labels, image)
    measured = region_properties(labels, intensity, offset)
    columns: dict[str, np.ndarray] = {"label": measured["label"].astype(np.int64)}
    columns |= {f"centroid_{axis}": measured["centroid"][:, i] for i, axis in enumerate("yx")}
    columns |= {ours: measured[theirs] for ours, theirs in _PROPERTIES.items()}
    columns["circularity"] = np.minimum(measured["circularity"], 1.0)  # NaN stays NaN
    columns["touches_border"] = _touches_border(measured["bbox"], extent or labels.shape)
    if pixel_size is not None:
        columns |= _in_micrometres(columns, pixel_size)
    ordered = {column: columns[column] for column in COLUMNS if column in columns}
    if intensity is not None:
        ordered |= intensity_columns(measured, channel_names(len(intensity), channels))
    table = pd.DataFrame(ordered)
    table.insert(0, "image", pd.Series([name] * len(table), dtype="str"))
    return table


def meaning_of(column: str, volumes: bool = False) -> tuple[str, str]:
    """Give unit and meaning of a column of the object table; two empty texts for a column of someone else's.

    Parameters
    ----------
    column
        Its name.
    volumes
        The table is one of :func:`abbe.report.volumes.volumes_table`, where some names mean their 3-D twins.
    """
    first, second = (VOLUME_COLUMNS, COLUMNS) if volumes else (COLUMNS, VOLUME_COLUMNS)
    known = second | SERIES_COLUMNS | first
    return known[column] if column in known else intensity_meaning(column)


def _checked(labels: np.ndarray, image: np.ndarray | None) -> np.ndarray | None:
    """Refuse what cannot be measured; give the image as (C, Y, X)."""
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise AbbeError(
            f"labels are {labels.ndim}-D {labels.dtype}, but objects are measured on 2-D (Y, X) whole numbers"
        )
    if image is None:
        return None
    intensity = image[None] if image.ndim == 2 else image
    if intensity.ndim != 3 or intensity.shape[1:] != labels.shape:
        raise AbbeError(
            f"image has shape {image.shape}, but its labels are {labels.shape}, expected (C, Y, X) over them"
        )
    return intensity


def _touches_border(boxes: np.ndarray, extent: tuple[int, ...]) -> np.ndarray:
    """Tell from (x0, y0, x1, y1), ends excluded, which objects reach the edge of the whole image."""
    height, width = extent
    left, top, right, bottom = boxes.T
    return (left <= 0) | (top <= 0) | (right >= width) | (bottom >= height)


def _in_micrometres(columns: dict[str, np.ndarray], pixel_size: tuple[float, float]) -> dict[str, np.ndarray]:
    y, x = pixel_size
    side = math.sqrt(y * x)
    length = side if abs(y / x - 1) < SQUARE else math.nan
    factors = {
        "centroid_y": y,
        "centroid_x": x,
        "perimeter": length,
        "major_axis": length,
        "minor_axis": length,
        "equivalent_diameter": side,
    }
    return {f"{column}_um": columns[column] * factor for column, factor in factors.items()} | {
        "area_um2": columns["area"] * y * x
    }
