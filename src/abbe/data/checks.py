"""What is wrong or odd with annotated images, told before a training rather than by its result."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from skimage.measure import label as connected_components

from abbe.data.datasets import Pair, Pairs, whole_plane, whole_volume
from abbe.data.labels import read_labels
from abbe.data.read import read
from abbe.errors import AbbeError

SIZE_FACTOR = 5.0
"""An object is unusual when its diameter differs from the data set's median by more than this."""
PIXEL_SIZE_FACTOR = 4.0
"""Pixel sizes that differ by more than this are hardly meant."""
SHOWN = 3
"""So many names are given as examples."""


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know before training."""

    level: Literal["error", "warning"]
    """error: training would fail or mislead; warning: look at it."""
    text: str
    """A sentence in plain words, with the names of the files."""


@dataclass(frozen=True)
class _Facts:
    """What the checks over all images need of one."""

    pair: Pair
    digest: str
    pixel_size: float | None
    diameters: np.ndarray


def check_dataset(
    pairs: Sequence[Pair], *, volume: bool = False, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Read every pair once and report what looks wrong, errors first.

    Parameters
    ----------
    pairs
        As :func:`abbe.data.datasets.find_pairs` gives them; its unpaired files are reported too.
    volume
        Images are Z stacks.
    progress
        Called with the images done and their number.
    """
    findings = list(_check_unpaired(pairs))
    facts = []
    for done, pair in enumerate(pairs, 1):
        try:
            one, found = _check_pair(pair, volume)
            facts.append(one)
            findings += found
        except AbbeError as error:
            findings.append(Finding("error", str(error)))
        if progress is not None:
            progress(done, len(pairs))
    for check in (_check_duplicates, _check_empty, _check_pixel_sizes, _check_object_sizes):
        findings += check(facts)
    return sorted(findings, key=lambda finding: finding.level)


# -------------------------------------------------------------------------------------------------- one pair


def _check_pair(pair: Pair, volume: bool) -> tuple[_Facts, list[Finding]]:
    image = read(pair.image)
    pixels = whole_volume(image) if volume else whole_plane(image)
    annotation = read_labels(pair.labels, pixels.shape[1:], pair.image.name, pair.coco)
    findings = [Finding("warning", text) for text in annotation.warnings]
    if pixels.size and pixels.min() == pixels.max():
        findings.append(Finding("warning", f"{pair.image}: every pixel has the value {pixels.flat[0]}"))
    findings += _check_pieces(annotation.labels, pair)
    facts = _Facts(
        pair,
        hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + str(pixels.shape).encode()).hexdigest(),
        image.pixel_size.get("x"),
        _diameters(annotation.labels),
    )
    return facts, findings


def _diameters(labels: np.ndarray) -> np.ndarray:
    """Diameter of the disk or ball that is as large as each object, in pixels."""
    sizes = np.unique(labels[labels > 0], return_counts=True)[1]
    return np.sqrt(4 * sizes / np.pi) if labels.ndim == 2 else np.cbrt(6 * sizes / np.pi)


def _check_pieces(labels: np.ndarray, pair: Pair) -> Iterator[Finding]:
    """Objects in several pieces: a number given twice, or a grey image in the place of labels."""
    pieces, count = connected_components(labels, background=0, return_num=True)
    if count == 0:
        return
    inside = labels > 0
    owner = np.zeros(count + 1, np.int64)
    owner[pieces[inside]] = labels[inside]
    objects = np.unique(owner[1:])
    if len(objects) > 20 and count > 8 * len(objects):
        yield Finding(
            "error",
            f"{pair.labels}: labels that are not labels: {len(objects)} values in {count} pieces, as in a "
            "grey image; expected one number for each object",
        )
        return
    torn = _torn(pieces, owner) if count > len(objects) else []
    if torn:
        places = _count(len(torn), "label")
        text = f"{pair.labels}: {places} in several places far apart: {_examples([str(n) for n in torn])}"
        yield Finding("warning", text)


def _torn(pieces: np.ndarray, owner: np.ndarray) -> list[int]:
    """Objects with a piece that lies farther from their largest one than twice their own diameter."""
    sizes = np.bincount(pieces.ravel(), minlength=len(owner))
    sizes[0] = 0
    grids = np.ogrid[tuple(slice(extent) for extent in pieces.shape)]
    moments = [np.bincount(pieces.ravel(), np.broadcast_to(grid, pieces.shape).ravel()) for grid in grids]
    centres = np.stack(moments, axis=1) / np.maximum(sizes, 1)[:, None]
    numbers, inverse = np.unique(owner, return_inverse=True)
    order = np.lexsort((sizes, inverse))
    largest = np.zeros(len(numbers), np.int64)
    largest[inverse[order]] = order  # the last one written, the largest, stays
    distance = np.linalg.norm(centres - centres[largest[inverse]], axis=1)
    total = np.bincount(inverse, sizes)
    far = distance > 2 * total[inverse] ** (1 / pieces.ndim)
    return [int(number) for number in np.unique(owner[far]) if number > 0]


# -------------------------------------------------------------------------------------------- over all pairs


def _check_unpaired(pairs: Sequence[Pair]) -> Iterator[Finding]:
    unpaired = pairs.unpaired if isinstance(pairs, Pairs) else []
    if unpaired:
        files = _count(len(unpaired), "file")
        yield Finding("warning", f"{files} without partner, left out: {_examples([str(p) for p in unpaired])}")


def _check_duplicates(facts: Sequence[_Facts]) -> Iterator[Finding]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for one in facts:
        groups[one.digest].append(one.pair)
    for same in groups.values():
        names = " = ".join(str(pair.image) for pair in same[:SHOWN])
        if len({pair.split for pair in same}) > 1:
            splits = " and ".join(sorted({pair.split or "no split" for pair in same}))
            yield Finding("error", f"the same image in {splits}, so the score would be too good: {names}")
        elif len(same) > 1:
            yield Finding("warning", f"the same image {len(same)} times: {names}")


def _check_empty(facts: Sequence[_Facts]) -> Iterator[Finding]:
    empty = [one.pair.name for one in facts if not len(one.diameters)]
    if facts and len(empty) == len(facts):
        yield Finding("error", f"no object in any of {_count(len(facts), 'image')}; there is nothing to learn from")
    elif empty:
        yield Finding("warning", f"{_count(len(empty), 'image')} without any object: {_examples(empty)}")


def _check_pixel_sizes(facts: Sequence[_Facts]) -> Iterator[Finding]:
    sizes = {one.pair.name: one.pixel_size for one in facts if one.pixel_size is not None}
    if not sizes:
        return
    unknown = [one.pair.name for one in facts if one.pixel_size is None]
    if unknown:
        text = f"{len(sizes)} images have a pixel size, {len(unknown)} have none: {_examples(unknown)}"
        yield Finding("warning", text)
    low, high = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    if sizes[high] > PIXEL_SIZE_FACTOR * sizes[low]:
        span = f"from {sizes[low]:.4g} µm ({low}) to {sizes[high]:.4g} µm ({high})"
        yield Finding("warning", f"pixel sizes {span}; is one of them wrong?")


def _check_object_sizes(facts: Sequence[_Facts]) -> Iterator[Finding]:
    diameters = [one.diameters for one in facts if len(one.diameters)]
    if not diameters:
        return
    usual = float(np.median(np.concatenate(diameters)))
    for word, unusual in (
        ("larger", lambda d: d > SIZE_FACTOR * usual),
        ("smaller", lambda d: d < usual / SIZE_FACTOR),
    ):
        counts = {one.pair.name: int(unusual(one.diameters).sum()) for one in facts}
        names = sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])
        if names:
            objects = _count(sum(counts.values()), "object")
            yield Finding(
                "warning",
                f"{objects} more than {SIZE_FACTOR:g} times {word} than usual ({usual:.3g} px across), "
                f"in {_examples(names)}",
            )


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
