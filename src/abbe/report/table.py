"""The rows of an image's objects as they come: kept in memory while they are few, in a file where they are many."""

from __future__ import annotations

import csv
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pandas as pd

from abbe.data.write import atomic
from abbe.report.objects import COLUMNS, SERIES_COLUMNS
from abbe.report.volumes import VOLUME_COLUMNS

IN_MEMORY = 2**17
"""Objects whose rows are held in memory."""
SUMMARY = (
    *("area", "area_um2", "volume", "volume_um3", "equivalent_diameter"),
    *("circularity", "sphericity", "touches_border"),
)
"""Columns that the row of an image and the charts of a report are made of, beside those named ``mean_...``."""


class ObjectTable:
    """One row per object, in the order in which they come.

    Parameters
    ----------
    folder
        Where to put the file of a large table; the system's temporary folder unless given.
    limit
        Objects whose rows are held in memory.
    """

    def __init__(self, folder: Path | None = None, limit: int = IN_MEMORY):
        self._folder, self._limit = folder, limit
        self._rows: list[pd.DataFrame] = []
        self._summaries: list[pd.DataFrame] = []
        self._scratch: IO[bytes] | None = None

    def __len__(self) -> int:
        """Count the objects."""
        return sum(map(len, self._summaries))

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows; all tables have the same columns."""
        self._rows.append(rows)
        self._summaries.append(summary_of(rows))
        if sum(map(len, self._rows)) > self._limit:
            self._spill()

    def summary(self) -> pd.DataFrame:
        """Give all rows, but only the columns that a report is made of."""
        return joined(self._summaries)

    def frame(self) -> pd.DataFrame:
        """Give all rows."""
        return joined(list(self._parts()))

    def write(self, path: Path, image: str) -> None:
        """Write a CSV, whole or not at all, with ``image`` in the column of that name."""
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
            for number, part in enumerate(self._parts()):
                part.assign(image=image).to_csv(target, index=False, header=number == 0, lineterminator="\n")

    def _parts(self) -> Iterator[pd.DataFrame]:
        """Give the rows piece by piece, the oldest first."""
        if self._scratch is not None:
            end = self._scratch.tell()
            self._scratch.seek(0)
            while self._scratch.tell() < end:
                yield pickle.load(self._scratch)
        if self._rows:
            yield joined(self._rows)

    def _spill(self) -> None:
        """Move the rows in memory to a file that nobody else sees."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115, it lives as long as the table
        pickle.dump(joined(self._rows), self._scratch, protocol=pickle.HIGHEST_PROTOCOL)
        self._rows = []


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Take the columns of a table that a report is made of."""
    return rows[[column for column in rows if is_summary(column)]].copy()


def is_summary(column: str) -> bool:
    """Tell whether a report is made of a column."""
    return column in SUMMARY or column.startswith("mean_")


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of the same columns under each other; of empty ones one is enough."""
    filled = [table for table in tables if len(table)] or list(tables[:1])
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def join_files(files: Sequence[Path], target: Path) -> pd.DataFrame:
    """Write one CSV of many, whole or not at all, in the columns of all of them; gives its summary.

    Every value stays as it was written, and memory holds a row.
    """
    headers = [_header(file) for file in files]
    found = list(dict.fromkeys(column for header in headers for column in header))
    kinds = (VOLUME_COLUMNS, COLUMNS) if "volume" in found else (COLUMNS, VOLUME_COLUMNS)
    known = ("image", "label", *SERIES_COLUMNS, *kinds[0], *kinds[1])
    columns = list(dict.fromkeys([*known, *found]))
    columns = [column for column in columns if column in found]
    with atomic(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        for file in files:
            with file.open(encoding="utf-8", newline="") as source:
                rows = csv.DictReader(source)
                writer.writerows([row.get(column, "") for column in columns] for row in rows)
    wanted = [column for column in columns if is_summary(column)]
    return pd.read_csv(target, usecols=wanted)


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as source:
        return next(csv.reader(source))
