from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.report.classes import (
    choose_for_sheet,
    class_columns,
    class_sections,
    class_sheet,
    confusion_list,
    confusion_table,
    thumbnail,
)


def told(seed: int, n: int, classes: list[str]) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    table = class_columns(generator.dirichlet(np.ones(len(classes)), n), classes)
    return table.assign(truth=generator.choice([*classes, ""], n))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 99),
    st.integers(0, 12),
    st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True),
)
def test_columns_agree_with_themselves(seed: int, n: int, classes: list[str]) -> None:
    table = told(seed, n, classes)
    assert list(table)[:2] == ["class", "probability"]
    for row in table.to_dict("records"):
        assert row["probability"] == max(row[f"p_{name}"] for name in classes) == row[f"p_{row['class']}"]


def test_agreement_is_shown_only_where_classes_are_known() -> None:
    table = told(0, 30, ["a", "b"])
    assert [part.title for part in class_sections(table, ["a", "b"], "images")] == [
        "Classes",
        "Agreement with the known classes",
    ]
    assert len(class_sections(table.drop(columns="truth"), ["a", "b"], "images")) == 1
    assert len(class_sections(table.assign(truth=""), ["a", "b"], "images")) == 1
    known = int((table["truth"] != "").sum())
    assert f"{known} images with a known class" in class_sections(table, ["a", "b"], "images")[1].html


def test_names_are_escaped() -> None:
    names = ["<script>", "b"]
    parts = class_sections(told(0, 9, names).assign(truth="<script>"), names, "images")
    assert not any("<script>" in part.html for part in parts)
    assert "<script>" not in confusion_list(np.array([[1, 2], [3, 4]]), names)


def test_a_confusion_matrix_holds_its_counts() -> None:
    shown = confusion_table(np.array([[7, 3], [0, 11]]), ["a", "b"])
    assert [shown.count(f">{n}</td>") for n in (7, 3, 11)] == [1, 1, 1]
    listed = confusion_list(np.array([[7, 3], [0, 11]]), ["a", "b"])
    assert "a taken for b: 3" in listed
    assert listed.count("<li>") == 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(0, 300), st.integers(1, 40))
def test_sheets_show_every_class_and_not_too_many(seed: int, n: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    classes, sure = generator.choice(list("abc"), n).tolist(), generator.random(n).tolist()
    chosen = choose_for_sheet(classes, sure, most)
    assert len(set(chosen)) == len(chosen) <= max(most, 3)
    assert most < 3 or {classes[place] for place in chosen} == set(classes)
    for name in set(classes):
        own = [sure[place] for place in chosen if classes[place] == name]
        assert own == sorted(own, reverse=True)


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 40, 30), (2, 200, 100), (1, 1, 1)])
def test_pictures_of_any_size_fit_their_place(shape: tuple[int, ...]) -> None:
    for dtype in (np.uint16, np.float32):
        picture = thumbnail((np.random.default_rng(0).random(shape) * 900).astype(dtype), 64)
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert max(picture.shape[:2]) <= 64
    sheet = class_sheet([picture] * 7, ["a 0.9"] * 7, 64)
    assert sheet.dtype == np.uint8
    assert class_sheet([], []).ndim == 3
