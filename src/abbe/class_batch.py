"""Many whole images told apart into one folder: a table, a contact sheet, a report; and the truth where it is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image as PillowImage

from abbe.batch import Batch
from abbe.classification import Classifier, places_of, refuse_unknown
from abbe.data.classes import name_of_class, names_of, read_pairs
from abbe.data.inputs import Input
from abbe.data.select import Series, select
from abbe.data.write import write_png, write_table
from abbe.report.classes import choose_for_sheet, class_sections, class_sheet, fitted, thumbnail
from abbe.report.gallery import MAX_ITEMS, GalleryItem
from abbe.report.page import Section, failures_section, gallery_section, write_page
from abbe.report.page import table as page_table
from abbe.settings import ClassifySettings
from abbe.together import Seen, Together
from abbe.views import Views

PICTURE = 256
"""Longest side of the pictures that a report shows."""
LISTED = 500
"""Images that the page's table lists."""


@dataclass(frozen=True)
class Told:
    """What a classifier told of one image."""

    picture: np.ndarray
    """Its first frame, small, (Y, X, 3) uint8."""
    warnings: Sequence[str]
    """Of the image."""
    table: pd.DataFrame
    """A row for each frame."""
    seconds: float
    """Time that it took."""


@dataclass
class ClassBatch(Batch):
    """A run over whole images; see :class:`abbe.batch.Batch`.

    Parameters
    ----------
    classes
        Names, in the order of the probabilities.
    truth
        Gives the true class of an image by its path; empty where it is not known.
    """

    classes: Sequence[str] = ()
    truth: Callable[[str], str] = field(default=lambda path: "")

    endings = ()

    def told(self, row: dict[str, Any]) -> str:
        """Say the class of an image, or how many frames it has."""
        frames = row["frames"]
        return f"{frames[0]['class']} ({frames[0]['probability']:.2f})" if len(frames) == 1 else f"{len(frames)} frames"

    def write_one(self, item: Input, found: Any) -> dict[str, Any]:
        """Keep a small picture of an image; gives its row in the ledger."""
        write_png(self.ledger(item.relative, ".png"), found.picture)
        place = str(item.path.resolve()) if isinstance(item.path, Path) else item.path
        return {
            "image": item.relative.as_posix(),
            "path": place,
            "frames": found.table.to_dict("records"),
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
        """Write images.csv, contact_sheet.png and report.html; gives the table of images."""
        table, folder = self._table(rows), self.outputs.folder
        write_table(folder / "images.csv", table)
        write_png(folder / "contact_sheet.png", self._sheet(table))
        known = int(table["truth"].astype(bool).sum()) if "truth" in table else 0
        cards = [("images", f"{len(rows):,}"), ("classes", f"{table['class'].nunique():,}")]
        cards += [("with a known class", f"{known:,}")] if known else []
        cards += [("files that failed", f"{len(failures):,}")] if failures else []
        parts = [
            *class_sections(table, self.classes, "images"),
            gallery_section(self._gallery_of_classes(table), {"worst": "Surest mistakes", "typical": "Least sure"}),
            self._image_table(table),
            failures_section(failures),
        ]
        write_page(
            folder / "report.html",
            title=self.title,
            sections=[part for part in parts if part is not None],
            cards=cards,
            notes=notes,
            provenance=record,
        )
        return table

    def _table(self, rows: dict[Path, dict[str, Any]]) -> pd.DataFrame:
        """Make the table of all frames, with the truth where any is known."""
        frames = [
            {"image": row["image"], "path": row["path"], **frame} for row in rows.values() for frame in row["frames"]
        ]
        table = pd.DataFrame(frames)
        truth = [self.truth(path) for path in table.pop("path")]
        if any(truth):
            table.insert(list(table).index("class"), "truth", truth)
        return table

    def _sheet(self, table: pd.DataFrame) -> np.ndarray:
        chosen = table.iloc[choose_for_sheet(table["class"].tolist(), table["probability"].tolist())]
        pictures = [fitted(self._picture(name).transpose(2, 0, 1)) for name in chosen["image"]]
        captions = [f"{name} {sure:.2f}" for name, sure in zip(chosen["class"], chosen["probability"], strict=True)]
        return class_sheet(pictures, captions)

    def _picture(self, name: str) -> np.ndarray:
        """Read the small picture of an image, (Y, X, 3) uint8."""
        with PillowImage.open(self.ledger(Path(name), ".png")) as picture:
            return np.asarray(picture.convert("RGB"))

    def _gallery_of_classes(self, table: pd.DataFrame) -> list[GalleryItem]:
        """Show the surest mistakes where the truth is known, and the least sure images."""
        first = table.drop_duplicates("image")
        truth = first["truth"] if "truth" in first else pd.Series("", index=first.index)
        wrong = first[(truth != "") & (truth != first["class"])].sort_values("probability", ascending=False)
        unsure = first.drop(wrong.index).sort_values("probability")
        half = MAX_ITEMS // 2
        return [
            *(self._item(row, f"{row['truth']}, taken for") for row in wrong.head(half).to_dict("records")),
            *(self._item(row, "") for row in unsure.head(half).to_dict("records")),
        ]

    def _item(self, row: dict[str, Any], before: str) -> GalleryItem:
        caption = f"{before} {row['class']} with {row['probability']:.2f}".strip()
        return GalleryItem(row["image"], self._picture(row["image"]), "worst" if before else "typical", caption)

    def _image_table(self, table: pd.DataFrame) -> Section:
        wanted = {
            "image": "image",
            "time": "time",
            "z": "plane",
            "truth": "known",
            "class": "class",
            "probability": "p",
        }
        heads = {column: (title, "") for column, title in wanted.items() if column in table}
        note = f"{LISTED} of {len(table):,}; all are in " if len(table) > LISTED else "Also in "
        told = f'<p class="note">{note}<a href="images.csv">images.csv</a>, with the probability of every class.</p>'
        return Section("Images", told + page_table(table.head(LISTED), heads))


def classify_one(classifier: Classifier, path: Path | str, settings: ClassifySettings) -> Told:
    """Tell the class of one image, or of each of its frames."""
    started = time.perf_counter()
    series = select(path, settings, 2)
    table = classifier.images(series, settings)
    return Told(*facts_of(series, classifier.views(settings)), table, time.perf_counter() - started)


def facts_of(series: Series, views: Views) -> tuple[np.ndarray, list[str]]:
    """Give what the report needs of an image: a small picture, and its warnings."""
    return thumbnail(series[0], PICTURE), [*series.image.warnings, *views.too_dark(series[0])]


def classify_together(classifier: Classifier, settings: ClassifySettings) -> Together:
    """Say how many whole images are classified."""
    views = classifier.views(settings)

    def see(path: Path | str) -> Seen | None:
        started = time.perf_counter()
        series = select(path, settings, 2)
        if len(series) > views.together:
            return None
        pictures = np.stack([views.picture(frame) for frame in series])
        return Seen(pictures, (places_of(series), *facts_of(series, views)), time.perf_counter() - started)

    def finish(seen: Seen, rows: np.ndarray, seconds: float, work: Path) -> Told:
        places, picture, warnings = seen.facts
        return Told(picture, warnings, classifier.table(places, rows), seconds)

    return Together(
        see,
        lambda pictures: classifier.told(pictures, settings),
        finish,
        lambda path, work: classify_one(classifier, path, settings),
        views.together,
    )


def truth_of_images(labels: Path | None, classes: Sequence[str]) -> Callable[[str], str]:
    """Give what tells the true class of an image by its path: a CSV file, or the folder it lies in.

    Raises
    ------
    AbbeError
        When the table cannot be read, or has a class that the model lacks.
    """
    if labels is None:
        return lambda path: name_of_class(path, classes)
    table = read_pairs(labels, "class")
    refuse_unknown(set(table.values()), classes, labels)
    return lambda path: next((table[name] for name in names_of(path) if name in table), "")
