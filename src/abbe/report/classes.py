"""What a report shows of classes: how many, how sure, and where they are known, how often right and where wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from PIL import Image as PillowImage

from abbe.data.image import Image
from abbe.metrics.classes import bootstrap, confusion, reliability, scores
from abbe.report import figures
from abbe.report.overlay import CAPTION, GAP, SHEET, overlay_of, written
from abbe.report.page import Section

MAX_CLASSES = 40
"""Classes that a confusion matrix shows; of more, the most frequent confusions are listed."""
SHOWN = 96
"""Pictures on a sheet."""
SIDE = 108
"""Pixels of each."""
SHADE = "31, 122, 140"
"""Red, green, blue of a cell where everything is."""


def class_columns(probability: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Make the columns ``class``, ``probability`` and one ``p_<name>`` for each class of probabilities (N, K)."""
    best = probability.argmax(axis=1) if len(probability) else np.zeros(0, np.int64)
    columns: dict[str, np.ndarray] = {
        "class": np.array(classes, object)[best],
        "probability": probability.max(axis=1) if len(probability) else np.zeros(0),
    }
    columns |= {f"p_{name}": probability[:, place] for place, name in enumerate(classes)}
    return pd.DataFrame(columns)


def class_sections(table: pd.DataFrame, classes: Sequence[str], what: str, groups: Sequence[str] = ()) -> list[Section]:
    """Make the parts of a report about classes.

    Parameters
    ----------
    table
        The columns of :func:`class_columns`, and ``truth`` where it is known: names of classes, empty where not.
    classes
        Their names, in order.
    what
        What was classified, in the plural: "images" or "objects".
    groups
        What each row belongs to, for the intervals; each to itself unless given.
    """
    counts = table["class"].value_counts().reindex(list(classes), fill_value=0)
    label = f"{what.capitalize()} by class"
    if len(counts) > MAX_CLASSES:
        counts = counts.nlargest(MAX_CLASSES)
        counts, label = counts[counts > 0], f"{label}, of {len(classes):,} classes"
    charts = [
        figures.bars(counts.index.tolist(), counts.to_numpy(), label, kind=("class", "classes")),
        figures.histogram(table["probability"], "Probability of the class"),
    ]
    sections = [Section("Classes", f'<div class="charts">{"".join(charts)}</div>')]
    known = table["truth"].isin(list(classes)) if "truth" in table else pd.Series(False, index=table.index)
    if known.any():
        names = np.asarray(groups) if len(groups) else np.arange(len(table))
        sections.append(_agreement(table[known], classes, what, names[known.to_numpy()]))
    return sections


def _agreement(table: pd.DataFrame, classes: Sequence[str], what: str, groups: np.ndarray) -> Section:
    probability = table[[f"p_{name}" for name in classes]].to_numpy(float)
    truth = np.array([list(classes).index(name) for name in table["truth"]])
    told = probability.argmax(axis=1)
    bins = reliability(probability, truth)
    chart = figures.reliability(bins.confidence, bins.accuracy, bins.count)
    if len(classes) <= MAX_CLASSES:
        shown = confusion_table(confusion(truth, told, len(classes)), classes)
    else:
        occurring, places = np.unique(np.concatenate([truth, told]), return_inverse=True)
        matrix = confusion(places[: len(truth)], places[len(truth) :], len(occurring))
        shown = confusion_list(matrix, [classes[place] for place in occurring])
    note = f'<p class="note">{escape(score_line(probability, truth, groups, what))}</p>'
    return Section("Agreement with the known classes", f'{note}<div class="charts">{chart}</div>{shown}')


def score_line(probability: np.ndarray, truth: np.ndarray, groups: np.ndarray, what: str) -> str:
    """Write the scores with their intervals as one line."""
    found, intervals = scores(probability, truth), bootstrap(probability, truth, groups)
    parts = [f"{len(truth):,} {what} with a known class"]
    for name, title in (("balanced_accuracy", "balanced accuracy"), ("top1", "right")):
        low, high = intervals[name]
        parts.append(f"{title} {found[name]:.3f} [{low:.3f}, {high:.3f}]")
    return "; ".join([*parts, f"calibration error {found['calibration_error']:.3f}"])


def confusion_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Draw a confusion matrix as a table, a row for each true class, shaded by the share of its row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    rows = []
    for name, counts in zip(classes, matrix, strict=True):
        total = max(int(counts.sum()), 1)
        cells = "".join(
            f'<td style="background: rgba({SHADE}, {count / total:.2f})">{count or ""}</td>'
            for count in counts.tolist()
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<h3>True class by row, told class by column</h3><div class="scroll" tabindex="0" role="region" '
        f'aria-label="confusion matrix"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def confusion_list(matrix: np.ndarray, classes: Sequence[str], most: int = 20) -> str:
    """List the most frequent confusions."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong.ravel(), kind="stable")[:most]
    items = "".join(
        f"<li>{escape(classes[truth])} taken for {escape(classes[told])}: {wrong[truth, told]:,}</li>"
        for truth, told in zip(*np.unravel_index(order, wrong.shape))
        if wrong[truth, told]
    )
    return f"<h3>Most frequent confusions</h3><ul>{items}</ul>"


# ----------------------------------------------------------------------------------------------------- pictures


def thumbnail(pixels: np.ndarray | Image, side: int = SIDE) -> np.ndarray:
    """Show (C, Y, X) of any type as (Y, X, 3) uint8 of at most ``side`` pixels, enlarged by whole factors."""
    picture = overlay_of(pixels, np.zeros(pixels.shape[1:], np.int32), side)
    factor = max(1, side // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def fitted(pixels: np.ndarray) -> np.ndarray:
    """Show (C, Y, X) of any type as (Y, X, 3) uint8 whose longer side fills its place on the sheet."""
    picture = PillowImage.fromarray(thumbnail(pixels, 2 * SIDE))
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(extent * scale)) for extent in picture.size)
    return np.asarray(picture.resize((width, height), PillowImage.Resampling.BICUBIC))


def choose_for_sheet(classes: Sequence[str], probability: Sequence[float], most: int = SHOWN) -> list[int]:
    """Choose which pictures a sheet shows: class by class, from the surest to the least sure, evenly spread."""
    frame = pd.DataFrame({"class": list(classes), "probability": list(probability)})
    names = sorted(frame["class"].unique())
    if not names:
        return []
    room = max(1, most // len(names))
    chosen: list[int] = []
    for name in names[:most]:
        order = frame.index[frame["class"] == name][np.argsort(-frame["probability"][frame["class"] == name])]
        places = np.unique(np.linspace(0, len(order) - 1, min(room, len(order))).round().astype(int))
        chosen += order[places].tolist()
    return chosen


def class_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[str], side: int = SIDE, columns: int | None = None
) -> np.ndarray:
    """Lay pictures (Y, X, 3) uint8 of at most ``side`` pixels side by side, each under its caption."""
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures) * 1.5)))
    rows = max(1, math.ceil(len(pictures) / columns))
    step = side + CAPTION + GAP, side + GAP
    sheet = np.full((rows * step[0] + GAP, columns * step[1] + GAP, 3), SHEET, np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = GAP + number // columns * step[0], GAP + number % columns * step[1]
        sheet[top : top + CAPTION, left : left + side] = written(caption, CAPTION, side)
        shown = picture[:side, :side]
        sheet[top + CAPTION :, left:][: shown.shape[0], : shown.shape[1]] = shown
    return sheet
