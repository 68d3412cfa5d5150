"""A classifier on images: whole ones, or each object of a segmentation; and folders of them with their report."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from abbe.batch import Found
from abbe.data.channels import match_channels
from abbe.data.classes import names_of, read_rows
from abbe.data.image import SUFFIXES, Image
from abbe.data.masks import read_masks
from abbe.data.normalize import Normalization, Statistics
from abbe.data.select import Series
from abbe.data.squares import around, inside, mirror_out, shape_for, square
from abbe.errors import AbbeError
from abbe.methods.backbones.classification import Classification, ClassificationOptions
from abbe.model import Model
from abbe.ops.boxes import Box, whole
from abbe.ops.resampling import weights
from abbe.report.classes import choose_for_sheet, class_columns, class_sections, class_sheet, thumbnail
from abbe.report.measure import measure_labels, placed
from abbe.report.page import Section
from abbe.report.table import ObjectTable
from abbe.settings import ClassifySettings

BATCH = 32
"""Pictures that are classified together."""
AT_ONCE = 2**25
"""Values of an image that are read at once; larger ones are shrunk band by band."""


class Classifier:
    """A model of classes, and how it is applied.

    Parameters
    ----------
    model
        As :func:`abbe.load` gives it.

    Raises
    ------
    AbbeError
        When the model tells no classes.
    """

    def __init__(self, model: Model):
        if model.method.joins == "sequence":
            raise AbbeError(f"model {model.name!r} reads sequences and no images; abbe.api.translate uses it")
        if not isinstance(model.method, Classification):
            raise AbbeError(f"model {model.name!r} finds objects and tells no classes; use it with `abbe segment`")
        if not model.method.options.classes:
            raise AbbeError(
                f"model {model.name!r} does not say what its classes are called; train it on yours with "
                f"--start_from {model.path or model.name}"
            )
        self.model = model
        self.normalization = Normalization(**model.description.normalization)

    @property
    def options(self) -> ClassificationOptions:
        """Classes and size of the pictures."""
        return self.model.method.options  # type: ignore[attr-defined]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return self.options.classes

    def probabilities(self, pictures: Iterable[np.ndarray], settings: ClassifySettings) -> np.ndarray:
        """Compute calibrated probabilities (N, K) of normalised squares (C, size, size)."""
        predictor = self.model.predictor(settings)
        rows = [np.zeros((0, len(self.classes)), np.float32)]
        waiting = iter(pictures)
        while windows := list(itertools.islice(waiting, BATCH)):
            rows.append(predictor(np.stack(windows))["probability"])
        return np.concatenate(rows)

    def images(self, series: Series, settings: ClassifySettings) -> pd.DataFrame:
        """Tell the class of every frame of an image, as :func:`abbe.report.classes.class_columns` does."""
        squares = (self.picture(frame) for frame in series)
        table = class_columns(self.probabilities(squares, settings), self.classes)
        for place, axis in enumerate(series.axes):
            table.insert(place, {"T": "time", "Z": "z"}[axis], [series.index(n)[place] for n in range(len(series))])
        return table

    def picture(self, frame: Image) -> np.ndarray:
        """Bring a whole image CYX to what the network takes, (C, size, size)."""
        options, channels = self.options, self.model.method.in_channels
        if frame.n_channels * frame.height * frame.width <= AT_ONCE:
            pixels = self.normalization.normalize(frame.box(whole(frame.extents)))
        else:
            statistics = self.normalization.statistics(frame.box, frame.extents)
            pixels = shrunk(frame, statistics, shape_for(frame.extents, options.size, options.fit))
        return square(match_channels(pixels, channels, frame.name), options.size, options.fit)

    def objects(self, frame: Image, labels: np.ndarray, settings: ClassifySettings) -> tuple[np.ndarray, pd.DataFrame]:
        """Tell the class of every object of an image CYX with labels (Y, X).

        Returns
        -------
        tuple
            Numbers of the objects, ascending, and as many rows of :func:`abbe.report.classes.class_columns`.
        """
        numbers, boxes = boxes_of(labels)
        crops = self.crops(frame, boxes, settings)
        return numbers, class_columns(self.probabilities(map(self._ready, crops), settings), self.classes)

    def crops(self, frame: Image, boxes: Sequence[Box], settings: ClassifySettings) -> Iterator[np.ndarray]:
        """Cut the square around each box out of an image, (C, Y, X) in its own type, mirrored beyond the border."""
        side = self.options.object_side if settings.object_side is None else settings.object_side
        margin = self.options.object_margin if settings.object_margin is None else settings.object_margin
        if (side is not None and side < 1) or margin < 0:
            raise AbbeError(
                f"squares of side {side} and margin {margin:g} around objects; expected 1 px and 0 at least"
            )
        small = frame.n_channels * frame.height * frame.width <= AT_ONCE
        held = frame.box(whole(frame.extents)) if small else None
        for box in boxes:
            wanted = around(box, side, margin)
            part = inside(wanted, frame.extents)
            (top, bottom), (left, right) = part
            pixels = frame.box(part) if held is None else held[:, top:bottom, left:right]
            yield mirror_out(pixels, part, wanted)

    def _ready(self, crop: np.ndarray) -> np.ndarray:
        """Treat a crop as training treats a file that holds it."""
        pixels = match_channels(self.normalization.normalize(crop), self.model.method.in_channels, "objects")
        return square(pixels, self.options.size, self.options.fit)


def shrunk(frame: Image, statistics: Statistics, shape: tuple[int, int]) -> np.ndarray:
    """Normalise an image CYX and bring it to ``shape``, (C, Y, X) float32, reading it band by band."""
    (_, down), (_, across) = (weights(0, new, new, old) for new, old in zip(shape, frame.extents, strict=True))
    rows = max(1, AT_ONCE // max(1, frame.n_channels * frame.width))
    result = np.zeros((frame.n_channels, *shape), np.float32)
    for y0 in range(0, frame.height, rows):
        y1 = min(y0 + rows, frame.height)
        for target, channel in zip(result, statistics.apply(frame.box(((y0, y1), (0, frame.width)))), strict=True):
            target += down[:, y0:y1] @ (across @ channel.T).T
    return result


def boxes_of(labels: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Give the numbers of the objects in a label image (Y, X), ascending, and their boxes."""
    if int(labels.max(initial=0)) > labels.size:  # numbers with large gaps would each cost a place in a list
        values, index = np.unique(labels, return_inverse=True)
        inside_numbers, boxes = boxes_of((index.reshape(labels.shape) + (values[0] > 0)).astype(np.int32))
        return values[inside_numbers - (values[0] > 0)], boxes
    found = [(number, box) for number, box in enumerate(ndimage.find_objects(labels), 1) if box is not None]
    boxes = [tuple((along.start, along.stop) for along in box) for _, box in found]
    return np.array([number for number, _ in found], np.int64), boxes


# ------------------------------------------------------------------------------------------------------ objects


def find_object_classes(
    classifier: Classifier, mask: Any, image: Any, settings: ClassifySettings
) -> tuple[Found, pd.DataFrame]:
    """Measure the objects of a mask and tell their classes: what a batch writes, and the table with the classes."""
    started = time.perf_counter()
    masks, series, labels = read_masks(mask, image, settings)
    assert series is not None
    if series.dimensions == 3:
        raise AbbeError(
            f"{masks.image.name}: labels of solids, {labels.shape}, but classes are told of planes; choose with --z"
        )
    table, frames = ObjectTable(), []
    for number, frame in enumerate(series):
        here = labels[masks.index(number)]
        rows = measure_labels(here, frame, name=frame.name)
        numbers, classes = classifier.objects(frame, here, settings)
        told = classes.set_index(pd.Index(numbers)).reindex(rows["label"]).reset_index(drop=True)
        frames.append(placed(pd.concat([rows, told], axis=1), masks, number))
        table.add(frames[-1])
    sheet = object_sheet(classifier, series[0], labels[masks.index(0)], frames[0], settings)
    pictures = {} if sheet is None else {"_classes.png": sheet}
    seconds = time.perf_counter() - started
    return Found(series, labels, table, seconds, write_labels=False, pictures=pictures), pd.concat(frames)


def object_sheet(
    classifier: Classifier, frame: Image, labels: np.ndarray, table: pd.DataFrame, settings: ClassifySettings
) -> np.ndarray | None:
    """Show objects of every class, from the surest to the least sure; None where there is no object."""
    chosen = choose_for_sheet(table["class"].tolist(), table["probability"].tolist())
    if not chosen:
        return None
    _, boxes = boxes_of(labels)
    crops = classifier.crops(frame, [boxes[place] for place in chosen], settings)
    captions = [f"{table['class'].iloc[place]} {table['probability'].iloc[place]:.2f}" for place in chosen]
    return class_sheet([thumbnail(crop) for crop in crops], captions)


def object_sections(classifier: Classifier, truth: Path | None) -> Callable[[Path], list[Section]]:
    """Give what makes the report's parts about classes out of a folder's objects.csv."""

    def sections(folder: Path) -> list[Section]:
        columns = ["image", "label", "class", "probability", *(f"p_{name}" for name in classifier.classes)]
        table = pd.read_csv(folder / "objects.csv", usecols=columns, dtype={"image": str, "class": str})
        if truth is not None:
            table["truth"] = known_objects(truth, table, classifier.classes)
        return class_sections(table, classifier.classes, "objects", table["image"].tolist())

    return sections


def known_objects(path: Path, table: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Look the true classes of objects up in a CSV file with the columns image, label and class."""
    rows = read_rows(path, ("image", "label", "class"))
    refuse_unknown({row["class"] for row in rows}, classes, path)
    known = {(_bare(row["image"].strip()), row["label"].strip()): row["class"].strip() for row in rows}
    return [
        next((known[name, str(label)] for name in names_of(image) if (name, str(label)) in known), "")
        for image, label in zip(table["image"], table["label"], strict=True)
    ]


def _bare(name: str) -> str:
    """Take the suffix of an image file off, as the tables do."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def refuse_unknown(names: set[str], classes: Sequence[str], source: Path) -> None:
    """Refuse a table that names classes which the model lacks."""
    unknown = sorted({name.strip() for name in names} - {*classes, ""})
    if unknown:
        raise AbbeError(f"{source}: classes that the model lacks: {', '.join(unknown)}; it knows {', '.join(classes)}")
