"""Charts as inline SVG: small, sharp at any size, without fonts or scripts, their colours taken from the page.

Every function returns a ``<figure>`` whose texts are escaped; numbers that are not finite are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
MAX_BINS = 48
MAX_BARS = 40
TAIL = 99.5
"""Percentile that a histogram's axis reaches where a few values lie far beyond it."""
COLOUR, ACCENT = "#1f7a8c", "#d1495b"
MAP, MARGIN = (880, 620), 16
"""Width and height of a map of dots, and how far they stay off its border."""
GROUPS = (
    *("#1f7a8c", "#e07a1f", "#7a5cc4", "#3a9d4a", "#d1495b", "#2f6fd0"),
    *("#b08900", "#c44fa8", "#6b8e23", "#8c5a3c", "#18a999", "#c2185b"),
)
"""Colours of the largest groups on a map, to be told apart on white and on black."""
OTHERS = "#8a949b"
"""Colour of all other groups."""


def histogram(numbers: Sequence[float] | np.ndarray, label: str, unit: str = "") -> str:
    """Draw how values are distributed, with their median; bins follow Freedman and Diaconis (1981)."""
    values = _finite(numbers)
    if values.size == 0:
        return _empty(label)
    low, high = _span(values)
    counts, edges = np.histogram(values, bins=_edges(values, low, high))
    plot = _Plot((edges[0], edges[-1]), (0, counts.max()))
    bars = [
        plot.bar(left, right, count, f"{number(left)} – {number(right)}: {count:,}")
        for left, right, count in zip(edges[:-1], edges[1:], counts)
        if count
    ]
    median = float(np.median(values))
    note = f"n = {values.size:,}, median {number(median)}{_spaced(unit)}"
    beyond = int((values > edges[-1]).sum())
    if beyond:
        note += f"; {beyond:,} beyond the axis"
    body = [plot.axes(_axis_title(label, unit), "count"), *bars, plot.vertical(median)]
    return _figure(label, note, body)


def bars(
    names: Sequence[str],
    values: Sequence[float] | np.ndarray,
    label: str,
    unit: str = "",
    kind: tuple[str, str] = ("image", "images"),
) -> str:
    """Draw one bar per name, largest first, of names of a `kind`; more than 40 of them become a histogram."""
    values = np.asarray(values, np.float64)
    if len(values) > MAX_BARS:
        return histogram(values, label, unit)
    if not np.isfinite(values).any():
        return _empty(label)
    order = np.argsort(-np.nan_to_num(values), kind="stable")
    plot = _Plot((0, len(values)), (0, max(float(np.nanmax(values)), 0)))
    body = [
        plot.bar(place + 0.12, place + 0.88, values[index], f"{names[index]}: {number(values[index])}")
        for place, index in enumerate(order)
        if np.isfinite(values[index])
    ]
    note = f"{len(values):,} {kind[1]}, largest first" if len(values) > 1 else str(names[0])
    return _figure(label, note, [plot.axes(kind[0], _axis_title(label, unit), x_ticks=False), *body])


def line(places: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray, label: str, axis: str) -> str:
    """Draw values along an axis, time for instance, joined by a line; `places` ascend."""
    places, values = np.asarray(places, np.float64), np.asarray(values, np.float64)
    known = np.isfinite(values)
    if not known.any():
        return _empty(label)
    plot = _Plot((places[0], places[-1]), (min(0.0, float(values[known].min())), max(0.0, float(values[known].max()))))
    points = " ".join(f"{plot.x(place):.1f},{plot.y(value):.1f}" for place, value in zip(places[known], values[known]))
    drawn = f'<polyline points="{points}" fill="none" stroke="{COLOUR}" stroke-width="1.5"/>'
    note = f"{number(float(values[known].min()))} – {number(float(values[known].max()))}"
    return _figure(label, note, [plot.axes(axis, label), drawn])


def reliability(
    confidence: Sequence[float] | np.ndarray, accuracy: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray
) -> str:
    """Draw how often predictions are right against how sure they were, a dot for each bin; honest ones lie on the line.

    Dots are larger where more predictions are.
    """
    counts = np.asarray(counts)
    if not counts.sum():
        return _empty("Reliability")
    error = float(np.average(np.abs(np.asarray(confidence) - np.asarray(accuracy)), weights=counts))
    plot = _Plot((0, 1), (0, 1))
    ends = f"M{plot.x(0):.1f} {plot.y(0):.1f}L{plot.x(1):.1f} {plot.y(1):.1f}"
    honest = f'<path d="{ends}" stroke="{ACCENT}" stroke-dasharray="4 3"/>'
    dots = [
        plot.dot(sure, right, 3 + 6 * math.sqrt(n / counts.max()), f"confidence {sure:.2f}, right {right:.2f}: {n:,}")
        for sure, right, n in zip(confidence, accuracy, counts)
        if n
    ]
    note = f"expected calibration error {number(error)}"
    return _figure("Reliability", note, [plot.axes("confidence", "share that is right"), honest, *dots])


def scatter(points: np.ndarray, names: Sequence[str], groups: Sequence[str], label: str, note: str = "") -> str:
    """Draw a map of dots, which has no axes: only near and far count.

    Parameters
    ----------
    points
        (N, 2).
    names
        What to say of each dot when the pointer rests on it.
    groups
        What each belongs to: the largest groups have colours and stand in a legend. Empty for none.
    label, note
        Title, and what follows it.
    """
    if not len(points):
        return _empty(label)
    known = [group for group, _ in Counter(group for group in groups if group).most_common()]
    colours = dict(zip(sorted(known[: len(GROUPS)]), GROUPS))
    (across, up), (width, height) = np.asarray(points, np.float64).T, MAP
    xs, ys = MARGIN + _share(across) * (width - 2 * MARGIN), height - MARGIN - _share(up) * (height - 2 * MARGIN)
    radius = 5 if len(points) <= 300 else 3
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="0.75">'
        f"<title>{escape(name)}</title></circle>"
        for x, y, name, colour in zip(xs, ys, names, _colours(groups, colours, len(points)), strict=True)
    ]
    legend = dict(colours) | ({"others": OTHERS} if len(known) > len(colours) or "" in groups else {})
    keys = "".join(
        f'<span class="key"><i style="background: {colour}"></i>{escape(name)}</span> '
        for name, colour in (legend.items() if known else ())
    )
    return _figure(label, note, dots, MAP, keys)


def _share(values: np.ndarray) -> np.ndarray:
    """Place values between the smallest, 0, and the largest, 1."""
    low, high = _widened((float(values.min()), float(values.max())))
    return (values - low) / (high - low)


def _colours(groups: Sequence[str], colours: dict[str, str], number: int) -> list[str]:
    """Give every dot its colour; all have the same where there are no groups."""
    return [colours.get(group, OTHERS) for group in groups] if any(groups) else [COLOUR] * number


class _Plot:
    """The map from data to the drawing, and what is drawn with it."""

    def __init__(self, x_span: tuple[float, float], y_span: tuple[float, float]) -> None:
        self.x_span, self.y_span = _widened(x_span), _widened(y_span)

    def x(self, value: float) -> float:
        """Place a value along the x axis."""
        low, high = self.x_span
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place a value along the y axis, upwards."""
        low, high = self.y_span
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def bar(self, left: float, right: float, value: float, text: str) -> str:
        """Draw a bar from the x axis up, with a text that shows when the pointer rests on it."""
        x, y = self.x(left), self.y(value)
        width = max(self.x(right) - x - 1, 0.5)
        return (
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
            f'fill="{COLOUR}"><title>{escape(text)}</title></rect>'
        )

    def dot(self, x: float, y: float, radius: float, text: str) -> str:
        """Draw a disk with a text that shows when the pointer rests on it."""
        return (
            f'<circle class="bar" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:.1f}" fill="{COLOUR}" '
            f'fill-opacity="0.8"><title>{escape(text)}</title></circle>'
        )

    def vertical(self, value: float) -> str:
        """Draw a dashed line across the plot."""
        x = f"{self.x(value):.1f}"
        return (
            f'<line class="median" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            f'stroke="{ACCENT}" stroke-width="1.5" stroke-dasharray="4 3"/>'
        )

    def axes(self, x_title: str, y_title: str, x_ticks: bool = True) -> str:
        """Draw the base line, ticks, their numbers and both titles."""
        base, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
        parts = [f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity="0.4"/>']
        for value in ticks(*self.y_span):
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity="0.09"/>')
            parts.append(_text(LEFT - 6, y + 3.5, number(value), "end"))
        for value in ticks(*self.x_span) if x_ticks else []:
            parts.append(_text(self.x(value), base + 15, number(value)))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_title))
        parts.append(f'<g transform="translate(11 {middle:.0f}) rotate(-90)">{_text(0, 0, y_title)}</g>')
        return "".join(parts)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers within [low, high]: at most `most` multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(
    title: str, note: str, body: Sequence[str], extents: tuple[int, int] = (WIDTH, HEIGHT), keys: str = ""
) -> str:
    about, (width, height) = escape(f"{title}. {note}" if note else title), extents
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span> {keys}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{about}" font-family="system-ui, sans-serif" '
        f'font-size="11">{"".join(body)}</svg></figure>'
    )


def _empty(title: str) -> str:
    return _figure(title, "", [_text(WIDTH / 2, HEIGHT / 2, "no data")])


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" fill-opacity="0.75">'
        f"{escape(text)}</text>"
    )


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    return values[np.isfinite(values)]


def _span(values: np.ndarray) -> tuple[float, float]:
    """Give the range of an axis: all values, or, where a few lie far beyond the others, up to their 99.5th percentile.

    Ranges that begin near zero begin at zero.
    """
    low, high = float(values.min()), float(values.max())
    tail = float(np.percentile(values, TAIL))
    if high - low > 2 * (tail - low) > 0:
        high = tail
    return (0.0 if 0 <= low < 0.25 * high else low), high


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if high > low:
        return low, high
    margin = abs(low) * 0.5 or 1.0
    return (low, low + margin) if low == 0 else (low - margin, low + margin)


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Cut [low, high] into 8 to 48 bins; those of whole numbers hold equally many of them each."""
    q25, q75 = np.percentile(values, (25, 75))
    width = 2 * (q75 - q25) / np.cbrt(values.size)
    bins = int(np.clip((high - low) / width, 8, MAX_BINS)) if width > 0 else 10
    if not (values == np.round(values)).all() or high <= low:
        return np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
    width = max(1, round((high - low) / bins))
    return math.floor(low) - 0.5 + width * np.arange(math.ceil((high - math.floor(low) + 1) / width) + 1)


def _axis_title(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""


def number(value: float) -> str:
    """Write a number for people: three significant digits, whole numbers grouped by thousands."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 1e7 or abs(value) < 1e-3:
        return f"{value:.3g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
