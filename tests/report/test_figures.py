from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.report.figures import (
    GROUPS,
    HEIGHT,
    MAP,
    MAX_BARS,
    OTHERS,
    WIDTH,
    bars,
    histogram,
    line,
    number,
    reliability,
    scatter,
    ticks,
)

FLOATS = st.floats(-1e12, 1e12, allow_subnormal=False) | st.sampled_from([np.nan, np.inf, -np.inf])

PLACES = st.floats(-1e6, 1e6)


def drawing(markup: str) -> ElementTree.Element:
    """Parse the figure and check that all that is drawn is a number within it."""
    figure = ElementTree.fromstring(markup)
    for element in figure.iter():
        for name in ("x", "y", "x1", "y1", "width", "height"):
            value = element.get(name)
            if value is not None:
                assert -1 <= float(value) <= max(WIDTH, HEIGHT) + 1, (name, value)
        assert not {"nan", "inf"} & set(element.get("d", "").replace("M", " ").replace("L", " ").split())
    return figure


def tips(figure: ElementTree.Element) -> list[str]:
    """List what bars say when the pointer rests on them."""
    return [title.text or "" for title in figure.iter("title")]


def counts(figure: ElementTree.Element) -> list[int]:
    return [int(tip.rpartition(": ")[2].replace(",", "")) for tip in tips(figure)]


@settings(deadline=None, max_examples=40)
@given(values=st.lists(FLOATS, max_size=60))
def test_histogram_counts_every_finite_value_once(values: list[float]) -> None:
    figure = drawing(histogram(values, "Area", "µm²"))
    finite = [value for value in values if np.isfinite(value)]
    note = "".join(figure.itertext())
    beyond = int(note.partition("; ")[2].partition(" beyond")[0].replace(",", "")) if "beyond" in note else 0
    assert sum(counts(figure)) + beyond == len(finite)
    assert finite or "no data" in note


def test_bins_of_whole_numbers_hold_equally_many_of_them() -> None:
    figure = drawing(histogram(np.tile(np.arange(120), 10), "count"))
    assert len(set(counts(figure)[:-1])) == 1


def test_a_far_value_does_not_squeeze_the_others() -> None:
    values = np.append(np.random.default_rng(0).normal(100, 10, 1000), 1e6)
    figure = drawing(histogram(values, "Area"))
    assert len(list(figure.iter("rect"))) > 8
    assert "beyond the axis" in "".join(figure.itertext())


def test_bars_are_sorted_and_many_become_a_histogram() -> None:
    figure = drawing(bars(["a", "b<", "c"], [1, 3, 2], "Objects"))
    heights = [float(bar.attrib["height"]) for bar in figure.iter("rect")]
    assert heights == sorted(heights, reverse=True)
    assert tips(figure) == ["b<: 3", "c: 2", "a: 1"]
    many = drawing(bars([str(i) for i in range(MAX_BARS + 1)], np.arange(MAX_BARS + 1), "Objects"))
    assert "median" in "".join(many.itertext())
    drawing(bars([], [], "Objects"))
    drawing(bars(["a"], [0], "Objects"))


def test_a_line_goes_from_left_to_right_and_upwards() -> None:
    figure = drawing(line([3, 4, 5, 6], [1, np.nan, 5, 2], "Objects", "time point"))
    (drawn,) = figure.iter("polyline")
    x, y = np.array([point.split(",") for point in drawn.attrib["points"].split()], float).T
    assert len(x) == 3
    assert (np.diff(x) > 0).all()
    assert y[1] < y[2] < y[0]  # downwards on the page
    assert "1 – 5" in "".join(figure.itertext())
    assert "no data" in "".join(drawing(line([1, 2], [np.nan, np.nan], "Objects", "plane")).itertext())
    drawing(line([1, 2], [0, 0], "Objects", "plane"))


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", 'a" onload="x', "µm² & 核"])
def test_texts_are_escaped(label: str) -> None:
    for markup in (
        histogram([1, 2], label, label),
        bars([label], [1], label, label),
        line([0, 1], [2, 3], label, label),
    ):
        figure = drawing(markup)
        assert "<script" not in markup
        assert not any("onload" in element.attrib for element in figure.iter())
        assert label in "".join(figure.itertext())


@settings(deadline=None, max_examples=40)
@given(low=st.floats(-1e9, 1e9), extent=st.floats(1e-3, 1e9), most=st.integers(2, 10))
def test_ticks_are_few_and_inside(low: float, extent: float, most: int) -> None:
    high = low + extent
    if not high > low:
        return
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-6 * max(abs(low), abs(high), extent)
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (0, 1234, 12.345, 0.5, 1e-5, 2.5e8, np.nan, -3.0)] == [
        "0", "1,234", "12.3", "0.5", "1e-05", "2.5e+08", "–", "-3",
    ]  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6)), max_size=15))
def test_reliability_has_a_dot_for_every_bin_that_holds_something(bins: list[tuple[float, float, int]]) -> None:
    figure = drawing(reliability(*(np.array(values) for values in zip(*bins))) if bins else reliability([], [], []))
    filled = [(sure, right, n) for sure, right, n in bins if n]
    assert tips(figure) == [f"confidence {sure:.2f}, right {right:.2f}: {n:,}" for sure, right, n in filled]
    for dot in figure.iter("circle"):
        assert 0 <= float(dot.get("cx", "nan")) <= WIDTH
        assert 0 <= float(dot.get("cy", "nan")) <= HEIGHT


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from("abc<")), min_size=1, max_size=30)
)
def test_a_map_has_every_dot_on_it(dots: list[tuple[float, float, str]]) -> None:
    points, groups = np.array([dot[:2] for dot in dots]), [dot[2] for dot in dots]
    figure = drawing(scatter(points, [str(place) for place in range(len(dots))], groups, "Map", "a note"))
    circles = list(figure.iter("circle"))
    assert tips(figure) == [str(place) for place in range(len(dots))]
    for circle in circles:
        assert 0 <= float(circle.get("cx", "nan")) <= MAP[0]
        assert 0 <= float(circle.get("cy", "nan")) <= MAP[1]
    colours = [circle.get("fill") for circle in circles]
    assert len(set(zip(colours, groups))) == len(set(groups)) == len(set(colours))


def test_small_groups_on_a_map_share_a_colour() -> None:
    groups = [f"g{place:02}" for place in range(20) for _ in range(30 - place)]
    figure = drawing(scatter(np.random.default_rng(0).normal(size=(len(groups), 2)), groups, groups, "Map"))
    colours = {tip: circle.get("fill") for tip, circle in zip(tips(figure), figure.iter("circle"))}
    assert [colours[f"g{place:02}"] for place in range(20)] == [*GROUPS, *[OTHERS] * (20 - len(GROUPS))]
    assert "others" in "".join(figure.itertext())
    assert "no data" in scatter(np.zeros((0, 2)), [], [], "Map")
