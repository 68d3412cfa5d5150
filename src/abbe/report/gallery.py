"""Which images a report shows, and their pictures made small enough to lie inside the page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from abbe.report.images import split_warnings

MAX_ITEMS = 12
MAX_BYTES = 300_000
"""Of one picture in the page; twelve of them stay below 5 MB even as base64."""
MAX_SIDE = 1024
OUTLIER = 3.5
"""Robust z-score from which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
COMPARED = {
    "count": "count",
    "median_area": "median area",
    "median_volume": "median volume",
    "foreground": "covered share",
    "mean_intensity": "intensity",
    "confidence": "confidence",
}
"""Columns of the image table by which images are compared, and how the report calls them."""

Kind = Literal["worst", "typical"]


@dataclass(frozen=True)
class GalleryItem:
    """One picture of the gallery."""

    name: str
    """Of the image, as in the tables."""
    picture: np.ndarray | Path
    """(Y, X, 3) uint8, usually from :func:`abbe.report.overlay.overlay_of` with ``max_side=1024``, or a PNG file."""
    kind: Kind = "typical"
    """Whether it is shown among those to look at again or among the typical ones."""
    caption: str = ""
    """Why it is shown, or what is seen."""
    link: str = ""
    """Where the full picture lies, relative to the page."""


@dataclass(frozen=True)
class Choice:
    """An image that the gallery should show, and why."""

    name: str
    kind: Kind
    reason: str


def choose_gallery(images: pd.DataFrame, limit: int = MAX_ITEMS) -> list[Choice]:
    """Choose the images worth showing: the worst first, then the most typical.

    An image is bad by the warnings that not all images share and by a count, median size, covered share or mean
    intensity far from those of the others. At most half of the gallery goes to bad images while there are typical
    ones to fill it.

    Parameters
    ----------
    images
        Rows of :func:`abbe.report.images.image_row`; a column ``confidence`` counts too, where there is one.
    limit
        How many images to choose at most.
    """
    if images.empty:
        return []
    warnings, scores = _own_warnings(images), _robust_scores(images)
    reasons = [found or _apart(row) for found, (_, row) in zip(warnings, scores.iterrows())]
    distance = scores.abs().max(axis=1)
    # Every warning weighs more than any distance: it is a sentence about this image, not a comparison.
    badness = np.array([len(found) for found in warnings]) * 1e6 + np.minimum(distance, 1e5)
    bad = [i for i in np.argsort(-badness, kind="stable") if reasons[i]]
    good = [i for i in np.argsort(distance, kind="stable") if not reasons[i]]
    n_bad = min(len(bad), max(limit // 2, limit - len(good)))
    names = images["image"].astype(str).tolist()
    return [
        *(Choice(names[i], "worst", "; ".join(reasons[i])) for i in bad[:n_bad]),
        *(Choice(names[i], "typical", "") for i in good[: limit - n_bad]),
    ]


def _own_warnings(images: pd.DataFrame) -> list[list[str]]:
    """List the warnings of each image that not all images share."""
    found = [split_warnings(joined) for joined in images["warnings"]]
    seen = Counter(warning for own in found for warning in set(own))
    everywhere = {warning for warning, n in seen.items() if n == len(found) > 1}
    return [[warning for warning in own if warning not in everywhere] for own in found]


def _apart(scores: pd.Series) -> list[str]:
    """Say by what one image is far from the others."""
    outlying = scores[scores.abs() > OUTLIER]
    return [f"unusually {'low' if score < 0 else 'high'} {name}" for name, score in outlying.items()]


def _robust_scores(images: pd.DataFrame) -> pd.DataFrame:
    """Measure how far each image lies above (+) or below (−) the median image, in units of a robust standard deviation.

    Zero where fewer than five images are known: too few to call one unusual.
    """
    known = {name: images[column].astype(float) for column, name in COMPARED.items() if column in images}
    # Counts and sizes differ by factors, not by amounts: half as many is as unusual as twice as many.
    values = np.log(pd.DataFrame(known).reset_index(drop=True).clip(lower=0) + 1e-3)
    distance = values - values.median()
    # The floor, a tenth of the value, keeps images that are nearly equal from being outliers of each other.
    scores = distance / np.maximum(1.4826 * distance.abs().median(), 0.1)
    return scores.fillna(0.0) * (values.notna().sum() >= 5)


def data_uri(picture: np.ndarray | Path) -> tuple[str, int, int]:
    """Encode a picture as JPEG of at most 300 kB in base64.

    Returns
    -------
    tuple
        The address for ``src``, and the encoded picture's width and height in pixels.
    """
    image = Image.open(picture).convert("RGB") if isinstance(picture, Path) else Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    encoded = _jpeg(image)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}", image.width, image.height


def _jpeg(image: Image.Image) -> bytes:
    """Lower the quality, then the size, until the file is small enough; thin contours need full colour resolution."""
    shown = image
    while True:
        for quality in (88, 75, 60):
            buffer = io.BytesIO()
            shown.save(buffer, "JPEG", quality=quality, subsampling=0)
            if buffer.tell() <= MAX_BYTES:
                return buffer.getvalue()
        shown = shown.resize((max(1, shown.width * 3 // 4), max(1, shown.height * 3 // 4)), Image.Resampling.BOX)
