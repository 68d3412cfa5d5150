"""Find the images that a user means: files, folders, patterns; and decide where the results of each go.

Results mirror the inputs. ``relative`` is the place of a result below the output folder, without a suffix:

- it starts at the folder that all inputs have in common: ``plate1/`` alone gives ``a`` and ``sub/b``, the
  inputs ``plate1/`` and ``plate2/*.tif`` give ``plate1/a`` and ``plate2/a``, a single file gives its
  stem;
- ``.ome.tif`` and ``.ome.zarr`` count as one suffix;
- an OME-Zarr is one image, though it is a folder; addresses (``s3://...``) give the last part of their path;
- images that only their suffixes tell apart keep them: ``a.tif`` beside ``a.png`` gives ``a_tif`` and
  ``a_png``. Names that differ only in capitals count as equal, as on the disks of Windows and macOS.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from abbe.data.image import SUFFIXES
from abbe.data.ome_zarr import MARKS, is_url, is_zarr, local_path
from abbe.errors import AbbeError

LEDGER = ".abbe"
"""Folder of results that tells of each image whether it is done; hidden."""
RESULT_MARKS = ("images.csv", "provenance.json")
"""A folder that holds both, or a ledger, is one of results."""
CURVES = "curves.png"
"""Picture that a training draws beside its recipe."""
RESULT_ENDINGS = ("_labels", "_overlay", "_restored", "contact_sheet", "neighbours")
"""How the stems of the images end that Abbe itself writes into a folder of results."""

_LOOKED_FOR = " ".join((*SUFFIXES, ".zarr"))


@dataclass(frozen=True)
class Input:
    """An image to work on."""

    path: Path | str
    """The file, or the folder of an OME-Zarr, as the user would name it; text for an address."""
    relative: Path
    """Where its results go below the output folder, without a suffix; unlike that of every other input."""


def find_images(inputs: Sequence[str | Path]) -> list[Input]:
    """Find the images behind files, folders (with all below them), patterns and addresses.

    A file that is named directly is taken whatever its suffix. In folders and patterns count OME-Zarr and
    the files with a suffix of :data:`~abbe.data.image.SUFFIXES` that are not hidden and not Abbe's own results.
    Addresses are not looked at. Every file comes once, in the order of the inputs and sorted within each.

    Parameters
    ----------
    inputs
        Paths or patterns such as ``plate*/**/*.tif``; ``~`` is the home folder. A file whose name looks
        like a pattern is a file.

    Raises
    ------
    AbbeError
        If an input leads to no image, a folder cannot be read, or results of two inputs would get one name.
    """
    if not inputs:
        raise AbbeError("no input was given; expected images, folders or patterns")
    found: dict[str, Path] = {}
    roots, remote = [], {}
    for given in map(local_path, inputs):
        if is_url(given):
            remote[given] = Input(str(given), _remote_place(str(given)))
            continue
        root, paths = _expand(os.path.expanduser(given))
        roots.append(os.path.abspath(root))
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    start = _common(roots)
    local = [Input(path, _place(absolute, start)) for absolute, path in found.items()]
    return _told_apart([*local, *remote.values()])


def _expand(given: str) -> tuple[Path, list[Path]]:
    """List the images of one input, and the folder that their places start from."""
    path = Path(given)
    if is_zarr(path):
        return path.parent, [path]
    if os.path.isdir(path):
        images = sorted(_below(path))
        if not images:
            raise AbbeError(f"{given}: no images in this folder; looked for files ending in {_LOOKED_FOR}")
        return path, images
    if os.path.lexists(path):
        return path.parent, [path]
    if not glob.has_magic(given):
        raise AbbeError(f"{given}: no such file or folder")
    return _matches(given)


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """List the images that match a pattern, and the folder in front of its first wildcard."""
    images: list[Path] = []
    for match in sorted(map(Path, glob.iglob(pattern, recursive=True))):
        images += sorted(_below(match)) if os.path.isdir(match) and not is_zarr(match) else _wanted([match])
    if not images:
        raise AbbeError(f"{pattern}: nothing matches; looked for files ending in {_LOOKED_FOR}")
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed), images


def _below(folder: Path) -> Iterator[Path]:
    """All images in a folder and below it; follows links, but never in circles."""
    seen = set()
    for directory, subfolders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        zarrs = [name for name in subfolders if is_zarr(Path(directory, name))]
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in zarrs]
        yield from _wanted(Path(directory, name) for name in [*names, *zarrs])


def _unreadable(error: OSError) -> None:
    raise AbbeError(f"{error.filename}: cannot be read ({(error.strerror or '').lower()})") from error


def _wanted(paths: Iterator[Path] | list[Path]) -> Iterator[Path]:
    """Keep the images that somebody else made and did not hide."""
    for path in paths:
        image = (path.suffix.lower() in SUFFIXES and path.is_file()) or is_zarr(path)
        if image and not path.name.startswith("."):
            result = without_suffix(path).name.endswith(RESULT_ENDINGS) and _in_results(path.absolute().parent)
            if not result and not (path.name == CURVES and path.with_name("recipe.toml").exists()):
                yield path


def _in_results(folder: Path) -> bool:
    """Tell whether a folder, or one above it, is one of results."""
    return any(
        (above / LEDGER / "settings.json").exists() or all((above / mark).exists() for mark in RESULT_MARKS)
        for above in (folder, *folder.parents)
    )


def _common(folders: list[str]) -> str | None:
    """The folder that all have in common; None if they lie on different drives."""
    try:
        return os.path.commonpath(folders)
    except ValueError:
        return None


def _place(path: str, start: str | None) -> Path:
    """Where the results of one file go, before those of equal names are told apart."""
    if start is not None:
        return without_suffix(Path(os.path.relpath(path, start)))
    drive, rest = os.path.splitdrive(path)  # the drive's letter becomes a folder
    return without_suffix(Path(drive.strip("\\").rstrip(":").replace("\\", "_"), rest.lstrip("\\/")))


def _remote_place(address: str) -> Path:
    """Where the results of an address go: the last part of its path, or all parts from that of a .zarr."""
    parts = [part for part in urlsplit(address).path.split("/") if part] or [urlsplit(address).netloc]
    first = next((i for i, part in enumerate(parts) if part.lower().endswith(".zarr")), len(parts) - 1)
    return without_suffix(Path(*parts[first:]))


def without_suffix(path: Path) -> Path:
    """Take the suffix away; ``.ome.tif`` is one."""
    return path.with_name(path.name[: len(path.name) - len(_suffix(path))])


def _suffix(path: Path) -> str:
    """The suffix of a file; ``.ome.tif`` is one."""
    return "".join(path.suffixes[-2:]) if path.stem.lower()[1:].endswith(".ome") else path.suffix


def _told_apart(images: list[Input]) -> list[Input]:
    """Give images of equal place their suffix; an error if that does not help."""
    groups = defaultdict(list)
    for image in images:
        groups[_as_on_any_disk(image.relative)].append(image)
    named = []
    for image in images:
        if len(groups[_as_on_any_disk(image.relative)]) > 1:
            ending = _suffix(Path(image.path)).replace(".", "_")
            image = replace(image, relative=image.relative.with_name(image.relative.name + ending))
        named.append(image)
    taken: dict[Path, Path | str] = {}
    for image in named:
        if image.relative in taken:
            first = taken[image.relative]
            raise AbbeError(f"{first} and {image.path}: results of both would be called {image.relative}; rename one")
        taken[image.relative] = image.path
    return named


def _as_on_any_disk(path: Path) -> str:
    """A name that is equal for files which some disk would take for the same."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def state_of(path: Path | str) -> str:
    """Tell an image from its changed self: its place, sizes and times, of a Zarr those of its metadata too."""
    places = [path, *(path / mark for mark in MARKS)] if isinstance(path, Path) else []
    states = [place.stat() for place in places if place.exists()]
    return "|".join([full_name(path), *(f"{state.st_size}|{state.st_mtime_ns}" for state in states)])


def full_name(path: Path | str) -> str:
    """Name a file by its whole path, and what is no file as it is."""
    return str(path.resolve()) if isinstance(path, Path) else path
