"""What a report shows of vectors: which pictures are nearest to some of them, and a map of all.

Vectors are compared by the cosine of the angle between them. The map is t-SNE (van der Maaten and Hinton 2008) where
scikit-learn is installed, else the two directions in which the vectors differ most (principal components).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
import pandas as pd

from abbe.data.vectors import blocks
from abbe.report import figures
from abbe.report.classes import class_sheet, fitted
from abbe.report.gallery import data_uri
from abbe.report.page import Section

QUERIES, NEIGHBOURS = 8, 5
"""Rows of the sheet, and pictures in each beside the query."""
MAPPED = 2000
"""Vectors that a map shows; of more, so many evenly spread ones."""
LEAST = 3
"""Vectors that make a map."""
PERPLEXITY = 30.0
"""Of t-SNE: how many neighbours count, about; a third of the vectors at most."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring rows (N, D) to length one, float32; rows of zeros, and what is not finite, become zeros."""
    rows = np.nan_to_num(np.asarray(vectors, np.float32), posinf=0.0, neginf=0.0)
    largest = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1)  # squares of large numbers would overflow
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(length > 0, length, 1)


def nearest(vectors: np.ndarray, queries: Sequence[int], most: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows nearest to some of them by cosine, each query itself left out; equal ones in their order.

    Parameters
    ----------
    vectors
        (N, D), also a memory map: it is read once, block by block.
    queries
        Numbers of rows.
    most
        Neighbours of each; fewer where there are no more rows.

    Returns
    -------
    tuple
        Numbers of rows and their cosines, (Q, neighbours) each, the nearest first.
    """
    asked = np.asarray(queries, np.intp)
    looking = unit(vectors[asked]) if len(asked) else np.zeros((0, vectors.shape[1]), np.float32)
    rows: np.ndarray = np.zeros((len(asked), 0), np.intp)
    cosines: np.ndarray = np.zeros((len(asked), 0), np.float32)
    for start, block in blocks(vectors):
        numbers = np.arange(start, start + len(block))
        found = np.where(numbers == asked[:, None], -np.inf, looking @ unit(block).T)
        rows = np.concatenate([rows, np.broadcast_to(numbers, found.shape)], axis=1)
        cosines = np.concatenate([cosines, found], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(most, len(vectors) - 1)]
        rows, cosines = np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)
    return rows, cosines


def choose_queries(groups: Sequence[str], most: int = QUERIES) -> list[int]:
    """Choose rows to show the neighbours of: from every group in turn, the middle one of each first."""
    frame = pd.DataFrame({"group": list(groups)})
    turn, number = frame.groupby("group").cumcount(), frame.groupby("group")["group"].transform("size")
    frame["turn"] = (turn - number // 2) % number
    return sorted(frame.sort_values(["turn", "group"], kind="stable").index[:most].tolist())


def spread(number: int, most: int = MAPPED) -> np.ndarray:
    """Choose at most so many of the numbers below ``number``, evenly."""
    return np.unique(np.linspace(0, max(number - 1, 0), min(number, most)).round().astype(np.intp))


def plane(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Place vectors (N, D) on a plane, (N, 2); also says by which method."""
    rows = unit(vectors).astype(np.float64)
    points = principal(rows)
    if len(rows) <= LEAST or not np.ptp(points, axis=0).all() or importlib.util.find_spec("sklearn") is None:
        return points, "PCA"
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    start = points / points[:, 0].std() * 1e-4
    return TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(rows), "t-SNE"


def principal(rows: np.ndarray) -> np.ndarray:
    """Project rows (N, D) on the two directions in which they differ most, (N, 2)."""
    centred = rows - rows.mean(axis=0)
    if centred.shape[0] > centred.shape[1]:
        _, axes = np.linalg.eigh(centred.T @ centred)
        points = centred @ axes[:, :-3:-1]
    else:  # the same from the smaller matrix
        strengths, axes = np.linalg.eigh(centred @ centred.T)
        points = axes[:, :-3:-1] * np.sqrt(np.clip(strengths[:-3:-1], 0, None))
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    points[:, np.ptp(points, axis=0) < 1e-6] = 0  # rounding is no difference
    ends = points[np.abs(points).argmax(axis=0), (0, 1)]
    return points * np.where(ends < 0, -1, 1)  # either sign would do; one of them is taken


def agreement(vectors: np.ndarray, groups: Sequence[str]) -> tuple[float, float, int]:
    """Tell how often the nearest other vector is of the same group, how often a random one would be, and of how many.

    Vectors whose group is not known, an empty text, are left out.
    """
    names = np.asarray(groups, object)
    known = np.flatnonzero(names != "")
    if len(known) < 2:
        return 0.0, 0.0, 0
    rows, own = unit(np.asarray(vectors)[known]), names[known]
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    same = float((own[cosines.argmax(axis=1)] == own).mean())
    counts = pd.Series(own).value_counts().to_numpy(float)
    return same, float((counts * (counts - 1)).sum() / (len(own) * (len(own) - 1))), len(own)


# --------------------------------------------------------------------------------------------------------- parts


def neighbours_sheet(
    vectors: np.ndarray, names: Sequence[str], groups: Sequence[str], picture: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """Show some pictures, each before those nearest to it.

    Parameters
    ----------
    vectors
        (N, D), at least one.
    names, groups
        Of each row; groups may be empty texts.
    picture
        Gives the pixels of a row's picture, (C, Y, X).

    Returns
    -------
    tuple
        The sheet, (Y, X, 3) uint8, and each of its lines in words.
    """
    queries = choose_queries(groups)
    found, cosines = nearest(vectors, queries)
    pictures, captions, lines = [], [], []
    for query, rows, similar in zip(queries, found.tolist(), cosines.tolist(), strict=True):
        pictures += [fitted(picture(row)) for row in (query, *rows)]
        captions += [groups[query] or names[query]]
        captions += [f"{cosine:.3f} {groups[row]}" for row, cosine in zip(rows, similar, strict=True)]
        told = ", ".join(f"{names[row]} ({cosine:.3f})" for row, cosine in zip(rows, similar, strict=True))
        lines.append(f"{names[query]}: {told}" if rows else f"{names[query]}: there is no other")
    return class_sheet(pictures, captions, columns=found.shape[1] + 1), lines


def neighbours_section(sheet: np.ndarray, lines: Sequence[str]) -> Section:
    """Make the part of a page that shows the sheet, and tells it in words."""
    source, width, height = data_uri(sheet)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    about = "Each row begins with a picture; those nearest to it follow, with the cosine between their vectors"
    return Section(
        "Nearest neighbours",
        f'<p class="note">{about}, 1 for the same direction.</p>'
        f'<img src="{source}" width="{width}" height="{height}" style="max-width: 100%; height: auto" '
        f'alt="{about}; listed below."><details><summary>The same in words</summary><ul>{items}</ul></details>',
    )


def map_section(vectors: np.ndarray, names: Sequence[str], groups: Sequence[str], kind: str, what: str) -> Section:
    """Make the part of a page with the map.

    Parameters
    ----------
    vectors
        (N, D), also a memory map.
    names, groups
        Of each row; groups may be empty texts.
    kind
        What a group is: "folder" or "class".
    what
        What the rows are, in the plural.
    """
    chosen = spread(len(vectors))
    if len(chosen) < LEAST:
        return Section("Map", f'<p class="note">A map needs {LEAST} {what} or more.</p>')
    taken = np.asarray(vectors[chosen])
    own_names, own_groups = ([values[row] for row in chosen] for values in (names, groups))
    points, method = plane(taken)
    note = f"{len(chosen):,} of {len(vectors):,} {what}" if len(chosen) < len(vectors) else f"{len(chosen):,} {what}"
    tips = [f"{name}: {group}" if group else name for name, group in zip(own_names, own_groups, strict=True)]
    chart = figures.scatter(points, tips, own_groups, f"Map ({method})", note)
    return Section("Map", f'<p class="note">{escape(_about(taken, own_groups, kind, what))}</p>{chart}')


def _about(vectors: np.ndarray, groups: Sequence[str], kind: str, what: str) -> str:
    near = f"Near to each other are {what} that the network sees alike; directions and distances mean nothing else."
    if len({group for group in groups if group}) < 2:
        return near
    same, chance, number = agreement(vectors, groups)
    found = f"Of {number:,} {what} {same:.0%} have their nearest neighbour in the same {kind}"
    return f"{near} {found}; {chance:.0%} would by chance."
