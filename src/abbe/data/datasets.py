"""Annotated images on disk: found as pairs, read lazily, and served as random crops for training.

What is understood, at any depth below a folder:

- ``images/`` beside ``masks/`` or ``labels/`` or ``rois/``, with equal stems;
- ``a.tif`` beside ``a_mask.tif`` (``_masks``, ``_label``, ``_labels``, ``_cp_masks``);
- ``a.tif`` beside ``a.zip`` or ``a.roi``, regions of interest of ImageJ;
- COCO annotations, a ``.json`` beside the images or beside their ``images/``;
- an OME-Zarr in the place of any image or mask file, also one whose own ``labels/`` holds the annotation.

Folders ``train``, ``val`` and ``test`` on the way are splits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from abbe.data.augment import AugmentConfig, augment
from abbe.data.channels import match_channels
from abbe.data.coco import read_coco
from abbe.data.image import Image
from abbe.data.labels import ROI_SUFFIXES, read_labels
from abbe.data.ome_zarr import is_zarr
from abbe.data.read import read
from abbe.data.sample import Sample
from abbe.errors import AbbeError

ZARR = ".zarr"
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy", ZARR)
MASK_FOLDERS = ("masks", "labels", "rois")
MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label")
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

Normalize = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """An image file and where its annotation is."""

    image: Path
    """The image file."""
    labels: Path
    """Its mask file, its ImageJ regions, or the COCO JSON."""
    name: str
    """Path below the folder that was searched, without ``images`` and without suffix."""
    split: str = ""
    """train, val or test where a folder on the way says so."""
    coco: tuple[dict[str, Any], ...] | None = None
    """The image's annotations out of a COCO JSON."""


class Pairs(list[Pair]):
    """Pairs in the order of their names, and the files that were left over."""

    def __init__(self, pairs: Sequence[Pair] = (), unpaired: Sequence[Path] = ()) -> None:
        super().__init__(sorted(pairs, key=lambda pair: pair.name))
        self.unpaired = sorted(unpaired)
        """Images without labels and labels without image."""


# ---------------------------------------------------------------------------------------------- finding pairs


def find_pairs(folder: str | Path) -> Pairs:
    """Find the annotated images below a folder; the text above says in which layouts.

    Raises
    ------
    AbbeError
        When the folder does not exist or holds no pair, or when two files could be the same partner.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AbbeError(f"{root}: no such folder; expected one with images and their labels")
    pairs: list[Pair] = []
    unpaired: list[Path] = []
    for place, names, _ in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith(".") and not name.lower().endswith(ZARR))
        found = _find_here(Path(place), root)
        pairs += found
        unpaired += found.unpaired
        if "images" in names and found:
            names[:] = [name for name in names if name not in ("images", *MASK_FOLDERS)]
    if not pairs:
        raise AbbeError(
            f"{root}: no pairs of image and labels ({len(set(unpaired))} unpaired files); expected images/ "
            "beside masks/ with equal stems, a.tif beside a_mask.tif or ImageJ's a.zip, COCO's .json, or a.ome.zarr "
            "with labels inside"
        )
    used = {path for pair in pairs for path in (pair.image, pair.labels)}
    return Pairs(pairs, list(set(unpaired) - used))


def find_splits(folder: str | Path) -> dict[str, Path]:
    """Find the subfolders that are splits: train, val and test by their usual names."""
    found = sorted(path for path in Path(folder).iterdir() if path.is_dir() and path.name.lower() in SPLITS)
    return {SPLITS[path.name.lower()]: path for path in found}


def _find_here(place: Path, root: Path) -> Pairs:
    """Pairs of one folder, by the first layout that fits."""
    images = place / "images"
    coco = _find_coco(place, images if images.is_dir() else place, root)
    if coco is not None:
        return coco
    masks = [place / name for name in MASK_FOLDERS if (place / name).is_dir()]
    if images.is_dir() and masks:
        return _join(_by_stem(_files(images, deep=True), images), _masks_by_stem(masks), place, root)
    return _find_beside(place, root)


def _find_coco(place: Path, images: Path, root: Path) -> Pairs | None:
    contents = {path: read_coco(path) for path in _files(place, suffixes=(".json",))}
    documents = [path for path, content in contents.items() if content is not None]
    if not documents:
        return None
    if len(documents) > 1:
        names = " and ".join(path.name for path in documents)
        raise AbbeError(f"{place}: COCO annotations in {names}; expected one file, keep the others elsewhere")
    pairs, missing = [], []
    for name, entries in (contents[documents[0]] or {}).items():
        candidates = [base / part for base in (images, place) for part in (name, PurePath(name).name)]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            missing.append(images / name)
        else:
            pairs.append(_pair(path, documents[0], PurePath(name), place, root, tuple(entries)))
    return Pairs(pairs, [*missing, *_files(images, deep=True)])


def _find_beside(place: Path, root: Path) -> Pairs:
    """Images with their masks or regions in the same folder, or within themselves."""
    files = _files(place, suffixes=IMAGE_SUFFIXES + ROI_SUFFIXES)
    is_mask = {path: path.suffix in ROI_SUFFIXES or _stem(path).endswith(MASK_ENDINGS) for path in files}
    images = _by_stem([path for path in files if not is_mask[path]], place)
    masks = {_without_ending(stem): path for stem, path in _by_stem([p for p in files if is_mask[p]], place).items()}
    inside = {stem: path for stem, image in images.items() if (path := _labels_inside(image)) is not None}
    return _join(images, inside | masks, place, root)


def _labels_inside(image: Path) -> Path | None:
    """Find the labels that an OME-Zarr holds; None for other files, and where it holds none."""
    if image.suffix.lower() != ZARR or not (image / "labels").is_dir():
        return None
    found = sorted(path for path in (image / "labels").iterdir() if is_zarr(path))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise AbbeError(f"{image}: holds {len(found)} label images ({names}); expected one, or the right one in masks/")
    return found[0] if found else None


def _masks_by_stem(folders: Sequence[Path]) -> dict[PurePath, Path]:
    suffixes = IMAGE_SUFFIXES + ROI_SUFFIXES
    found = [_by_stem(_files(folder, deep=True, suffixes=suffixes), folder) for folder in reversed(folders)]
    return {stem: path for by_stem in found for stem, path in by_stem.items()}


def _join(images: dict[PurePath, Path], masks: dict[PurePath, Path], place: Path, root: Path) -> Pairs:
    """Pair by stem; a mask may carry an ending such as _mask that its image lacks."""
    plain = {_without_ending(stem): path for stem, path in masks.items()} | masks
    pairs = [_pair(path, plain[stem], stem, place, root) for stem, path in images.items() if stem in plain]
    used = {path for pair in pairs for path in (pair.image, pair.labels)}
    return Pairs(pairs, list({*images.values(), *masks.values()} - used))


def _pair(
    image: Path,
    labels: Path,
    stem: PurePath,
    place: Path,
    root: Path,
    coco: tuple[dict[str, Any], ...] | None = None,
) -> Pair:
    above = place.relative_to(root)
    # The name of the searched folder counts too: data/train given alone is a split.
    split = next((SPLITS[part.lower()] for part in (*above.parts[::-1], root.name) if part.lower() in SPLITS), "")
    name = (above / stem.with_name(_stem(stem))).as_posix()
    return Pair(image, labels, name, split, coco)


def _files(folder: Path, deep: bool = False, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Files, and OME-Zarr folders as if they were files."""
    return sorted(path for path in _entries(folder, deep) if path.suffix.lower() in suffixes)


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file() or (path.is_dir() and path.suffix.lower() == ZARR):
            yield path
        elif deep and path.is_dir():
            yield from _entries(path, deep)


def _by_stem(paths: Sequence[Path], folder: Path) -> dict[PurePath, Path]:
    found: dict[PurePath, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_name(_stem(path))
        if stem in found:
            raise AbbeError(f"{path}: has the same stem as {found[stem].name}; expected one file for each image")
        found[stem] = path
    return found


def _stem(path: PurePath) -> str:
    """File name without suffix; ``a.ome.tif`` is ``a``, but ``a.1`` keeps its point."""
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES + ROI_SUFFIXES else path.name
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def _without_ending(stem: PurePath) -> PurePath:
    ending = next((ending for ending in MASK_ENDINGS if stem.name.endswith(ending) and stem.name != ending), "")
    return stem.with_name(stem.name.removesuffix(ending))


# --------------------------------------------------------------------------------------------- torch datasets


class PairDataset(Dataset[Sample]):
    """Pairs as whole, normalised samples; item i is read when asked for.

    Parameters
    ----------
    pairs
        As :func:`find_pairs` gives them.
    normalize
        (C, [Z], Y, X) in the file's type to float32.
    in_channels
        1 or 3 match grey to colour and back; None keeps the file's channels.
    channel
        The one to use of several, by number or name.
    volume
        Read Z stacks whole, (C, Z, Y, X), instead of planes.
    cache
        Keep samples in memory once they are read.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        normalize: Normalize,
        in_channels: int | None = None,
        *,
        channel: int | str | None = None,
        volume: bool = False,
        cache: bool = False,
    ) -> None:
        self.pairs = list(pairs)
        self.normalize = normalize
        self.in_channels = in_channels
        self.channel = channel
        self.volume = volume
        self._kept: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        if self._kept is None:
            return self.to_sample(self.pairs[index])
        if index not in self._kept:
            self._kept[index] = self.to_sample(self.pairs[index])
        return self._kept[index]

    def to_sample(self, pair: Pair) -> Sample:
        """Read, normalise and annotate one image."""
        image = read(pair.image)
        if self.channel is not None:
            image = image.select(channel=self.channel)
        pixels = self.normalize(whole_volume(image) if self.volume else whole_plane(image))
        if self.in_channels is not None:
            pixels = match_channels(pixels, self.in_channels, pair.name)
        annotation = read_labels(pair.labels, pixels.shape[1:], pair.image.name, pair.coco)
        axes = "zyx" if self.volume else "yx"
        known = set(axes) <= image.pixel_size.keys()
        return Sample(
            np.ascontiguousarray(pixels, dtype=np.float32),
            annotation.labels,
            annotation.ignore,
            tuple(image.pixel_size[axis] for axis in axes) if known else None,
            pair.name,
        )


def whole_plane(image: Image) -> np.ndarray:
    """Read all of an image of one plane as (C, Y, X), in the file's type."""
    planar = image.planar()
    return planar.region(0, planar.height, 0, planar.width)


def whole_volume(image: Image) -> np.ndarray:
    """Read all of a stack as (C, Z, Y, X), in the file's type."""
    stack = image.volume()
    return stack.box(tuple((0, extent) for extent in stack.extents))


class Samples(Protocol):
    """A sequence of samples, such as a :class:`PairDataset` or a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


Prepare = Callable[[Sample, np.random.Generator], dict[str, torch.Tensor]]


class TrainingDataset(Dataset[dict[str, torch.Tensor]]):
    """An endless choice of random crops, cut into epochs.

    Item i of epoch e depends on (seed, e, i) alone: the same whatever the number of workers, and after a
    resumed training.

    Parameters
    ----------
    samples
        Whole annotated images.
    prepare
        A method's ``prepare``: an augmented sample to the tensors that its loss wants.
    config
        How to augment; None crops nothing and changes nothing.
    size
        (Y, X) or (Z, Y, X) of the crops, in pixels.
    epoch_length
        Crops per epoch.
    seed
        Of everything random.
    weights
        How often each sample is drawn, relative to the others; equally by default.
    """

    def __init__(
        self,
        samples: Samples,
        prepare: Prepare,
        config: AugmentConfig | None,
        size: tuple[int, ...],
        epoch_length: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.samples, self.prepare, self.config, self.size = samples, prepare, config, size
        self.epoch_length, self.seed = epoch_length, seed
        share = np.ones(len(samples)) if weights is None else np.asarray(weights, dtype=float)
        if share.shape != (len(samples),) or share.min(initial=0) < 0 or share.sum() <= 0:
            raise AbbeError(
                f"{share.size} sampling weights for {len(samples)} images; expected one, not negative, each"
            )
        self._cumulative = np.cumsum(share) / share.sum()
        # Shared memory, so that loader workers that live on see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next items belong to; call it before the loader starts the epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.epoch_length:
            raise IndexError(index)
        generator = np.random.default_rng([self.seed, int(self._epoch), index])
        chosen = int(np.searchsorted(self._cumulative, generator.random(), side="right"))
        sample = self.samples[min(chosen, len(self.samples) - 1)]
        if self.config is not None:
            sample = augment(sample, self.config, generator, self.size)
        return self.prepare(sample, generator)


def split(pairs: Sequence[Pair], fractions: Sequence[float], seed: int = 0) -> list[list[Pair]]:
    """Divide pairs at random in parts of about these fractions, by a hash of their names.

    A pair stays in its part when others are added or taken away. Every part gets at least one pair
    where there are enough.

    Raises
    ------
    AbbeError
        When fractions are negative or sum to nothing.
    """
    if not fractions or min(fractions) < 0 or sum(fractions) <= 0:
        raise AbbeError(f"fractions {tuple(fractions)} do not divide anything; expected positive numbers")
    bounds = np.cumsum(fractions) / np.sum(fractions)
    place = {pair.name: _uniform_hash(f"{seed}:{pair.name}") for pair in pairs}
    parts: list[list[Pair]] = [[] for _ in fractions]
    for pair in sorted(pairs, key=lambda pair: place[pair.name]):
        parts[int(np.searchsorted(bounds[:-1], place[pair.name], side="right"))].append(pair)
    for part, fraction in zip(parts, fractions):
        largest = max(parts, key=len)
        if not part and fraction > 0 and len(largest) > 1:
            part.append(largest.pop())
    return [sorted(part, key=lambda pair: pair.name) for part in parts]


def _uniform_hash(text: str) -> float:
    """A number in [0, 1) that looks random but depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
