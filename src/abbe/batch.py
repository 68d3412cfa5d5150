"""One verb on many images: nothing is lost by a bad file, Ctrl-C or a second run.

Each finished image leaves its files and, in the hidden folder ``.abbe``, its rows; the tables and the report are made
of all rows in the folder at the end, also when the end comes early. A second run takes what is there and does the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from abbe.data.image import Image
from abbe.data.inputs import LEDGER, Input, full_name, state_of, without_suffix
from abbe.data.rois import write_geojson, write_imagej_rois
from abbe.data.select import Series
from abbe.data.write import write_labels, write_png, write_table, write_text
from abbe.data.write_zarr import write_labels_zarr
from abbe.errors import AbbeError
from abbe.ops.labels import LabelImage
from abbe.report.gallery import GalleryItem, choose_gallery
from abbe.report.images import image_row, warnings_for
from abbe.report.measure import pixel_size_of
from abbe.report.overlay import picture_of
from abbe.report.page import Section, write_report
from abbe.report.pixels import survey
from abbe.report.provenance import provenance, write_provenance
from abbe.report.table import ObjectTable, join_files

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
"""What is kept of images that are not done, until a run leaves none."""
TABLES = ("images.csv", "report.html", "provenance.json")
"""What every run writes into the folder itself."""


@dataclass(frozen=True)
class Outputs:
    """What to write, and where."""

    folder: Path
    """Gets everything; made if it is not there."""
    rois: bool = False
    """Also write outlines, as ImageJ ROI zip and as GeoJSON for QuPath."""
    overwrite: bool = False
    """Do again what is done already."""
    format: Literal["auto", "tiff", "zarr"] = "auto"
    """Of label masks and restored images: OME-TIFF or OME-Zarr; auto: OME-Zarr where the image is a Zarr."""

    def zarr(self, image: Image) -> bool:
        """Tell whether what is made of an image is to be an OME-Zarr."""
        return "Zarr" in image.format if self.format == "auto" else self.format == "zarr"


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

    series: Series
    """The image."""
    labels: LabelImage
    """((Z,) Y, X), of a series with its axes before these; 0 is background."""
    table: ObjectTable
    """Their measurements."""
    seconds: float = math.nan
    """Time that finding them took."""
    write_labels: bool = True
    """False where the labels were given, not found."""
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    """More pictures to write, (Y, X, 3) uint8, by the ending of their names."""


@dataclass(frozen=True)
class Outcome:
    """How it went with one image."""

    line: str
    """For people."""
    skipped: bool = False
    """An earlier run had finished it."""
    failure: tuple[str, str] | None = None
    """Name and reason, if it could not be done."""


Find = Callable[[Path | str, Path], Any]
"""``find(path, work)`` does one image and gives what :meth:`Batch.write_one` takes, a :class:`Found`; ``work`` is a
folder for what is unfinished, which a later run finds as it was if this one is killed, and which goes when the image is
done."""
Elsewhere = Callable[["Batch", Sequence[Input]], Iterator[Outcome]]
"""Calls :meth:`Batch.do` in another way than one image after the other: in other processes, or some together."""


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
    sections
        Gives further parts of the report, from the folder when its tables are written.
    notes
        Sentences for the head of the report.
    seed
        Of all random choices, where there were any.
    began
        When the command began, where something came before the run.
    """

    outputs: Outputs
    settings: dict[str, Any]
    title: str
    command: Sequence[str] = ()
    model: dict[str, Any] | None = None
    device: str = "cpu"
    sections: Callable[[Path], list[Section]] | None = None
    notes: Sequence[str] = ()
    seed: int | None = None
    began: datetime | None = None

    endings: ClassVar[tuple[str, ...]] = ("_labels", "_overlay")
    """What the names of the images end in that are written."""

    def run(
        self, inputs: Sequence[Input], find: Find, tell: Callable[[str], None], elsewhere: Elsewhere | None = None
    ) -> BatchResult:
        """Do every input that is not done.

        Parameters
        ----------
        inputs
            The images.
        find
            Does one of them.
        tell
            Gets a line for each.
        elsewhere
            Has them done in another way, in place of ``find``.

        Raises
        ------
        AbbeError
            When the folder cannot be used, or holds results of other settings.
        """
        started = self.began or datetime.now(UTC)
        self._spare_inputs(inputs)
        self._open()
        result = BatchResult(self.outputs.folder, pd.DataFrame())
        outcomes = elsewhere(self, inputs) if elsewhere else (self.do(item, find) for item in inputs)
        try:
            for number, outcome in enumerate(outcomes, 1):
                tell(f"[{number}/{len(inputs)}] {outcome.line}")
                result.skipped += outcome.skipped
                result.failures += [outcome.failure] if outcome.failure else []
        except KeyboardInterrupt:
            result.interrupted = True
        result.images = self._finish(inputs, result, started)
        if not result.failures and not result.interrupted:
            shutil.rmtree(self.outputs.folder / LEDGER / UNFINISHED, ignore_errors=True)
        return result

    def do(self, item: Input, find: Find) -> Outcome:
        """Do one image, if it is not done; whatever happens to it, the others can be done."""
        key = self._key(item)
        if self.is_done(item):
            return Outcome(f"{item.path}: done already", skipped=True)
        try:
            self._spare_others(item)
            work = self._workplace(key)
            found = find(item.path, work)
            row = self.write_one(item, found)
            self._enter(item, key, row)
            shutil.rmtree(work, ignore_errors=True)
        except AbbeError as error:
            return _failed(item, str(error))
        except Exception as error:
            logger.debug("%s failed", item.path, exc_info=True)
            return _failed(item, f"{item.path}: {type(error).__name__}: {error}")
        warned = f" ({row['warnings']})" if row["warnings"] else ""
        took = "" if math.isnan(found.seconds) else f" in {found.seconds:.1f} s"
        return Outcome(f"{item.path}: {self.told(row)}{took}{warned}")

    def is_done(self, item: Input) -> bool:
        """Tell whether an earlier run has finished an image as it is now, and is not to be repeated."""
        key = self._key(item)
        return not self.outputs.overwrite and bool(key) and self._entry(item.relative).get("fingerprint") == key

    def told(self, row: dict[str, Any]) -> str:
        """Say in a few words what was found."""
        return f"{row['count']} objects"

    def _workplace(self, key: str) -> Path:
        """Make the folder for what is unfinished of an image as it is now; one that changes gets another."""
        folder = self.outputs.folder / LEDGER / UNFINISHED / (key or "array")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _spare_inputs(self, inputs: Sequence[Input]) -> None:
        """Refuse to write over images that were given."""
        folder = self.outputs.folder
        written = {full_name(folder / f"{item.relative}{ending}"): item for item in inputs for ending in self.endings}
        for item in inputs:
            other = written.get(full_name(without_suffix(item.path))) if isinstance(item.path, Path) else None
            if other is not None:
                raise AbbeError(
                    f"{item.path}: the result of {other.path} would be written over it; choose another folder with "
                    "--out, or rename it"
                )

    def _spare_others(self, item: Input) -> None:
        """Refuse to write over what an earlier run found in a file of the same name in another folder."""
        earlier = self._entry(item.relative).get("path", "")
        if not self.outputs.overwrite and earlier not in ("", full_name(item.path)):
            raise AbbeError(
                f"{item.path}: {self.outputs.folder} holds results of {earlier} under this name; choose another "
                "folder with --out, or give both in one command, or replace them with --overwrite"
            )

    def write_one(self, item: Input, found: Found) -> dict[str, Any]:
        """Write the files of one image; gives its row in the ledger, which holds ``warnings``."""
        base = self.outputs.folder / item.relative
        first = found.series[0]
        axes = found.series.axes + first.axes[1:]
        if found.write_labels:
            self._write_labels(base, found, axes)
        surveyed = survey(found.series)
        write_png(_beside(base, "_overlay.png"), picture_of(found.series, found.labels, limits=surveyed.limits))
        for ending, picture in found.pictures.items():
            write_png(_beside(base, ending), picture)
        if self.outputs.rois:
            write_imagej_rois(_beside(base, "_rois.zip"), found.labels, axes=axes)
            write_geojson(_beside(base, ".geojson"), found.labels, axes=axes)
        size, objects = pixel_size_of(first), found.table.summary()
        warnings = [*first.warnings, *warnings_for(surveyed, objects, pixel_size=size)]
        name = item.relative.as_posix()
        row = image_row(name, objects, surveyed, pixel_size=size, seconds=found.seconds, warnings=warnings)
        found.table.write(self.ledger(item.relative, ".csv"), name)
        return row

    def _enter(self, item: Input, key: str, row: dict[str, Any]) -> None:
        """Enter an image into the ledger, last of all: that makes it done."""
        entry = {"path": full_name(item.path), "fingerprint": key, "settings": self._settings_key(), "row": row}
        write_text(self.ledger(item.relative, ".json"), json.dumps(entry, default=float))

    def _write_labels(self, base: Path, found: Found, axes: str) -> None:
        """Write the labels, and remove those that a run with another format left."""
        tiff, zarr = _beside(base, "_labels.tif"), _beside(base, "_labels.ome.zarr")
        sizes = found.series.image.pixel_size
        if self.outputs.zarr(found.series.image):
            write_labels_zarr(zarr, found.labels, pixel_size=sizes, axes=axes)
            tiff.unlink(missing_ok=True)
        else:
            write_labels(tiff, found.labels, pixel_size=sizes, axes=axes)
            shutil.rmtree(zarr, ignore_errors=True)

    def _open(self) -> None:
        """Make the folder, and see that its results are of the same settings."""
        folder = self.outputs.folder
        if folder.exists() and not folder.is_dir():
            raise AbbeError(f"{folder}: a file; --out takes a folder")
        strange = [name for name in TABLES if (folder / name).exists()] if not (folder / LEDGER).exists() else []
        if strange and not self.outputs.overwrite:
            raise AbbeError(
                f"{folder}: holds {strange[0]}, but no notes of Abbe's about its results; choose another "
                "folder with --out, or replace it with --overwrite"
            )
        try:
            (folder / LEDGER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AbbeError(f"{folder}: cannot be written to ({error.strerror}); choose another with --out") from error
        record = folder / LEDGER / "settings.json"
        settings = json.dumps(self.settings, sort_keys=True, default=str, indent=2)
        if record.exists() and not self.outputs.overwrite and record.read_text(encoding="utf-8") != settings:
            raise AbbeError(
                f"{folder}: holds results of another model or other options; repeat them all with --overwrite, "
                f"or {self.elsewhere()}"
            )
        write_text(record, settings)

    def elsewhere(self) -> str:
        """Say how to come to other results beside those that the folder holds."""
        return "choose another folder with --out"

    def _finish(self, inputs: Sequence[Input], result: BatchResult, started: datetime) -> pd.DataFrame:
        """Make the tables and the report of all that is done, by this run or by one before it."""
        rows = self._rows(inputs)
        if not rows:
            return pd.DataFrame()
        record = provenance(
            self.command,
            model=self.model,
            seed=self.seed,
            device=self.device,
            settings=self.settings,
            inputs=[str(item.path) for item in inputs],
            started=started,
        )
        write_provenance(self.outputs.folder / "provenance.json", record)
        stopped = ["This run was stopped before its end; the same command goes on."] if result.interrupted else []
        return self.publish(rows, record, result.failures, [*stopped, *self.notes])

    def publish(
        self,
        rows: dict[Path, dict[str, Any]],
        record: dict[str, Any],
        failures: Sequence[tuple[str, str]],
        notes: Sequence[str],
    ) -> pd.DataFrame:
        """Write tables and report of the rows in the ledger, by the name of their image; gives the table of images."""
        folder, images = self.outputs.folder, pd.DataFrame(list(rows.values()))
        write_table(folder / "images.csv", images)
        objects = join_files([self.ledger(name, ".csv") for name in rows], folder / "objects.csv")
        write_report(
            folder / "report.html",
            title=self.title,
            images=images,
            objects=objects,
            gallery=self._gallery(images),
            provenance=record,
            failures=failures,
            notes=notes,
            links={name: f"{name}_overlay.png" for name in images["image"]},
            sections=self.sections(folder) if self.sections else (),
        )
        return images

    def _rows(self, inputs: Sequence[Input]) -> dict[Path, dict[str, Any]]:
        """Collect what the ledger says of every image that is done, by name."""
        ledger = self.outputs.folder / LEDGER / "rows"
        earlier = [path.relative_to(ledger).with_suffix("") for path in ledger.rglob("*.json")]
        given = {item.relative: item for item in inputs}
        rows = {}
        for name in sorted({*given, *earlier}):
            entry, item = self._entry(name), given.get(name)
            stale = item and entry.get("path") == full_name(item.path) and entry["fingerprint"] != self._key(item)
            if entry.get("settings") == self._settings_key() and not stale:
                rows[name] = entry["row"]
        return rows

    def _gallery(self, images: pd.DataFrame) -> list[GalleryItem]:
        items = []
        for choice in choose_gallery(images):
            link = f"{choice.name}_overlay.png"
            path = self.outputs.folder / link
            if path.exists():
                items.append(GalleryItem(choice.name, path, choice.kind, choice.reason, link))
        return items

    def ledger(self, name: Path, suffix: str) -> Path:
        """Give the place of a hidden file that belongs to an image."""
        return _beside(self.outputs.folder / LEDGER / "rows" / name, suffix)

    def _key(self, item: Input) -> str:
        """Tell an image, as it is now and under these settings, from all others; an array has no key."""
        if isinstance(item.path, Path) and not item.path.exists():
            return ""
        identity = f"{state_of(item.path)}|{self._settings_key()}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def _settings_key(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True, default=str).encode()).hexdigest()

    def _entry(self, name: Path) -> dict[str, Any]:
        """Read what the ledger says of an image; empty if it is not done."""
        path = self.ledger(name, ".json")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def _failed(item: Input, reason: str) -> Outcome:
    return Outcome(f"failed: {reason}", failure=(str(item.path), reason))


def _beside(base: Path, ending: str) -> Path:
    """Add an ending to a name that may hold dots; make its folder."""
    base.parent.mkdir(parents=True, exist_ok=True)
    return base.with_name(base.name + ending)
