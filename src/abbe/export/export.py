"""A model written for other engines: one file or two, compared with Abbe's own forward before they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from abbe.data.write import atomic
from abbe.errors import AbbeError
from abbe.export.bioimageio_package import require_bioimageio, write_package
from abbe.export.onnx_file import require_onnx, tell_onnxruntime, write_onnx
from abbe.export.openvino_file import require_openvino, tell_openvino, write_openvino
from abbe.export.subject import Subject, find_subject
from abbe.export.verify import LIMIT, Run, largest_difference
from abbe.model import Model


@dataclass(frozen=True)
class Format:
    """How a format is written."""

    suffixes: tuple[str, ...]
    """Of its files; the first is the one that people name."""
    require: Callable[[], None]
    """Refuses where packages are missing."""
    write: Callable[[Subject, Sequence[Path], bool], Run]
    """Writes the files, with free extents or not, and gives what runs them."""
    engine: Callable[[], str]
    """Names what runs them."""


FORMATS = {
    "onnx": Format((".onnx",), require_onnx, write_onnx, tell_onnxruntime),
    "openvino": Format((".xml", ".bin"), require_openvino, write_openvino, tell_openvino),
    "bioimageio": Format((".zip",), require_bioimageio, write_package, tell_onnxruntime),
}


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees with Abbe."""

    path: Path
    """The file, or the first of two."""
    name: str
    """Of the model."""
    outputs: tuple[str, ...]
    """Names of what comes out."""
    extents: str
    """Which inputs it takes, as a phrase."""
    difference: float
    """Largest error over the largest value, of any output on any sample."""
    engine: str
    """What ran the file for that."""
    drawn: bool
    """Whether the weights are random."""

    def __str__(self) -> str:
        drawn = "; its weights are random, good for timing only" if self.drawn else ""
        return (
            f"{self.path}: {' and '.join(self.outputs)} of {self.name} for {self.extents}; differs from the float32 "
            f"forward by {self.difference:.1e} of the largest value at most, run by {self.engine}{drawn}"
        )


def export_model(
    model: str | Path | Model, to: str, out: str | Path | None = None, overwrite: bool = False
) -> Exported:
    """Write a model for another engine; it appears whole and checked, or not at all.

    Parameters
    ----------
    model
        Name or file of a model, the folder of a training, a loaded one; or the name of a network in the catalog, which
        is written with random weights.
    to
        "onnx", "openvino" or "bioimageio".
    out
        File to write; the model's name in the working directory unless given.
    overwrite
        Replace files that are there.

    Raises
    ------
    AbbeError
        When there is no such model or format, packages are missing, the file is there already, the model cannot be
        exported, or what was written does not compute what Abbe computes.
    """
    if to not in FORMATS:
        raise AbbeError(f"no format is called {to!r}; choose {', '.join(FORMATS)}")
    chosen = FORMATS[to]
    chosen.require()
    subject = find_subject(model)
    paths = _paths(Path(out).expanduser() if out else Path(subject.name + chosen.suffixes[0]), chosen)
    present = next((path for path in paths if path.exists()), None)
    if present is not None and not overwrite:
        raise AbbeError(f"{present}: is there already; --overwrite replaces it")
    with ExitStack() as files:
        besides = [files.enter_context(atomic(path)) for path in paths]
        free, found = _write(subject, chosen, besides, to)
    return Exported(
        paths[0], subject.name, subject.outputs, _extents(subject, free), found, chosen.engine(), subject.drawn
    )


def _paths(path: Path, chosen: Format) -> list[Path]:
    suffix = chosen.suffixes[0]
    if path.suffix != suffix:
        raise AbbeError(f"{path}: the name of such a file ends in {suffix}; give --out {path.with_suffix(suffix)}")
    return [path.with_suffix(suffix) for suffix in chosen.suffixes]


def _write(subject: Subject, chosen: Format, paths: Sequence[Path], to: str) -> tuple[bool, float]:
    """Write with free extents, or for one size; gives which, and the difference that is left.

    Networks for whole pictures are tried with free extents first. Maps of one size would be of no use to anybody.
    """
    choices = (True,) * subject.takes_any_size + (False,) * (subject.geometry.halo is None)
    for free in choices:
        last = free is choices[-1]
        try:
            found = largest_difference(subject, chosen.write(subject, paths, free), free)
        except AbbeError:
            raise
        except Exception as error:  # exporters raise whatever their parts do
            if not last:
                continue
            reason = str(error).strip().partition("\n")[0]
            raise AbbeError(f"{subject.name}: cannot be written as {to} ({type(error).__name__}: {reason})") from error
        if found <= LIMIT:
            return free, found
    raise AbbeError(
        f"{subject.name}: as {to} it differs from the float32 forward by {found:.1e} of the largest value, more than "
        f"{LIMIT:g}; nothing was written"
    )


def _extents(subject: Subject, free: bool) -> str:
    """Tell which inputs are taken."""
    batches, what = "batches of any number", "sequences" if subject.vocabulary else "images"
    if not free:
        return f"{what} of {' x '.join(map(str, subject.extents))} in {batches}"
    steps, rest = subject.geometry.multiple, subject.geometry.remainder
    if set(steps) == {1}:
        return f"{what} of any extents in {batches}"
    terms = [f"{step} k + {more}" if more else f"{step} k" for step, more in zip(steps, rest, strict=True)]
    least = f" from {' x '.join(map(str, subject.smallest))} on" if subject.geometry.crops else ""
    return f"{what} of extents {' x '.join(terms)}{least} in {batches}"
