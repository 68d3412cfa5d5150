"""Vectors of many images, or of the objects in them, into one folder: a file of numbers, a table, a report."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.batch import Batch
from abbe.classification import known_objects
from abbe.data.classes import names_of, read_pairs
from abbe.data.inputs import LEDGER, Input
from abbe.data.ome_zarr import is_url
from abbe.data.select import Series, select
from abbe.data.vectors import VectorFormat, append_rows, join_rows, write_vectors
from abbe.data.write import write_png, write_table
from abbe.embedding import CORNERS, FEATURES, FRAME, Embedder, frames_of
from abbe.errors import AbbeError
from abbe.report.classes import SIDE
from abbe.report.neighbours import map_section, neighbours_section, neighbours_sheet
from abbe.report.page import Section, failures_section, write_page
from abbe.report.page import table as page_table
from abbe.together import Seen, Together

LISTED = 500
"""Images that the page's table lists."""
KEYS = ("image", "time", "channel", "z", "label", "class")
"""Columns that say which picture a vector is of."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of one image."""

    places: pd.DataFrame
    """As :class:`abbe.embedding.Part` has them, of all parts."""
    vectors: Path
    """File of :func:`abbe.data.vectors.append_rows`."""
    warnings: Sequence[str]
    """Of the image."""
    seconds: float
    """Time that it took."""


@dataclass
class EmbedBatch(Batch):
    """A run over images or the objects in them; see :class:`abbe.batch.Batch`.

    Parameters
    ----------
    embedder
        Made the vectors.
    kind
        Format of the vectors, not "auto".
    objects
        Whether they are of objects.
    truth
        CSV file with the known classes; without it images are told apart by their folders.
    """

    embedder: Embedder = field(kw_only=True)
    kind: VectorFormat = "npy"
    objects: bool = False
    truth: Path | None = None

    endings = ()

    def told(self, row: dict[str, Any]) -> str:
        """Say how many vectors there are."""
        what = "object" if self.objects else "vector"
        return f"{row['rows']} {what}{'s' * (row['rows'] != 1)}"

    def write_one(self, item: Input, found: Any) -> dict[str, Any]:
        """Keep the vectors of an image; gives its row in the ledger."""
        tabled = self.objects or len(found.places) > 1
        if tabled:
            write_table(self.ledger(item.relative, ".csv"), found.places)
        os.replace(found.vectors, self.ledger(item.relative, ".f32"))
        return {
            "image": item.relative.as_posix(),
            "path": str(item.path.resolve()) if isinstance(item.path, Path) else item.path,
            "rows": len(found.places),
            "tabled": tabled,
            "seconds": found.seconds,
            "warnings": "; ".join(found.warnings),
        }

    def publish(
        self,
        rows: dict[Path, dict[str, Any]],
        record: dict[str, Any],
        failures: Sequence[tuple[str, str]],
        notes: Sequence[str],
    ) -> pd.DataFrame:
        """Write the vectors, images.csv, neighbours.png and report.html; gives the table of images."""
        folder, index = self.outputs.folder, self._index(rows)
        images = self._images(rows)
        joined = folder / LEDGER / "vectors.npy"
        vectors = join_rows(joined, [self.ledger(name, ".f32") for name in rows], len(index), self.embedder.dimensions)
        public = index[[column for column in KEYS if column in index]]
        file = write_vectors(folder, self.kind, public, joined)
        write_table(folder / "images.csv", images)
        write_page(
            folder / "report.html",
            title=self.title,
            sections=[*self._pictures(vectors, index, rows), *self._tables(images, file), *_failed(failures)],
            cards=self._cards(len(images), len(index), failures),
            notes=notes,
            provenance=record,
        )
        del vectors  # where a mapped file cannot be removed
        joined.unlink()
        return images

    def _index(self, rows: dict[Path, dict[str, Any]]) -> pd.DataFrame:
        """Say of every vector which picture it is of, in the order of the images' names."""
        pieces = [pd.DataFrame(columns=["image", FRAME, *(["label", *CORNERS] if self.objects else [])])]
        for tabled, run in itertools.groupby(rows.items(), key=lambda item: item[1]["tabled"]):
            some = [(name, row) for name, row in run if row["rows"]]
            if not tabled:
                pieces.append(pd.DataFrame({"image": [row["image"] for _, row in some], FRAME: 0}))
                continue
            for name, row in some:
                table = pd.read_csv(self.ledger(name, ".csv"), dtype={"channel": str})
                pieces.append(table.assign(image=row["image"]))
        index = pd.concat([piece for piece in pieces if len(piece)] or pieces[:1], ignore_index=True)
        for column in index.columns.intersection(["time", "z", "label"]):
            index[column] = index[column].astype("Int64" if index[column].isna().any() else np.int64)
        if self.truth is not None:
            index["class"] = self._known(index, rows)
        return index.astype({"image": str})

    def _known(self, index: pd.DataFrame, rows: dict[Path, dict[str, Any]]) -> list[str]:
        """Look the classes up in the table that the user gave; empty where it says nothing."""
        assert self.truth is not None
        if self.objects:
            return known_objects(self.truth, index)
        table = read_pairs(self.truth, "class")
        known = {
            row["image"]: next((table[name] for name in names_of(row["path"]) if name in table), "")
            for row in rows.values()
        }
        return [known[image] for image in index["image"]]

    def _images(self, rows: dict[Path, dict[str, Any]]) -> pd.DataFrame:
        """Make the table of images."""
        table = pd.DataFrame(list(rows.values()))
        several = "count" if self.objects else "frames"
        table = table.rename(columns={"rows": several}).drop(columns=["path", "tabled"])
        return table if self.objects or (table[several] > 1).any() else table.drop(columns=several)

    def _pictures(self, vectors: np.ndarray, index: pd.DataFrame, rows: dict[Path, dict[str, Any]]) -> list[Section]:
        """Write the sheet of neighbours, and make the parts of the page that show pictures and vectors."""
        if not len(index):
            return [Section("Vectors", '<p class="note">There is nothing to compare: no object was found.</p>')]
        names, what = _names(index), "objects" if self.objects else "images"
        folders = [Path(image).parent.as_posix() for image in index["image"]]
        kind, groups = ("class", index["class"].tolist()) if "class" in index else ("folder", folders)
        groups = ["" if group == "." or len(set(groups)) < 2 else group for group in groups]
        paths = {row["image"]: row["path"] for row in rows.values()}
        sheet, lines = neighbours_sheet(vectors, names, groups, lambda row: self._picture(index.iloc[row], paths))
        write_png(self.outputs.folder / "neighbours.png", sheet)
        return [neighbours_section(sheet, lines), map_section(vectors, names, groups, kind, what)]

    def _picture(self, place: pd.Series, paths: dict[str, str]) -> Any:
        """Read the picture that a vector is of; black where its file is gone."""
        path = paths[place["image"]]
        try:
            frame = select(path if is_url(path) else Path(path), self.embedder.settings, 2)[int(place[FRAME])]
            if not self.objects:
                return frame
            y0, y1, x0, x1 = (int(place[name]) for name in CORNERS)
            return next(self.embedder.views.crops(frame, [((y0, y1), (x0, x1))]))
        except (AbbeError, OSError, IndexError):
            return np.zeros((1, SIDE, SIDE), np.uint8)

    def _tables(self, images: pd.DataFrame, file: Path) -> list[Section]:
        heads = {"image": "image", "count": "objects", "frames": "frames", "seconds": "time", "warnings": "warnings"}
        shown = {column: (title, "s" * (title == "time")) for column, title in heads.items() if column in images}
        if not images["warnings"].astype(bool).any():
            del shown["warnings"]
        note = f"{LISTED} of {len(images):,}; all are in " if len(images) > LISTED else "Also in "
        links = f'<a href="images.csv">images.csv</a>; the vectors are in <a href="{file.name}">{file.name}</a>'
        told = f'<p class="note">{note}{links}.</p>'
        return [Section("Images", told + page_table(images.head(LISTED), shown))]

    def _cards(self, images: int, vectors: int, failures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        counted = [("objects", f"{vectors:,}")] if self.objects else []
        layer = "" if self.embedder.layer == FEATURES else f", layer {self.embedder.layer}"
        return [
            ("images", f"{images:,}"),
            *counted,
            ("numbers per vector", f"{self.embedder.dimensions:,}"),
            ("model", f"{self.embedder.model.name}{layer}"),
            *([("files that failed", f"{len(failures):,}")] if failures else []),
        ]


def embed_one(embedder: Embedder, path: Path | str, mask: Path | None, work: Path) -> Embedded:
    """Compute the vectors of an image, or of the objects of a mask, into a file below ``work``."""
    started = time.perf_counter()
    series, parts = embedder.images(path) if mask is None else embedder.objects(path, mask)
    places: list[pd.DataFrame] = []

    def batches() -> Iterator[np.ndarray]:
        for part in parts:
            places.append(part.places)
            yield from part.vectors

    append_rows(work / "vectors.f32", batches())
    table = pd.concat(places, ignore_index=True)
    seconds = time.perf_counter() - started
    return Embedded(table, work / "vectors.f32", warnings_of(embedder, series), seconds)


def warnings_of(embedder: Embedder, series: Series) -> list[str]:
    """Gather what is to be said of an image."""
    return [*series.image.warnings, *embedder.views.too_dark(series[0])]


def embed_together(embedder: Embedder) -> Together:
    """Say how the vectors of many whole images are computed."""
    views, settings = embedder.views, embedder.settings
    predictor = embedder.model.predictor(settings)

    def see(path: Path | str) -> Seen | None:
        started = time.perf_counter()
        series = select(path, settings, 2)
        if len(series) > views.together:
            return None
        pictures = np.stack([views.picture(frame) for frame in series])
        facts = frames_of(series), warnings_of(embedder, series)
        return Seen(pictures, facts, time.perf_counter() - started)

    def finish(seen: Seen, rows: np.ndarray, seconds: float, work: Path) -> Embedded:
        places, warnings = seen.facts
        append_rows(work / "vectors.f32", [rows])
        return Embedded(places, work / "vectors.f32", warnings, seconds)

    return Together(
        see,
        lambda pictures: predictor(pictures)["vector"],
        finish,
        lambda path, work: embed_one(embedder, path, None, work),
        views.together,
    )


def _names(index: pd.DataFrame) -> list[str]:
    """Write which picture each vector is of."""
    names = index["image"].astype(str)
    for column in ("time", "channel", "z", "label"):
        if column in index:
            spelled = index[column].map(lambda value, column=column: "" if pd.isna(value) else f" {column} {value}")
            names = names + spelled.astype(str)
    return names.tolist()


def _failed(failures: Sequence[tuple[str, str]]) -> list[Section]:
    section = failures_section(failures)
    return [] if section is None else [section]
