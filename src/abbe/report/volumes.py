"""One row per object of a volume: place, size, shape and brightness, in voxels and, where the file says it, in µm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from abbe.errors import AbbeError
from abbe.ops.volumes import shapes, volume_properties
from abbe.report.intensities import channel_names, intensity_columns

VOLUME_COLUMNS: dict[str, tuple[str, str]] = {
    "image": ("", "name of the image"),
    "label": ("", "number of the object in the label image"),
    "centroid_z": ("px", "mean plane of its voxels; the centre of the first voxel is 0"),
    "centroid_y": ("px", "mean row of its voxels"),
    "centroid_x": ("px", "mean column of its voxels"),
    "volume": ("voxels", "number of its voxels"),
    "equivalent_diameter": ("px", "diameter of the ball of as many voxels, were they cubes"),
    "major_axis": ("px", "longest diameter of the ellipsoid with the same second moments, were voxels cubes"),
    "middle_axis": ("px", "middle diameter of that ellipsoid"),
    "minor_axis": ("px", "shortest diameter of that ellipsoid"),
    "sphericity": (
        "",
        "surface of the ball of the same volume / its surface, 1 for a ball and at most 1; in µm where their size is "
        "known, else of cubes",
    ),
    "touches_border": ("", "whether the edge of the image cuts it, the first and the last plane included"),
    "centroid_z_um": ("µm", "mean height of its voxels above the first plane"),
    "centroid_y_um": ("µm", "mean row of its voxels"),
    "centroid_x_um": ("µm", "mean column of its voxels"),
    "volume_um3": ("µm³", "volume"),
    "surface_um2": ("µm²", "area of its surface, from the entries of lines in 13 directions (Crofton)"),
    "equivalent_diameter_um": ("µm", "diameter of the ball with the same volume"),
    "major_axis_um": ("µm", "longest diameter of the ellipsoid with the same second moments"),
    "middle_axis_um": ("µm", "middle diameter of that ellipsoid"),
    "minor_axis_um": ("µm", "shortest diameter of that ellipsoid"),
}
"""Name of each column of the object table of volumes: (unit, meaning), in the order of the table. The µm columns exist
only where the size of a voxel is known; intensities follow as in the table of pictures."""


def volumes_table(
    labels: np.ndarray,
    image: np.ndarray | None = None,
    *,
    pixel_size: tuple[float, float, float] | None = None,
    name: str = "",
    channels: Sequence[str] = (),
    offset: tuple[int, int, int] = (0, 0, 0),
    extent: tuple[int, int, int] | None = None,
) -> pd.DataFrame:
    """Measure the objects of a 3-D label image.

    Parameters
    ----------
    labels
        (Z, Y, X), whole numbers, 0 is background; numbers may have gaps.
    image
        (C, Z, Y, X) or (Z, Y, X), the values to measure, usually the image as it was read.
    pixel_size
        µm per voxel along Z, Y and X; adds the columns in µm, which respect that they differ.
    name
        Goes into the column ``image``.
    channels
        Names of the channels; see :func:`abbe.report.intensities.channel_names`.
    offset, extent
        Where `labels` are a part of an image: the part's first plane, row and column, and the (Z, Y, X) of the
        whole. Every object must lie within the part.

    Returns
    -------
    pandas.DataFrame
        One row per object by ascending label; the columns of :data:`VOLUME_COLUMNS` and the intensities of every
        channel, the same columns without rows where there are no objects.

    Raises
    ------
    AbbeError
        If labels are not (Z, Y, X) whole numbers, or the image does not lie on them.
    """
    intensity = _checked(labels, image)
    measured = volume_properties(labels, intensity, offset=offset)
    columns: dict[str, np.ndarray] = {"label": measured["label"].astype(np.int64), "volume": measured["voxels"]}
    columns |= {f"centroid_{axis}": measured["centroid"][:, i] for i, axis in enumerate("zyx")}
    columns |= _sizes(measured, "")
    columns["touches_border"] = _touches_border(measured["bbox"], extent or labels.shape)
    if pixel_size is not None:
        columns |= _in_micrometres(columns, measured, pixel_size)
    columns["sphericity"] = np.minimum(columns["sphericity"], 1.0)
    ordered = {column: columns[column] for column in VOLUME_COLUMNS if column in columns}
    if intensity is not None:
        ordered |= intensity_columns(measured, channel_names(len(intensity), channels))
    table = pd.DataFrame(ordered)
    table.insert(0, "image", pd.Series([name] * len(table), dtype="str"))
    return table


def _checked(labels: np.ndarray, image: np.ndarray | None) -> np.ndarray | None:
    """Refuse what cannot be measured; give the image as (C, Z, Y, X)."""
    if labels.ndim != 3 or labels.dtype.kind not in "biu":
        raise AbbeError(
            f"labels are {labels.ndim}-D {labels.dtype}, but volumes are measured on 3-D (Z, Y, X) whole numbers"
        )
    if image is None:
        return None
    intensity = image[None] if image.ndim == 3 else image
    if intensity.ndim != 4 or intensity.shape[1:] != labels.shape:
        raise AbbeError(
            f"image has shape {image.shape}, but its labels are {labels.shape}, expected (C, Z, Y, X) over them"
        )
    return intensity


def _touches_border(boxes: np.ndarray, extent: Sequence[int]) -> np.ndarray:
    """Tell from (x0, y0, z0, x1, y1, z1), ends excluded, which objects reach the edge of the whole image."""
    outside = np.concatenate([boxes[:, :3] <= 0, boxes[:, 3:] >= np.array(extent[::-1])], axis=1)
    return np.any(outside, axis=1)


def _sizes(shape: Mapping[str, np.ndarray], unit: str) -> dict[str, np.ndarray]:
    """Columns of lengths, their names ending in `unit`, and sphericity."""
    axes = zip(("major", "middle", "minor"), shape["axis_lengths"].T)
    lengths = {f"{axis}_axis{unit}": values for axis, values in axes}
    lengths[f"equivalent_diameter{unit}"] = shape["equivalent_diameter"]
    return lengths | {"sphericity": shape["sphericity"]}


def _in_micrometres(
    columns: Mapping[str, np.ndarray], measured: Mapping[str, np.ndarray], pixel_size: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    shape = shapes(measured, pixel_size)
    centroids = {f"centroid_{axis}_um": columns[f"centroid_{axis}"] * side for axis, side in zip("zyx", pixel_size)}
    sizes = {"volume_um3": columns["volume"] * math.prod(pixel_size), "surface_um2": shape["surface_area"]}
    return centroids | sizes | _sizes(shape, "_um")
