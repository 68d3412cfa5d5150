"""Images in folders that are their classes: found, grouped and divided so that what belongs together stays together.

A folder has a folder for each class, with images at any depth below. Folders ``train``, ``val`` and ``test`` above
those of the classes are splits::

    cells/train/echinocyte/a.png
    cells/train/discocyte/b.png
    cells/val/discocyte/c.png
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from abbe.data.datasets import find_splits
from abbe.data.image import SUFFIXES
from abbe.data.ome_zarr import is_zarr
from abbe.errors import AbbeError

SHOWN = 20
"""Names of classes that a sentence holds."""


@dataclass(frozen=True)
class Labelled:
    """An image file and its class."""

    image: Path
    """The file, or the folder of an OME-Zarr."""
    name: str
    """Path below the folder that was searched, with the suffix."""
    kind: str
    """Name of the class."""
    split: str = ""
    """train, val or test where a folder says so."""
    group: str = ""
    """What it belongs to: images of one group are never in two parts. Its own name unless told otherwise."""


class ClassFolder(list[Labelled]):
    """Images in the order of their names, and what was odd about their folders."""

    def __init__(self, images: Iterable[Labelled] = (), empty: Iterable[str] = (), loose: Iterable[Path] = ()) -> None:
        super().__init__(sorted(images, key=lambda one: one.name))
        self.empty = sorted(empty)
        """Folders of classes without an image, relative to the folder that was searched."""
        self.loose = sorted(loose)
        """Images beside the folders of the classes."""


# --------------------------------------------------------------------------------------------------- finding


def find_classes(folder: str | Path) -> ClassFolder:
    """Find the images below a folder of classes, each its own group; the text above says in which layout.

    Raises
    ------
    AbbeError
        When the folder does not exist or holds no folder with images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AbbeError(f"{root}: no such folder; expected one with a folder of images for each class")
    found_splits = find_splits(root)
    splits: Mapping[str, Path] = found_splits or {"": root}
    images: list[Labelled] = []
    empty: list[str] = []
    beside = [folder for folder in _folders(root) if found_splits and folder not in found_splits.values()]
    loose: list[Path] = [path for folder in beside for path in _below(folder)]
    for split, place in splits.items():
        loose += _images_here(place)
        for below in _folders(place):
            found = [Labelled(path, _name(path, root), below.name, split, _name(path, root)) for path in _below(below)]
            images += found
            empty += [] if found else [below.relative_to(root).as_posix()]
    if not images:
        raise AbbeError(
            f"{root}: no folders of classes with images ({len(loose)} images lie beside); expected a folder for each "
            f"class, such as {root.name}/round/a.png and {root.name}/oval/b.png"
        )
    return ClassFolder(images, empty, loose)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _folders(place: Path) -> list[Path]:
    below = (path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in below if not is_zarr(path))


def _below(folder: Path) -> Iterator[Path]:
    yield from _images_here(folder)
    for inner in _folders(folder):
        yield from _below(inner)


def _images_here(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _is_image(path))


def _is_image(path: Path) -> bool:
    return (path.suffix.lower() in SUFFIXES and path.is_file()) or is_zarr(path)


def classes_of(images: Iterable[Labelled]) -> tuple[str, ...]:
    """Name the classes, sorted; names that are all numbers by their value."""
    names = {one.kind for one in images}
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


# ---------------------------------------------------------------------------------------------------- groups


def with_groups(images: Sequence[Labelled], groups: str) -> list[Labelled]:
    """Say which images belong together.

    Parameters
    ----------
    images
        As :func:`find_classes` gives them.
    groups
        A CSV file with the columns image and group, or what separates the group from the rest of a file's name:
        with "_" the group of ``plate1_a_07.png`` is ``plate1_a``. Empty: each image is its own group.

    Raises
    ------
    AbbeError
        When an image is not in the table, or its name lacks the separator.
    """
    if not groups:
        return list(images)
    if groups.lower().endswith(".csv"):
        table = read_pairs(Path(groups), "group")
        return [replace(one, group=_looked_up(one, table, groups)) for one in images]
    return [replace(one, group=_prefix(one, groups)) for one in images]


def _prefix(image: Labelled, separator: str) -> str:
    prefix, found, _ = image.image.stem.rpartition(separator)
    if not found or not prefix:
        raise AbbeError(
            f"{image.image}: its name has no group before {separator!r}; expected such as plate1{separator}07"
            f"{image.image.suffix}, or a CSV file of groups with --data.groups groups.csv"
        )
    return prefix


def _looked_up(image: Labelled, table: Mapping[str, str], source: str) -> str:
    for name in names_of(image.name):
        if name in table:
            return table[name]
    raise AbbeError(f"{source}: has no group for {image.name}; expected a row for every image")


def names_of(name: str) -> Iterator[str]:
    """Give the names by which a table may call an image: its path, parts of it from the right, with and without suffix.

    The longest come first.
    """
    parts = Path(name).parts
    for start in range(len(parts)):
        path = Path(*parts[start:])
        yield path.as_posix()
        if path.suffix:
            yield path.with_suffix("").as_posix()


def read_pairs(path: Path, column: str) -> dict[str, str]:
    """Read the columns image and ``column`` of a CSV file.

    Raises
    ------
    AbbeError
        When it cannot be read, lacks a column, or says two things of one image.
    """
    pairs: dict[str, str] = {}
    for row in read_rows(path, ("image", column)):
        name, value = row["image"].strip(), row[column].strip()
        if pairs.setdefault(name, value) != value:
            raise AbbeError(f"{path}: {name} is {pairs[name]!r} and {value!r}; expected one {column} for each image")
    return pairs


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file that has certain columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or ())
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AbbeError(f"{path}: cannot be read as a CSV table ({error})") from error
    missing = [column for column in columns if column not in found]
    if missing:
        raise AbbeError(f"{path}: has the columns {', '.join(found) or 'none'}; expected {' and '.join(columns)}")
    return rows


def join_duplicates(images: Sequence[Labelled], digests: Mapping[str, str]) -> list[Labelled]:
    """Put groups that share an image into one, so that no part sees what another has.

    Parameters
    ----------
    images
        With their groups.
    digests
        Of the content, by name.
    """
    parent = {one.group: one.group for one in images}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    first: dict[str, str] = {}
    for one in images:
        known = first.setdefault(digests.get(one.name, one.name), one.group)
        low, high = sorted((root(known), root(one.group)))
        parent[high] = low
    return [replace(one, group=root(one.group)) for one in images]


# ---------------------------------------------------------------------------------------------------- parts


def folds_of(images: Sequence[Labelled], folds: int, seed: int = 0) -> dict[str, int]:
    """Deal groups into folds that are alike in size and in the shares of the classes; gives the fold of each group.

    The groups that hold most go first, each to the fold that lacks its classes most. The same images give the same
    folds, in whatever order they come.

    Raises
    ------
    AbbeError
        When there are fewer groups than folds.
    """
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for one in images:
        groups[one.group][one.kind] += 1
    if folds < 2 or len(groups) < folds:
        raise AbbeError(f"{folds} folds of {len(groups)} groups of images; expected from 2 folds to one for each group")
    classes = classes_of(images)
    table = {name: np.array([count[kind] for kind in classes], float) for name, count in groups.items()}
    share = 1 / np.maximum(sum(table.values()), 1)  # a rare class counts as much as a frequent one
    order = sorted(table, key=lambda name: (-float((table[name] * share).sum()), _hashed(seed, name)))
    held = np.zeros((folds, len(classes)))
    sizes = np.zeros(folds)
    dealt = {}
    for name in order:
        crowding = ((held + table[name]) ** 2 - held**2) @ share**2  # what the group adds to the spread
        chosen = int(np.lexsort((sizes, np.round(crowding, 12)))[0])
        held[chosen] += table[name]
        sizes[chosen] += 1
        dealt[name] = chosen
    return dealt


def _hashed(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def divide(
    images: Sequence[Labelled], fraction: float, folds: int = 0, fold: int = 0, seed: int = 0
) -> tuple[list[Labelled], list[Labelled]]:
    """Divide images into those to train on and those to validate on, whole groups each.

    Parameters
    ----------
    images
        With their groups.
    fraction
        Share for validation, about; 0 for none.
    folds, fold
        Take this fold, from 0, of so many in place of ``fraction``.
    seed
        Of the order of equal groups.
    """
    if folds and not 0 <= fold < folds:
        raise AbbeError(f"data.fold is {fold} of {folds} folds; expected 0 to {folds - 1}")
    groups = len({one.group for one in images})
    parts = folds or (min(max(2, round(1 / fraction)), groups) if fraction > 0 else 0)
    if parts < 2 and not folds:
        return list(images), []
    dealt = folds_of(images, parts, seed)
    if not folds:  # groups may be few and unequal: the fold whose share is nearest
        sizes = Counter(dealt[one.group] for one in images)
        fold = min(range(parts), key=lambda part: abs(sizes[part] / len(images) - fraction))
    train = [one for one in images if dealt[one.group] != fold]
    return train, [one for one in images if dealt[one.group] == fold]


def class_indices(images: Sequence[Labelled], classes: Sequence[str]) -> np.ndarray:
    """Give the number of each image's class.

    Raises
    ------
    AbbeError
        When an image's class is not among them.
    """
    place = {name: number for number, name in enumerate(classes)}
    unknown = sorted({one.kind for one in images} - place.keys())
    if unknown:
        raise AbbeError(f"the folders have classes that the model lacks: {some(unknown)}; it knows {some(classes)}")
    return np.array([place[one.kind] for one in images], np.int64)


def some(names: Sequence[str]) -> str:
    """Name the first of many classes, and say how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def name_of_class(path: Path | str, classes: Iterable[str]) -> str:
    """Find the class of an image by the innermost folder that is called like one; empty where none is."""
    known = set(classes)
    return next((part for part in reversed(Path(os.fspath(path)).parts[:-1]) if part in known), "")
