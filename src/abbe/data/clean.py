"""Images to learn restoration from: bad ones beside good ones, or good ones alone.

What is understood, at any depth below a folder:

- ``noisy/`` beside ``clean/`` (or low/high, input/target, lq/gt, blur/sharp, ...), with equal stems;
- ``a_noisy.tif`` beside ``a_clean.tif``, with the same words;
- otherwise every image is a good one, and training makes bad ones of it.

Folders ``train``, ``val`` and ``test`` on the way are splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from abbe.data.datasets import IMAGE_SUFFIXES, SPLITS
from abbe.data.image import Image
from abbe.data.read import read
from abbe.errors import AbbeError

WORDS = (
    *(("noisy", "clean"), ("low", "high"), ("input", "target"), ("lq", "gt"), ("blur", "sharp"), ("blurred", "sharp")),
    *(("degraded", "clean"), ("input", "gt"), ("noisy", "gt"), ("raw", "clean"), ("lr", "hr"), ("bad", "good")),
)
"""What folders or the ends of names are called: the bad image first."""


@dataclass(frozen=True)
class CleanImage:
    """A good image, and the bad one of the same scene if there is one."""

    clean: Path
    """The good image."""
    worse: Path | None
    """The bad one."""
    name: str
    """Path below the folder that was searched, without suffix."""
    split: str = ""
    """train, val or test where a folder on the way says so."""
    word: str = ""
    """What its folder or the end of its name calls the bad one, of ``WORDS``."""


def find_clean_images(folder: str | Path) -> list[CleanImage]:
    """Find what can be learnt from below a folder; the text above says in which layouts.

    Raises
    ------
    AbbeError
        When the folder does not exist or holds no image, or when a bad image has no good one or a good one no bad.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AbbeError(f"{root}: no such folder; expected one with images")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and _is_shown(path, root))
    if not files:
        raise AbbeError(f"{root}: no images; expected good ones, or noisy/ beside clean/ with equal stems")
    for bad, good in WORDS:
        sides = {word: _of_side(files, root, word) for word in (bad, good)}
        if sides[bad] and sides[good]:
            return _paired(sides[bad], sides[good], root, (bad, good))
    return [CleanImage(path, None, _name(path, root), _split(path, root)) for path in files]


def _is_shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _of_side(files: Iterable[Path], root: Path, word: str) -> dict[str, Path]:
    """Find the images that a folder's name or the end of their own puts on a side, by the name that both share."""
    found = {}
    for path in files:
        inner = path.relative_to(root)
        above = [part.lower() for part in inner.parts[:-1]]
        if word in above:
            place = len(above) - 1 - above[::-1].index(word)
            found[PurePath(*inner.parts[:place], *inner.parts[place + 1 :]).with_suffix("").as_posix()] = path
        elif inner.stem.lower().endswith(f"_{word}"):
            found[inner.with_name(inner.stem[: -len(word) - 1]).as_posix()] = path
    return found


def _paired(bad: dict[str, Path], good: dict[str, Path], root: Path, words: tuple[str, str]) -> list[CleanImage]:
    alone = sorted(bad.keys() ^ good.keys())
    if alone:
        told = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
        raise AbbeError(f"{root}: {told}: not both {words[0]} and {words[1]}; expected equal stems on both sides")
    return [CleanImage(good[name], bad[name], name, _split(good[name], root), words[0]) for name in sorted(good)]


def check_sizes(images: Iterable[CleanImage]) -> None:
    """Compare the extents of the two images of every pair, without reading pixels.

    Raises
    ------
    AbbeError
        For the first pair of two sizes, or when an image of a pair cannot be opened.
    """
    for pair in images:
        if pair.worse is not None:
            worse, clean = (spell_size(read(path)) for path in (pair.worse, pair.clean))
            if worse != clean:
                raise AbbeError(f"{pair.worse}: {worse}, but {pair.clean} has {clean}; expected equal sizes")


def spell_size(image: Image) -> str:
    """Say the extents of an image without axes of one: "90 x 96 pixels", of several channels also their number."""
    extents = [str(n) for axis, n in zip(image.axes, image.shape) if axis in "YX" or (axis != "C" and n > 1)]
    channels = f"{image.n_channels} channels of " if image.n_channels > 1 else ""
    return f"{channels}{' x '.join(extents)} pixels"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _split(path: Path, root: Path) -> str:
    parts: Sequence[str] = (*path.relative_to(root).parts[-2::-1], root.name)
    return next((SPLITS[part.lower()] for part in parts if part.lower() in SPLITS), "")
