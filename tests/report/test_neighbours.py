"""Nearest neighbours are those of a plain comparison of all with all; the map keeps what is near near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import vectors as files
from abbe.report import neighbours
from abbe.report.neighbours import (
    agreement,
    choose_queries,
    map_section,
    nearest,
    neighbours_sheet,
    plane,
    principal,
    spread,
    unit,
)


def rows_of(number: int, dimensions: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, dimensions)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 6), st.integers(0, 99), st.integers(1, 50))
def test_neighbours_are_the_rows_of_the_largest_cosine(number: int, wide: int, most: int, seed: int, at: int) -> None:
    rows = rows_of(number, wide, seed)
    queries = list(range(0, number, 3))
    before, files.AT_ONCE = files.AT_ONCE, at
    try:
        found, cosines = nearest(rows, queries, most)
    finally:
        files.AT_ONCE = before
    assert found.shape == cosines.shape == (len(queries), min(most, number - 1))
    lengths = np.linalg.norm(rows, axis=1)
    for query, places, values in zip(queries, found, cosines, strict=True):
        assert query not in places
        every = rows @ rows[query] / (lengths * lengths[query])
        np.testing.assert_allclose(values, every[places], atol=1e-5)
        best = np.sort(np.delete(every, query))[::-1][: len(values)]
        np.testing.assert_allclose(values, best, atol=1e-5)


def test_exact_duplicates_come_first_in_their_order() -> None:
    rows = rows_of(20)
    rows[[4, 11, 17]] = rows[2] * np.array([[1.0], [3.0], [1.0]], np.float32)  # the length does not count
    found, cosines = nearest(rows, [2, 11])
    assert sorted(found[0, :3].tolist()) == [4, 11, 17]
    assert sorted(found[1, :3].tolist()) == [2, 4, 17]
    np.testing.assert_allclose(cosines[:, :3], 1, atol=1e-6)
    assert nearest(np.ones((5, 2), np.float32), [2])[0].tolist() == [[0, 1, 3, 4]]


def test_odd_vectors_have_a_length() -> None:
    odd = np.array([[0, 0], [np.nan, 3], [1e30, 1e30], [1e-30, 0], [np.inf, 1]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit(odd), axis=1), [0, 1, 1, 1, 1], atol=1e-6)
    assert np.isfinite(nearest(odd, range(5))[1]).all()
    assert unit(np.zeros((0, 3), np.float32)).shape == (0, 3)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=40))
def test_queries_are_of_all_groups(groups: list[str]) -> None:
    chosen = choose_queries(groups)
    assert len(chosen) == len(set(chosen)) == min(len(groups), neighbours.QUERIES)
    assert {groups[row] for row in chosen} == set(groups)


def test_rows_are_spread_evenly() -> None:
    assert spread(3).tolist() == [0, 1, 2]
    assert spread(0).tolist() == []
    far = spread(10_000, 5)
    assert far.tolist() == [0, 2500, 5000, 7499, 9999]


@pytest.mark.parametrize("shape", [(40, 5), (7, 30), (2, 3), (5, 1), (1, 4)])
def test_the_plane_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    rows = rows_of(*shape).astype(np.float64)
    points = principal(rows)
    assert points.shape == (shape[0], 2)
    centred = rows - rows.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in range(min(2, len(strengths))):
        expected = np.abs(left[:, axis] * strengths[axis])
        np.testing.assert_allclose(np.abs(points[:, axis]), expected, atol=1e-6)


@pytest.mark.parametrize("number", [3, 4, 5, 12, 60])
def test_clusters_stay_together_on_the_map(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    centres = np.repeat(np.eye(3, 8, dtype=np.float32), -(-number // 3), axis=0)[:number]
    rows = centres + 0.02 * rows_of(number, 8)
    points, method = plane(rows)
    assert points.shape == (number, 2)
    assert np.isfinite(points).all()
    assert method in ("PCA", "t-SNE")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    points, method = plane(rows)
    assert method == "PCA"
    if number == 60:
        distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(number)
        own = centres.argmax(axis=1)
        assert (own[distance.argmin(axis=1)] == own).all()


def test_equal_vectors_make_a_map_of_one_place() -> None:
    points, method = plane(np.ones((9, 4), np.float32))
    assert method == "PCA"
    assert (points == 0).all()
    assert "<circle" in map_section(np.ones((9, 4), np.float32), ["a"] * 9, [""] * 9, "folder", "images").html


def test_agreement_is_counted_by_hand() -> None:
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.4]], np.float32)
    same, chance, number = agreement(rows, ["x", "x", "y", "y", "y"])
    assert (same, number) == (0.8, 5)
    assert chance == pytest.approx((2 * 1 + 3 * 2) / 20)
    assert agreement(rows, ["x", "", "", "", ""])[2] == 0


def test_maps_say_what_they_are_of_and_escape_names() -> None:
    rows = rows_of(30)
    groups = ["<b>", "c"] * 14 + ["", ""]
    section = map_section(rows, [f"<i>{n}" for n in range(30)], groups, "class", "images")
    assert section.html.count("<circle") == 30
    assert "<i>1" not in section.html
    assert "&lt;i&gt;1: c" in section.html
    assert "Of 28 images" in section.html
    assert "30 images" in section.html
    assert "</i>others</span>" in section.html
    few = map_section(rows[:2], ["a", "b"], ["", ""], "folder", "images")
    assert "A map needs 3 images or more" in few.html


def test_the_sheet_shows_each_query_before_its_neighbours() -> None:
    rows = rows_of(9)
    rows[7] = rows[1]
    names = [f"n{n}" for n in range(9)]
    asked: list[int] = []

    def picture(row: int) -> np.ndarray:
        asked.append(row)
        return np.full((1, 20, 30), row, np.uint8)

    sheet, lines = neighbours_sheet(rows, names, ["x"] * 9, picture)
    assert sheet.dtype == np.uint8
    assert len(lines) == neighbours.QUERIES
    assert len(asked) == neighbours.QUERIES * (1 + neighbours.NEIGHBOURS)
    assert any(line.startswith(("n1: n7 (1.000)", "n7: n1 (1.000)")) for line in lines)
    _, lines = neighbours_sheet(rows[:1], names[:1], [""], picture)
    assert lines == ["n0: there is no other"]
