"""Many images restored into one folder: the images, what was done to them, and a report that shows both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.batch import Batch
from abbe.data.inputs import Input
from abbe.data.write import write_png, write_table
from abbe.data.write_image import write_image
from abbe.errors import AbbeError
from abbe.ops.noise import estimate_noise
from abbe.report.gallery import GalleryItem
from abbe.report.page import failures_section, gallery_section, write_page
from abbe.restoration import Restored

PICTURE = 512
"""Longer side of a part that is shown, in pixels."""
SHOWN = 12
"""Images in the report's gallery."""
ENDS = (0.5, 99.8)
"""Percentiles of the image that are black and white in the pictures, in both parts alike."""


@dataclass
class RestoreBatch(Batch):
    """A run of restoration; see :class:`abbe.batch.Batch`."""

    def told(self, row: dict[str, Any]) -> str:
        """Say what the noise was and is."""
        return f"noise {row['noise before']:.4g} to {row['noise after']:.4g}"

    def write_one(self, item: Input, found: Restored) -> dict[str, Any]:  # type: ignore[override]
        """Write the restored image and a picture of both; gives its row in the ledger."""
        base = self.outputs.folder / item.relative
        image = found.series.image
        target = base.with_name(f"{base.name}_restored.tif")
        write_image(target, found.pixels, found.axes, image.pixel_size, image.channels)
        before, after = planes(found)
        write_png(base.with_name(f"{base.name}_restored.png"), beside(before, after))
        noises = [noise_of(plane) for plane in (before, after)]
        return {
            "image": item.relative.as_posix(),
            "frames": len(found.series),
            "noise before": noises[0],
            "noise after": noises[1],
            "seconds": found.seconds,
            "warnings": "; ".join(image.warnings),
        }

    def publish(
        self,
        rows: dict[Path, dict[str, Any]],
        record: dict[str, Any],
        failures: Sequence[tuple[str, str]],
        notes: Sequence[str],
    ) -> pd.DataFrame:
        """Write images.csv and report.html; gives the table of images."""
        folder, table = self.outputs.folder, pd.DataFrame(list(rows.values()))
        write_table(folder / "images.csv", table)
        cards = [("images", f"{len(rows):,}")]
        cards += [("files that failed", f"{len(failures):,}")] if failures else []
        parts = [gallery_section(self._items(table), {"typical": "Before and after"}), failures_section(failures)]
        write_page(
            folder / "report.html",
            title=self.title,
            sections=[part for part in parts if part is not None],
            cards=cards,
            notes=notes,
            provenance=record,
        )
        return table

    def _items(self, table: pd.DataFrame) -> list[GalleryItem]:
        shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, SHOWN).astype(int))]
        return [
            GalleryItem(row["image"], self.outputs.folder / f"{row['image']}_restored.png", "typical", self.told(row))
            for row in shown.to_dict("records")
        ]


def planes(found: Restored) -> tuple[np.ndarray, np.ndarray]:
    """Take one plane (Y, X) before and after, from the middle of the image."""
    middle = len(found.series) // 2
    frame = found.series[middle]
    box = tuple((extent // 2, extent // 2 + 1) for extent in frame.extents[:-2]) + tuple(
        (0, extent) for extent in frame.extents[-2:]
    )
    before = frame.box(box)[0]
    after = found.pixels[found.series.index(middle)]
    while after.ndim > 2:
        after = after[after.shape[0] // 2 if after.shape[0] != frame.n_channels else 0]
    return before.reshape(after.shape).astype(np.float32), after.astype(np.float32)


def noise_of(plane: np.ndarray) -> float:
    """Measure the noise of a plane at its median brightness, in its own values; NaN where it is too small for that."""
    try:
        noise = estimate_noise(plane)
    except (AbbeError, ValueError):
        return float("nan")
    return float(noise.deviation(float(np.median(plane))))


def beside(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Show the middle of both, (Y, 2 X, 3) uint8, in one range of brightness."""
    height, width = (min(extent, PICTURE) for extent in before.shape)
    top, left = (before.shape[0] - height) // 2, (before.shape[1] - width) // 2
    parts = [plane[top : top + height, left : left + width] for plane in (before, after)]
    low, high = np.percentile(parts[0], ENDS)
    grey = np.clip((np.hstack(parts) - low) / ((high - low) or 1), 0, 1)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=2)
