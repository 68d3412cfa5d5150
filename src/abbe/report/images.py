"""One row per image, and in plain words what a careful person would want to look at again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from abbe.report.pixels import Survey

SEPARATOR = "; "
SMALL, LARGE = 8.0, 150.0
"""Median diameters in pixels below and above which a network for nuclei sees too little or too much of an object."""
SMALL_VOLUME = 5.0
"""The same of volumes: a ball of so few voxels across is flat where planes are far apart, and yet well seen."""
SATURATED, FULL, CUT = 0.01, 0.9, 0.5
"""Shares above which one is warned: saturated values, foreground, objects cut by the image's edge."""
GREY_LEVELS, RELATIVE_CONTRAST = 8, 1e-3
"""Contrast below this many grey levels, or this share of the largest value for fractional numbers, is very low."""
UNKNOWN_PIXEL_SIZE = "pixel size unknown, sizes are in pixels only"
"""The one warning that says nothing about the image itself; the report tells it once for all images."""

IMAGE_COLUMNS: dict[str, tuple[str, str]] = {
    "image": ("", "name of the image"),
    "count": ("", "number of objects"),
    "density_per_megapixel": ("1/10⁶ px", "objects per million pixels"),
    "density_per_mm2": ("1/mm²", "objects per square millimetre; empty where the pixel size is unknown"),
    "median_area": ("px", "median area of the objects; empty without objects"),
    "median_area_um2": ("µm²", "the same in square micrometres; empty where the pixel size is unknown"),
    "foreground": ("", "share of the image that objects cover, 0 to 1"),
    "mean_intensity": ("grey level", "mean of all pixels and channels, background included"),
    "touching_border": ("", "number of objects cut by the image's edge"),
    "height": ("px", "rows of the image"),
    "width": ("px", "columns of the image"),
    "depth": ("", "planes of a volume, 1 for a picture"),
    "frames": ("", "time points and planes that were segmented one by one, 1 where none were"),
    "pixel_size_um": ("µm", "size of a pixel, the geometric mean of its two sides; empty where unknown"),
    "seconds": ("s", "time that the image took"),
    "warnings": ("", "what to look at again, joined by semicolons; empty where nothing was noticed"),
}
"""Name of each column of the image table: (unit, meaning), in the order of the table."""

OF_VOLUMES: dict[str, tuple[str, str, str]] = {
    "density_per_megapixel": ("density_per_megavoxel", "1/10⁶ voxels", "objects per million voxels"),
    "density_per_mm2": ("density_per_mm3", "1/mm³", "objects per cubic millimetre; empty where unknown"),
    "median_area": ("median_volume", "voxels", "median volume of the objects; empty without objects"),
    "median_area_um2": ("median_volume_um3", "µm³", "the same in cubic micrometres; empty where unknown"),
}
"""Columns that others take the place of where the objects are volumes: (name, unit, meaning)."""


def image_row(
    name: str,
    objects: pd.DataFrame,
    survey: Survey,
    *,
    pixel_size: tuple[float, ...] | None = None,
    seconds: float = math.nan,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Summarise one image.

    Parameters
    ----------
    name
        What the image is called in all tables.
    objects
        Its table from :func:`abbe.report.objects.objects_table` or, of a volume,
        :func:`abbe.report.volumes.volumes_table`; of a series those of all its frames.
    survey
        What one pass over its pixels said.
    pixel_size
        µm per pixel along Y and X, or along Z, Y and X.
    seconds
        Time that it took.
    warnings
        Sentences for the last column, usually those of the reader and of :func:`warnings_for`.

    Returns
    -------
    dict
        One value for each of :data:`IMAGE_COLUMNS`, in that order; NaN where unknown. Of volumes some are called as
        :data:`OF_VOLUMES` says.
    """
    *_, height, width = survey.shape
    size, extent, n_axes = _size(objects), _pixels(survey), 3 if is_volumes(objects) else 2
    sides = (pixel_size or ())[-n_axes:]
    of_one = math.prod(sides) if len(sides) == n_axes else math.nan
    median = float(objects[size].median()) if len(objects) else math.nan
    row = {
        "image": name,
        "count": len(objects),
        "density_per_megapixel": len(objects) / extent * 1e6,
        "density_per_mm2": len(objects) / (extent * of_one) * 1e3**n_axes,
        "median_area": median,
        "median_area_um2": median * of_one,
        "foreground": float(objects[size].sum()) / extent,
        "mean_intensity": survey.mean,
        "touching_border": int(objects["touches_border"].sum()),
        "height": height,
        "width": width,
        "depth": survey.shape[1] if len(survey.shape) == 4 else 1,
        "frames": survey.frames,
        "pixel_size_um": math.sqrt(math.prod(pixel_size[-2:])) if pixel_size else math.nan,
        "seconds": seconds,
        "warnings": SEPARATOR.join(warnings),
    }
    return {in_volumes(column) if is_volumes(objects) else column: value for column, value in row.items()}


def is_volumes(table: pd.DataFrame) -> bool:
    """Tell a table of volumes, of objects or of images, from one of areas."""
    return "volume" in table or "median_volume" in table


def in_volumes(column: str) -> str:
    """Name the column that takes the place of another where the objects are volumes."""
    return OF_VOLUMES[column][0] if column in OF_VOLUMES else column


def _size(objects: pd.DataFrame) -> str:
    return "volume" if is_volumes(objects) else "area"


def _pixels(survey: Survey) -> int:
    """Pixels of all frames, or voxels."""
    return survey.frames * math.prod(survey.shape[1:])


def warnings_for(survey: Survey, objects: pd.DataFrame, *, pixel_size: tuple[float, ...] | None = None) -> list[str]:
    """Say in plain words what is unusual about an image and its objects, gravest first; an empty list is good news."""
    return [
        *_about_objects(survey, objects),
        *_about_pixels(survey),
        *([] if pixel_size is not None else [UNKNOWN_PIXEL_SIZE]),
    ]


def _about_pixels(survey: Survey) -> list[str]:
    found = []
    if survey.not_finite > 0:
        found.append(f"{_percent(survey.not_finite)} of the values are NaN or infinite")
    if not survey.maximum > survey.minimum:
        found.append("the image is constant")
    elif survey.contrast < _least_contrast(survey):
        found.append("very low contrast")
    # The empty background of a bright-field image is rightly at full scale; an overexposed fluorescence image is not.
    if survey.saturated > SATURATED and survey.mean < survey.maximum / 2:
        found.append(f"{_percent(survey.saturated)} of the values are saturated, their intensities are too low")
    return found


def _least_contrast(survey: Survey) -> float:
    if survey.integer:
        return GREY_LEVELS if survey.maximum - survey.minimum > 1 else 0  # a mask has all the contrast it can have
    return RELATIVE_CONTRAST * max(abs(survey.maximum), abs(survey.minimum))


def _about_objects(survey: Survey, objects: pd.DataFrame) -> list[str]:
    if not len(objects):
        return ["no objects found"]
    found = []
    foreground = objects[_size(objects)].sum() / _pixels(survey)
    if foreground > FULL:
        found.append(f"objects cover {_percent(foreground)} of the image")
    diameter = float(objects["equivalent_diameter"].median())
    if diameter < (SMALL_VOLUME if is_volumes(objects) else SMALL):
        found.append(f"objects are very small (median diameter {diameter:.1f} px), check the pixel size")
    elif diameter > LARGE:
        found.append(f"objects are very large (median diameter {diameter:.0f} px), check the pixel size")
    cut = objects["touches_border"].mean()
    if cut > CUT and len(objects) > 1:
        edge = ", the first or the last plane" if is_volumes(objects) else ""
        found.append(f"{_percent(cut)} of the objects are cut by the image's edge{edge}")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.2g} %"


def split_warnings(joined: object) -> list[str]:
    """Take apart what the column ``warnings`` joins, leaving out that the pixel size is unknown."""
    found = joined.split(SEPARATOR) if isinstance(joined, str) else []
    return [warning for warning in found if warning and warning != UNKNOWN_PIXEL_SIZE]
