"""Properties of the table of objects as it grows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.report.table import ObjectTable, join_files


def rows(first: int, number: int) -> pd.DataFrame:
    labels = np.arange(first, first + number)
    columns = {"label": labels, "area": labels % 7 + 0.1, "touches_border": labels % 2 == 0, "mean_a": labels / 3}
    table = pd.DataFrame(columns | {"sum_a": labels * 2.0})
    table.insert(0, "image", pd.Series(["x"] * number, dtype="str"))
    return table


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_a_table_in_a_file_is_the_table_in_memory(numbers: list[int], limit: int) -> None:
    starts = np.cumsum([1, *numbers])
    few, many = ObjectTable(limit=10**6), ObjectTable(limit=limit)
    for start, number in zip(starts, numbers):
        few.add(rows(int(start), number))
        many.add(rows(int(start), number))
    pd.testing.assert_frame_equal(many.frame(), few.frame())
    pd.testing.assert_frame_equal(many.summary(), few.summary())
    assert len(many) == len(few.frame()) == sum(numbers)
    assert list(many.summary()) == ["area", "touches_border", "mean_a"]


def test_rows_may_be_added_after_the_table_was_read(tmp_path: Path) -> None:
    table = ObjectTable(tmp_path, limit=3)
    for start in (1, 6, 11):
        table.add(rows(start, 5))
        assert table.frame()["label"].tolist() == list(range(1, start + 5))
    table.write(tmp_path / "a.csv", "plate/a")
    written = pd.read_csv(tmp_path / "a.csv")
    assert written["label"].tolist() == list(range(1, 16))
    assert set(written["image"]) == {"plate/a"}


def test_joined_files_keep_every_value_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label,area,mean_b\nNA,1,0.30000000000000004,2\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('image,label,time,area,mean_a\n"x, ""y""",1,0,7,1e-300\n', encoding="utf-8")
    summary = join_files([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found == [
        ["image", "label", "time", "area", "mean_b", "mean_a"],
        ["NA", "1", "", "0.30000000000000004", "2", ""],
        ['x, "y"', "1", "0", "7", "", "1e-300"],
    ]
    assert summary["area"].tolist() == [pytest.approx(0.3), 7]
