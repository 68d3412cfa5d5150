"""A classifier on images: whole ones, or each object of a segmentation; and folders of them with their report."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from abbe.batch import Found
from abbe.data.classes import names_of, read_rows, some
from abbe.data.image import SUFFIXES, Image
from abbe.data.masks import read_masks
from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.methods.backbones.classification import Classification
from abbe.model import Model
from abbe.report.classes import choose_for_sheet, class_columns, class_sections, class_sheet, fitted
from abbe.report.measure import COLUMN_OF, measure_labels, placed
from abbe.report.page import Section
from abbe.report.table import ObjectTable
from abbe.settings import ClassifySettings
from abbe.tiling.prepare import Predictor
from abbe.views import Views, boxes_of, views_of


class Classifier:
    """A model of classes, and how it is applied.

    Parameters
    ----------
    model
        As :func:`abbe.load` gives it.

    Raises
    ------
    AbbeError
        When the model tells no classes, or its last layer has not been trained.

    Attributes
    ----------
    classes : tuple of str
        Names, in the order of the probabilities.
    note : str
        What there is to say of the names; empty where the model has some.
    """

    def __init__(self, model: Model):
        model.expect_images()
        if not isinstance(model.method, Classification):
            raise AbbeError(f"model {model.name!r} finds objects and tells no classes; use it with `abbe segment`")
        number = len(model.method.options.classes) or int(model.description.config.get("num_classes", 0))
        if not number:
            raise AbbeError(f"model {model.name!r} gives features and tells no classes; use it with `abbe embed`")
        if model.description.untrained:
            raise AbbeError(
                f"model {model.name!r} has a last layer that was never trained, so it cannot tell {number} classes; "
                f"train it on yours with --start_from {model.path or model.name}"
            )
        self.model = model
        self._sized: dict[int, Model] = {int(model.method.options.size): model}
        self.classes = model.method.options.classes or tuple(f"class {place}" for place in range(number))
        self.note = ""
        if not model.method.options.classes:
            self.note = (
                f"model {model.name!r} does not name its {number:,} classes; they are called by their numbers, from "
                f"{self.classes[0]!r} to {self.classes[-1]!r}: `abbe convert` with --classes FILE gives them names"
            )

    def predictor(self, settings: ClassifySettings) -> Predictor:
        """Prepare the network for a device, a precision and a size of pictures, once for each."""
        views = self.views(settings)
        if views.size not in self._sized:
            method = copy.copy(cast(Classification, self.model.method))
            method.options = dataclasses.replace(method.options, size=views.size)
            self._sized[views.size] = Model(method, self.model.description, self.model.path)
        with self._of_size(settings):
            return self._sized[views.size].predictor(settings)

    def told(self, pictures: np.ndarray, settings: ClassifySettings) -> np.ndarray:
        """Compute calibrated probabilities (N, K) of normalised squares (N, C, size, size), all together."""
        predictor = self.predictor(settings)
        with self._of_size(settings):
            return predictor(pictures)["probability"]

    @contextmanager
    def _of_size(self, settings: ClassifySettings) -> Iterator[None]:
        """Say that it may be the size that somebody asked for which the network does not take."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if settings.size is None:
                raise
            told = f"model {self.model.name!r} takes no squares of {settings.size} px"
            raise AbbeError(f"{told} ({error}); choose others with --size") from error

    def probabilities(self, pictures: Iterable[np.ndarray], settings: ClassifySettings) -> np.ndarray:
        """Compute calibrated probabilities (N, K) of normalised squares (C, size, size), some at a time."""
        rows = [np.zeros((0, len(self.classes)), np.float32)]
        waiting, together = iter(pictures), self.views(settings).together
        while windows := list(itertools.islice(waiting, together)):
            rows.append(self.told(np.stack(windows), settings))
        return np.concatenate(rows)

    def images(self, series: Series, settings: ClassifySettings) -> pd.DataFrame:
        """Tell the class of every frame of an image, as :func:`abbe.report.classes.class_columns` does."""
        probability = self.probabilities(map(self.views(settings).picture, series), settings)
        return self.table(places_of(series), probability)

    def table(self, places: pd.DataFrame, probability: np.ndarray) -> pd.DataFrame:
        """Put where frames are before what they show."""
        return pd.concat([places, class_columns(probability, self.classes)], axis=1)

    def views(self, settings: ClassifySettings | None = None) -> Views:
        """Say how images come to the network under these settings."""
        return views_of(self.model, settings)

    def picture(self, frame: Image) -> np.ndarray:
        """Bring a whole image CYX to what the network takes, (C, size, size)."""
        return self.views().picture(frame)

    def objects(self, frame: Image, labels: np.ndarray, settings: ClassifySettings) -> tuple[np.ndarray, pd.DataFrame]:
        """Tell the class of every object of an image CYX with labels (Y, X).

        Returns
        -------
        tuple
            Numbers of the objects, ascending, and as many rows of :func:`abbe.report.classes.class_columns`.
        """
        numbers, boxes = boxes_of(labels)
        squares = self.views(settings).squares(frame, boxes)
        return numbers, class_columns(self.probabilities(squares, settings), self.classes)


def places_of(series: Series) -> pd.DataFrame:
    """Say where each frame of an image is: a column for every axis that it was taken apart along."""
    columns = {COLUMN_OF[axis]: [series.names(number)[axis] for number in range(len(series))] for axis in series.axes}
    return pd.DataFrame(columns, index=range(len(series)))


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
    crops = classifier.views(settings).crops(frame, [boxes[place] for place in chosen])
    captions = [f"{table['class'].iloc[place]} {table['probability'].iloc[place]:.2f}" for place in chosen]
    return class_sheet([fitted(crop) for crop in crops], captions)


def object_sections(classifier: Classifier, truth: Path | None) -> Callable[[Path], list[Section]]:
    """Give what makes the report's parts about classes out of a folder's objects.csv."""

    def sections(folder: Path) -> list[Section]:
        columns = ["image", "label", "class", "probability", *(f"p_{name}" for name in classifier.classes)]
        table = pd.read_csv(folder / "objects.csv", usecols=columns, dtype={"image": str, "class": str})
        if truth is not None:
            table["truth"] = known_objects(truth, table, classifier.classes)
        return class_sections(table, classifier.classes, "objects", table["image"].tolist())

    return sections


def known_objects(path: Path, table: pd.DataFrame, classes: Sequence[str] | None = None) -> list[str]:
    """Look the true classes of objects up in a CSV file with the columns image, label and class.

    Those of ``table`` are meant by its columns image and label; empty where nothing is known. ``classes`` are all that
    there may be.
    """
    rows = read_rows(path, ("image", "label", "class"))
    if classes is not None:
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
        raise AbbeError(f"{source}: classes that the model lacks: {some(unknown)}; it knows {some(classes)}")
