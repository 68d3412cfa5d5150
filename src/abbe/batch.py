"""One verb on many images: nothing is lost by a bad file, Ctrl-C or a second run.

Each finished image leaves its files and, in the hidden folder ``.abbe``, its rows; the tables and the report are made
of those rows at the end, also when the end comes early. A second run takes what is there and does the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.data.image import Image
from abbe.data.inputs import Input
from abbe.data.rois import write_geojson, write_imagej_rois
from abbe.data.write import write_labels, write_png, write_table, write_text
from abbe.errors import AbbeError
from abbe.report.gallery import GalleryItem, choose_gallery
from abbe.report.images import image_row, warnings_for
from abbe.report.measure import pixel_size_yx
from abbe.report.objects import COLUMNS
from abbe.report.overlay import overlay_of
from abbe.report.page import write_report
from abbe.report.pixels import survey
from abbe.report.provenance import provenance, write_provenance

logger = logging.getLogger(__name__)

LEDGER = ".abbe"


@dataclass(frozen=True)
class Outputs:
    """What to write, and where."""

    folder: Path
    """Gets everything; made if it is not there."""
    rois: bool = False
    """Also write outlines, as ImageJ ROI zip and as GeoJSON for QuPath."""
    overwrite: bool = False
    """Do again what is done already."""


@dataclass
class BatchResult:
    """What came of a run."""

    folder: Path
    """Where the results are."""
    images: pd.DataFrame
    """One row per finished image, as in images.csv."""
    skipped: int = 0
    """Images that an earlier run had finished."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of each image that could not be done."""
    interrupted: bool = False
    """Ctrl-C ended it early."""


@dataclass(frozen=True)
class Found:
    """What a verb found in one image."""

    image: Image
    """Planar."""
    labels: np.ndarray
    """(Y, X), 0 is background."""
    objects: pd.DataFrame
    """Their measurements."""
    seconds: float = math.nan
    """Time that finding them took."""
    write_labels: bool = True
    """False where the labels were given, not found."""


@dataclass
class Batch:
    """A run over many images into one folder.

    Parameters
    ----------
    outputs
        What to write, and where.
    settings
        Everything that changes the results; a second run with others is refused.
    title
        Of the report.
    command
        The words of the command line.
    model
        Description and hash of the model, for the record.
    device
        Where the network runs.
    """

    outputs: Outputs
    settings: dict[str, Any]
    title: str
    command: Sequence[str] = ()
    model: dict[str, Any] | None = None
    device: str = "cpu"

    def run(self, inputs: Sequence[Input], find: Callable[[Path], Found], tell: Callable[[str], None]) -> BatchResult:
        """Do every input that is not done; ``tell`` gets a line for each.

        Raises
        ------
        AbbeError
            When the folder cannot be used, or holds results of other settings.
        """
        started = datetime.now(UTC)
        self._open()
        result = BatchResult(self.outputs.folder, pd.DataFrame())
        try:
            for number, item in enumerate(inputs, 1):
                tell(f"[{number}/{len(inputs)}] {self._do(item, find, result)}")
        except KeyboardInterrupt:
            result.interrupted = True
        result.images = self._finish(inputs, result, started)
        return result

    def _do(self, item: Input, find: Callable[[Path], Found], result: BatchResult) -> str:
        """Do one image and say how it went."""
        key = self._key(item)
        if not self.outputs.overwrite and key and self._row(item).get("fingerprint") == key:
            result.skipped += 1
            return f"{item.path}: done already"
        try:
            self._spare_others(item)
            found = find(item.path)
            row = self._write(item, found, key)
        except AbbeError as error:
            return self._fail(item, str(error), result)
        except Exception as error:  # whatever one file does, the others are done
            logger.debug("%s failed", item.path, exc_info=True)
            return self._fail(item, f"{item.path}: {type(error).__name__}: {error}", result)
        warned = f" ({row['warnings']})" if row["warnings"] else ""
        took = "" if math.isnan(found.seconds) else f" in {found.seconds:.1f} s"
        return f"{item.path}: {row['count']} objects{took}{warned}"

    def _spare_others(self, item: Input) -> None:
        """Refuse to write over what an earlier run found in a file of the same name in another folder."""
        earlier = self._row(item).get("path", "")
        if not self.outputs.overwrite and earlier not in ("", str(item.path.resolve())):
            raise AbbeError(
                f"{item.path}: {self.outputs.folder} holds results of {earlier} under this name; choose another "
                "folder with --out, or give both in one command, or replace them with --overwrite"
            )

    def _fail(self, item: Input, reason: str, result: BatchResult) -> str:
        result.failures.append((str(item.path), reason))
        return f"failed: {reason}"

    def _write(self, item: Input, found: Found, key: str) -> dict[str, Any]:
        """Write the files of one image; its row in the ledger comes last, and makes it done."""
        base = self.outputs.folder / item.relative
        size = pixel_size_yx(found.image)
        if found.write_labels:
            write_labels(_beside(base, "_labels.tif"), found.labels, pixel_size=size)
        surveyed = survey(found.image)
        write_png(_beside(base, "_overlay.png"), overlay_of(found.image, found.labels, limits=surveyed.limits))
        if self.outputs.rois:
            write_imagej_rois(_beside(base, "_rois.zip"), found.labels)
            write_geojson(_beside(base, ".geojson"), found.labels)
        warnings = [*found.image.warnings, *warnings_for(surveyed, found.objects, pixel_size=size)]
        name = item.relative.as_posix()
        row = image_row(name, found.objects, surveyed, pixel_size=size, seconds=found.seconds, warnings=warnings)
        write_table(self._ledger(item, ".csv"), found.objects.assign(image=name))
        entry = {"path": str(item.path.resolve()), "fingerprint": key, "row": row}
        write_text(self._ledger(item, ".json"), json.dumps(entry, default=float))
        return row

    def _open(self) -> None:
        """Make the folder, and see that its results are of the same settings."""
        folder = self.outputs.folder
        if folder.exists() and not folder.is_dir():
            raise AbbeError(f"{folder}: a file; --out takes a folder")
        try:
            (folder / LEDGER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AbbeError(f"{folder}: cannot be written to ({error.strerror}); choose another with --out") from error
        record = folder / LEDGER / "settings.json"
        settings = json.dumps(self.settings, sort_keys=True, default=str, indent=2)
        if record.exists() and not self.outputs.overwrite and record.read_text(encoding="utf-8") != settings:
            raise AbbeError(
                f"{folder}: holds results of another model or other options; repeat them all with --overwrite, "
                "or choose another folder with --out"
            )
        write_text(record, settings)

    def _finish(self, inputs: Sequence[Input], result: BatchResult, started: datetime) -> pd.DataFrame:
        """Make the tables and the report of all that is done."""
        done = [item for item in inputs if self._row(item).get("fingerprint") == self._key(item)]
        images = pd.DataFrame([self._row(item)["row"] for item in done])
        folder = self.outputs.folder
        if not done:
            return images
        write_table(folder / "images.csv", images)
        objects = self._join_objects(done)
        record = provenance(
            self.command,
            model=self.model,
            device=self.device,
            settings=self.settings,
            inputs=[str(item.path) for item in inputs],
            started=started,
        )
        write_provenance(folder / "provenance.json", record)
        write_report(
            folder / "report.html",
            title=self.title,
            images=images,
            objects=objects,
            gallery=self._gallery(images),
            provenance=record,
            failures=result.failures,
            notes=["This run was stopped before its end; the same command goes on."] if result.interrupted else [],
            links={name: f"{name}_overlay.png" for name in images["image"]},
        )
        return images

    def _join_objects(self, done: Sequence[Input]) -> pd.DataFrame:
        """Write objects.csv from the rows of all images, and give them back."""
        options: dict[str, Any] = {"dtype": {"image": str}, "keep_default_na": False, "na_values": [""]}  # NA is a name
        tables = [pd.read_csv(self._ledger(item, ".csv"), **options) for item in done]
        filled = [table for table in tables if len(table)] or tables[:1]
        objects = pd.concat(filled, ignore_index=True)
        intensities = [name for name in objects.columns if name not in COLUMNS]
        objects = objects[[name for name in COLUMNS if name in objects.columns] + intensities]
        write_table(self.outputs.folder / "objects.csv", objects)
        return objects

    def _gallery(self, images: pd.DataFrame) -> list[GalleryItem]:
        items = []
        for choice in choose_gallery(images):
            link = f"{choice.name}_overlay.png"
            path = self.outputs.folder / link
            if path.exists():
                items.append(GalleryItem(choice.name, path, choice.kind, choice.reason, link))
        return items

    def _ledger(self, item: Input, suffix: str) -> Path:
        return _beside(self.outputs.folder / LEDGER / "rows" / item.relative, suffix)

    def _key(self, item: Input) -> str:
        """Tell an image, as it is now and under these settings, from all others; an array has no key."""
        path = item.path
        if not path.exists():
            return ""
        state = path.stat()
        settings = json.dumps(self.settings, sort_keys=True, default=str)
        return hashlib.sha256(f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{settings}".encode()).hexdigest()

    def _row(self, item: Input) -> dict[str, Any]:
        """What the ledger says of an image; empty if it is not done."""
        path = self._ledger(item, ".json")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def _beside(base: Path, ending: str) -> Path:
    """Add an ending to a name that may hold dots; make its folder."""
    base.parent.mkdir(parents=True, exist_ok=True)
    return base.with_name(base.name + ending)
