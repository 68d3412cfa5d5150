"""Many images restored into one folder: the images, what was taken away from them, and a report that shows both."""

from __future__ import annotations

import dataclasses
import math
import shutil
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
from abbe.data.write_zarr import write_image_zarr
from abbe.errors import AbbeError
from abbe.noise_look import middle
from abbe.ops.noise import Noise, estimate_noise
from abbe.ops.residual import Residual, evened, look_at_residual, spectrum, taken_away
from abbe.report.gallery import GalleryItem
from abbe.report.neighbours import spread
from abbe.report.page import Section, failures_section, gallery_section, picture_section, table, write_page
from abbe.restoration import Restored
from abbe.self_training import Learned

PICTURE = 384
"""Longer side of a part that is shown, in pixels."""
SHOWN = 12
"""Images in the report's gallery."""
ENDS = (0.5, 99.8)
"""Percentiles of the image that are black and white in the pictures, in both parts alike."""
REMOVED = 4.0
"""Deviations of what was taken away that are black and white in its picture."""
DECIBELS = (-15.0, 15.0)
"""Power over the mean that is black and white in the picture of its spectrum."""
SATURATED = 0.01
"""Share of the pixels at the largest value from which it is warned."""
FEW = 16
"""Number of them up to which it is not."""
MOVED = 0.5
"""Deviations of an image by which its mean has changed, from which it is warned."""
TOO_MUCH = 2.0
"""Times the noise that what was taken away is, from which it is warned."""
GROWN = 1.5
"""Times the noise before that the noise after is, from which it is warned."""
HEADS = {
    "image": ("image", ""),
    "frames": ("frames", ""),
    "noise_before": ("noise before", "grey values"),
    "noise_after": ("noise after", "grey values"),
    "removed": ("taken away", "of the noise"),
    "structure": ("structure in it", "1: none"),
    "seconds": ("time", "s"),
}
"""Columns of the report's table, with their heads and units."""


@dataclass
class RestoreBatch(Batch):
    """A run of restoration; see :class:`abbe.batch.Batch`.

    Parameters
    ----------
    learned
        Of a model that was learnt from the images.
    denoises
        Whether what is taken away should be noise: false of models that sharpen.
    """

    learned: Learned | None = None
    denoises: bool = True

    endings = ("_restored",)

    def told(self, row: dict[str, Any]) -> str:
        """Say what the noise was and is."""
        if math.isnan(row["noise_before"] + row["noise_after"]):
            return "restored"  # too small to measure its noise
        return f"noise {row['noise_before']:.4g} to {row['noise_after']:.4g}"

    def elsewhere(self) -> str:
        """Spare the user what was learnt already."""
        learnt = f" and --model {self.learned.run}, which has learnt already" if self.learned else ""
        return super().elsewhere() + learnt

    def write_one(self, item: Input, found: Restored) -> dict[str, Any]:  # type: ignore[override]
        """Write the restored image and a picture of what was done; gives its row in the ledger."""
        base = self.outputs.folder / item.relative
        image = found.series.image
        self._write_image(base, found)
        looks = [look_at(*planes(found, channel), self.settings.get("clip")) for channel in range(image.n_channels)]
        first = looks[0]
        write_png(base.with_name(f"{base.name}_restored.png"), picture(first.before, first.after, first.noise))
        warnings = list(image.warnings)
        for channel, look in enumerate(looks):
            where = f"channel {image.channels[channel] if image.channels else channel}: " if len(looks) > 1 else ""
            warnings += [where + said for said in warnings_of(look, self.denoises, self.learned is not None)]
        return {
            "image": item.relative.as_posix(),
            "frames": len(found.series),
            "noise_before": strength(first.noise) if first.noise else math.nan,
            "noise_after": strength(first.left) if first.left else math.nan,
            "removed": first.residual.relative,
            "structure": first.residual.excess,
            "seconds": found.seconds,
            "warnings": "; ".join(warnings),
        }

    def _write_image(self, base: Path, found: Restored) -> None:
        """Write the restored image, and remove the one that a run with another format left."""
        image = found.series.image
        tiff, zarr = (base.with_name(f"{base.name}_restored{ending}") for ending in (".tif", ".ome.zarr"))
        if self.outputs.zarr(image):
            write_image_zarr(zarr, dataclasses.replace(image, data=found.pixels, axes=found.axes, name=zarr.name))
            tiff.unlink(missing_ok=True)
        else:
            write_image(
                tiff,
                found.pixels,
                found.axes,
                image.pixel_size,
                image.channels,
                rgb=image.rgb,
                time_step=image.time_step,
                facts=image.facts,
            )
            shutil.rmtree(zarr, ignore_errors=True)

    def publish(
        self,
        rows: dict[Path, dict[str, Any]],
        record: dict[str, Any],
        failures: Sequence[tuple[str, str]],
        notes: Sequence[str],
    ) -> pd.DataFrame:
        """Write images.csv and report.html; gives the table of images."""
        folder, images = self.outputs.folder, pd.DataFrame(list(rows.values()))
        write_table(folder / "images.csv", images)
        cards = [("images", f"{len(rows):,}")]
        cards += [("files that failed", f"{len(failures):,}")] if failures else []
        shows = "before and after, below: what was taken away, in deviations of the noise, and its spectrum"
        gallery = gallery_section(self._items(images), {"typical": shows.capitalize()}, "Before and after", shows)
        parts = [gallery, *self._learning(), self._table(images), failures_section(failures)]
        write_page(
            folder / "report.html",
            title=self.title,
            sections=[part for part in parts if part is not None],
            cards=cards,
            notes=notes,
            provenance=record,
        )
        return images

    def _items(self, images: pd.DataFrame) -> list[GalleryItem]:
        """Choose images to show: those with warnings before the others."""
        order = np.argsort(images["warnings"] == "", kind="stable")
        shown = images.iloc[order[spread(len(images), SHOWN)]]
        return [
            GalleryItem(
                row["image"], self.outputs.folder / f"{row['image']}_restored.png", "typical", _caption(self, row)
            )
            for row in shown.to_dict("records")
        ]

    def _learning(self) -> list[Section]:
        """Tell how the model has learnt, with the blind-spot loss by epoch."""
        if self.learned is None or not (self.learned.run / "curves.png").exists():
            return []
        blind = "share" in self.learned.model.description.options
        what = (
            "the error at pixels that the network cannot see; noise keeps it up"
            if blind
            else "that of simulated scenes"
        )
        lines = [*self.learned.notes, f"The loss is {what}."]
        return [picture_section("What was learnt", self.learned.run / "curves.png", "loss by epoch", lines)]

    def _table(self, images: pd.DataFrame) -> Section:
        heads = HEADS | ({"warnings": ("warnings", "")} if images["warnings"].astype(bool).any() else {})
        note = '<p class="note">Also in <a href="images.csv">images.csv</a>.</p>'
        return Section(
            "Images", note + table(images, heads, {name: f"{name}_restored.png" for name in images["image"]})
        )


def _caption(batch: RestoreBatch, row: dict[str, Any]) -> str:
    return f"{batch.told(row)}{'; ' + row['warnings'] if row['warnings'] else ''}"


@dataclass(frozen=True)
class Look:
    """What is seen of a channel in the middle of one plane."""

    before: np.ndarray
    """(Y, X), in grey values."""
    after: np.ndarray
    """Likewise."""
    noise: Noise | None
    """Before; None where the plane is too small for that."""
    left: Noise | None
    """After."""
    residual: Residual
    """What was taken away."""
    moved: float
    """Change of the mean, over the deviation before."""


def look_at(before: np.ndarray, after: np.ndarray, clip: tuple[float, float] | None = None) -> Look:
    """Measure the noise of a plane (Y, X) before and after, and what was taken away, but for what was to be cut off."""
    noise, left = noise_of(before), noise_of(after)
    whole = after if clip is None else np.where((after > clip[0]) & (after < clip[1]), after, np.nan)
    residual = look_at_residual(before, whole, noise) if noise else Residual(*(math.nan,) * 4)
    return Look(before, after, noise, left, residual, shift(before, whole))


def planes(found: Restored, channel: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Take the middle of one plane before and after, (Y, X) in grey values, however large the image is."""
    series = found.series
    index = [channel if axis == "C" else extent // 2 for axis, extent in zip(series.axes, series.shape, strict=True)]
    frame = series[int(np.ravel_multi_index(index, series.shape)) if index else 0]
    inside = 0 if "C" in series.axes else channel
    box = middle(frame.extents)
    if len(box) == 3:
        box = ((frame.extents[0] // 2, frame.extents[0] // 2 + 1), *box[1:])
    places = dict(zip(frame.axes[-len(box) :], box, strict=True)) | {"C": (inside, inside + 1)}
    places |= {axis: (place, place + 1) for axis, place in zip(series.axes, index, strict=True)}
    after = found.pixels[tuple(slice(*places.get(axis, (0, 1))) for axis in found.axes)]
    sides = [stop - start for start, stop in box[-2:]]
    return frame.box(box)[inside].reshape(sides).astype(np.float32), after.reshape(sides).astype(np.float32)


def noise_of(plane: np.ndarray) -> Noise | None:
    """Measure the noise of a plane, in its own values; None where it is too small for that."""
    try:
        return estimate_noise(plane)
    except (AbbeError, ValueError):
        return None


def warnings_of(look: Look, denoises: bool, learnt: bool = False) -> list[str]:
    """Say what is odd about an image, or about what was taken away from it by a model, perhaps one just learnt."""
    noise, left, residual = look.noise, look.left, look.residual
    unfit = "the model does not fit this image" + ", or has learnt too briefly" * learnt
    finite = look.before[np.isfinite(look.before)]
    if finite.size == 0:
        return ["no pixel with a value"]
    found = ["no noise found"] if noise is not None and noise.verdict == "none" else []
    if denoises and look.moved > MOVED:
        found.append(f"the mean has changed by {look.moved:.1f} deviations of the image: {unfit}")
    if found:
        return found
    saturated = np.count_nonzero(finite == finite.max())
    if finite.min() < finite.max() and saturated > max(SATURATED * finite.size, FEW):
        found.append(f"{saturated / finite.size:.0%} of the pixels are saturated, whose noise is lost")
    if noise is not None and left is not None and (grown := strength(left) / strength(noise)) > GROWN:
        found.append(f"the noise has grown to {grown:,.1f} times what it was: {unfit}")
    elif denoises and residual.relative > TOO_MUCH:
        found.append(f"what was taken away is {residual.relative:,.1f} times the noise: {unfit}")
    elif denoises and residual.shows_structure:
        times = np.nanmax([residual.excess, residual.peak])
        found.append(f"what was taken away shows structure ({times:.1f} times noise): detail may be lost")
    return found


def shift(before: np.ndarray, after: np.ndarray) -> float:
    """Give by how much the mean has changed, over the deviation of the plane before."""
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return 0.0
    change = abs(float(after[known].mean(dtype=np.float64)) - float(before[known].mean(dtype=np.float64)))
    return change / (float(before[known].std(dtype=np.float64)) or 1e-12 + np.abs(before[known]).max() * 1e-6)


def strength(noise: Noise) -> float:
    """Give the deviation of a noise at the median of its image."""
    return noise.deviation(noise.level)


def picture(before: np.ndarray, after: np.ndarray, noise: Noise | None) -> np.ndarray:
    """Show the middle before and after, below them what was taken away and its spectrum, (2 Y, 2 X, 3) uint8.

    What was taken away is shown in deviations of the noise at each pixel, where these are known.
    """
    height, width = (min(extent, PICTURE) for extent in before.shape)
    top, left = (before.shape[0] - height) // 2, (before.shape[1] - width) // 2
    parts = [plane[top : top + height, left : left + width] for plane in (before, after)]
    known = parts[0][np.isfinite(parts[0])]
    low, high = np.percentile(known, ENDS) if known.size else (0.0, 1.0)
    taken = taken_away(*parts)
    taken = taken if noise is None else evened(taken, parts[1], noise)
    deviation = float(taken[np.isfinite(taken)].std()) if np.isfinite(taken).any() else 0.0
    spread = REMOVED * (deviation or 1.0)
    rows = [
        [stretched(part, low, high) for part in parts],
        [stretched(taken, -spread, spread), stretched(spectrum(taken), *DECIBELS)],
    ]
    return np.repeat(np.block(rows)[..., None], 3, axis=2)


def stretched(part: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values to black and white, uint8."""
    grey = np.clip((np.nan_to_num(part, posinf=high, neginf=low) - low) / ((high - low) or 1), 0, 1)
    return np.rint(grey * 255).astype(np.uint8)
