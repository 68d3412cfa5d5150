"""A package for bioimage.io: the model as ONNX in a zip, with all that the model zoo's format asks for beside it.

The format is that of models in version 0.5 (https://bioimage.io). Axes carry the extents that the network takes and the
halo to crop from the outputs; the test tensors are a simulated image in grey values and what Abbe computes of it; the
steps before the network say how Abbe normalises. The package has to pass the checks of ``bioimageio.spec``, or none is
written. It refers to nothing on the network, so that the checks need none.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abbe.cards import model_card
from abbe.data.normalize import Normalization
from abbe.data.write import write_png
from abbe.errors import AbbeError
from abbe.export.onnx_file import OPSET, require_onnx, run_onnx, write_onnx
from abbe.export.subject import Subject
from abbe.export.verify import Run, Sample, quiet, simulate
from abbe.tiling.grid import context
from abbe.weights.records import RECORDS, read_card

FORMAT = "0.5.3"
"""Of the description; the tools bring it to the newest that they know."""
WEIGHTS, INPUT, COVER, DOCUMENT = "weights.onnx", "test_image.npy", "cover.png", "README.md"
"""Names inside the package, besides that of each output's test tensor."""
FOREIGN = re.compile(r"[^A-Za-z0-9_+\- ()]")
"""What a name may not hold at bioimage.io."""
SIDE = 256
"""Pixels of the cover, each half of it where maps come out."""
TASKS = {"segmentation": "instance-segmentation", "classification": "image-classification"}
"""The catalog's tasks as bioimage.io tags them."""
DIFFERENCE = 1e-3
"""What engines may differ by, relative to a value and to the largest of an output."""


def require_bioimageio() -> None:
    """Refuse where the packages are missing."""
    require_onnx()
    try:
        import bioimageio.spec  # noqa: F401
    except ImportError as error:
        raise AbbeError(f"a bioimage.io package needs more packages ({error}); pip install 'abbe[export]'") from error


def write_package(subject: Subject, paths: Sequence[Path], free: bool) -> Run:
    """Write the package, and give what runs the weights inside it.

    Parameters
    ----------
    subject
        What to write.
    paths
        One file, a zip.
    free
        Leave the extents open, within what the network takes.

    Raises
    ------
    AbbeError
        When it is no trained model of images, or the package does not pass the checks.
    """
    if subject.drawn:
        raise AbbeError(f"{subject.name}: a network without trained weights is no model for bioimage.io; name a model")
    if subject.vocabulary:
        raise AbbeError(f"{subject.name}: takes tokens, and bioimage.io describes models of images; use --to onnx")
    with tempfile.TemporaryDirectory() as folder:
        described = _fill(Path(folder), subject, free)
        _pack(Path(folder), described, paths[0])
    with zipfile.ZipFile(paths[0]) as package:
        return run_onnx(package.read(WEIGHTS))


def _fill(folder: Path, subject: Subject, free: bool) -> dict[str, Any]:
    """Write the files of the package, and give its description."""
    write_onnx(subject, [folder / WEIGHTS], free)
    sample = simulate(subject, 1, subject.smallest if free else subject.extents)
    maps = subject.plain(sample.ready)
    np.save(folder / INPUT, sample.raw)
    for name, values in zip(subject.outputs, maps, strict=True):
        np.save(folder / f"test_{name}.npy", values)
    write_png(folder / COVER, cover(sample, maps))
    (folder / DOCUMENT).write_text(documentation(subject), encoding="utf-8")
    return describe(subject, sample, maps, free)


def _pack(folder: Path, described: dict[str, Any], path: Path) -> None:
    from bioimageio.spec import InvalidDescr, ValidationContext, build_description, save_bioimageio_package

    with quiet(), ValidationContext(root=folder, perform_io_checks=True, log_warnings=False) as checks:
        model = build_description(described, context=checks)
        if isinstance(model, InvalidDescr):
            raise AbbeError(f"{described['name']}: the package does not pass bioimageio.spec; {model.get_reason()}")
        save_bioimageio_package(model, output_path=path)


# ------------------------------------------------------------------------------------------------ description


def describe(subject: Subject, sample: Sample, maps: list[np.ndarray], free: bool) -> dict[str, Any]:
    """Make the content of the package's ``rdf.yaml``."""
    known, described = subject.entry, subject.description
    licence = _spdx(described.licence)
    doi = known.paper.partition(":")[2] if known.paper.startswith("doi:") else _doi_of_arxiv(known.paper)
    task = RECORDS[subject.name].summary if subject.bundled else f"{known.task} with {described.network}"
    summary = f"{task}; {described.licence or 'licence unknown'}"
    return {
        "type": "model",
        "format_version": FORMAT,
        "name": f"{FOREIGN.sub('_', subject.name)[:100]} (Abbe)",
        "description": summary[:1000],
        "authors": [{"name": "The Abbe developers"}] if subject.bundled else [],
        "cite": [{"text": f"{known.title} ({known.year})", "doi": doi}],
        **({"license": licence} if licence else {}),
        "tags": [f"{len(subject.axes)}d", TASKS.get(known.task, known.task), "pytorch", described.network],
        "documentation": {"source": DOCUMENT},
        "covers": [{"source": COVER}],
        "inputs": [_input(subject, sample, free)],
        "outputs": [_output(subject, name, values, sample) for name, values in zip(subject.outputs, maps, strict=True)],
        "weights": {"onnx": {"source": WEIGHTS, "opset_version": OPSET}},
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"relative_tolerance": DIFFERENCE, "absolute_tolerance": _tolerated(values), "output_ids": [name]}
                    for name, values in zip(subject.outputs, maps, strict=True)
                ]
            },
            "abbe": {key.removeprefix("abbe."): value for key, value in subject.facts().items()},
        },
    }


def _input(subject: Subject, sample: Sample, free: bool) -> dict[str, Any]:
    extents = sample.raw.shape[2:]
    space = []
    for place, (axis, extent) in enumerate(zip(subject.axes, extents, strict=True)):
        size = {"min": extent, "step": subject.geometry.multiple[place]} if free else extent
        tiled = free and subject.geometry.halo is not None
        space.append({"type": "space", "id": axis, "size": size, "concatenable": tiled, **_scale(subject, place)})
    names = [f"channel{number}" for number in range(subject.method.in_channels)]
    return {
        "id": subject.input_name,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space],
        "data": {"type": "float32"},
        "test_tensor": {"source": INPUT},
        "preprocessing": _preprocessing(subject),
    }


def _output(subject: Subject, name: str, values: np.ndarray, sample: Sample) -> dict[str, Any]:
    dense = values.ndim == sample.raw.ndim
    space = [_output_axis(subject, place) for place in range(len(subject.axes))] if dense else []
    names = list(subject.classes) or [f"{name}{number}" for number in range(values.shape[1])]
    return {
        "id": name,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space],
        "data": {"type": "float32"},
        "test_tensor": {"source": f"test_{name}.npy"},
    }


def _output_axis(subject: Subject, place: int) -> dict[str, Any]:
    """Refer to the input's axis; what is to be cropped is the halo, what is cropped already an offset."""
    geometry, axis = subject.geometry, subject.axes[place]
    around = context(geometry, place)
    size: dict[str, Any] = {"tensor_id": subject.input_name, "axis_id": axis}
    found = {"type": "space", "id": axis, "size": size, **_scale(subject, place)}
    if geometry.crops:
        size["offset"] = -2 * around
    elif around:
        found["halo"] = around
    return found


def _scale(subject: Subject, place: int) -> dict[str, Any]:
    pixels = subject.description.pixel_size
    return {} if pixels is None else {"unit": "micrometer", "scale": float(pixels[place])}


def _preprocessing(subject: Subject) -> list[dict[str, Any]]:
    """Say how grey values become the network's input, in the steps that bioimage.io knows."""
    if subject.has_colours:
        mean, std = ([255 * float(value) for value in subject.description.colours[name]] for name in ("mean", "std"))
        return [{"id": "fixed_zero_mean_unit_variance", "kwargs": {"axis": "channel", "mean": mean, "std": std}}]
    scaling = Normalization(**subject.description.normalization)
    axes = [*(["channel"] if scaling.joint else []), *subject.axes]
    low, high = (scaling.low, scaling.high) if scaling.kind == "percentile" else (0.0, 100.0)
    steps = {
        "percentile": {"id": "scale_range", "kwargs": {"axes": axes, "min_percentile": low, "max_percentile": high}},
        "minmax": {"id": "scale_range", "kwargs": {"axes": axes, "min_percentile": low, "max_percentile": high}},
        "zscore": {"id": "zero_mean_unit_variance", "kwargs": {"axes": axes}},
    }
    return [steps[scaling.kind]] if scaling.kind in steps else []


def _tolerated(values: np.ndarray) -> float:
    """Give the absolute error that a test may find; bioimage.io allows a hundredth of the largest value."""
    return float(DIFFERENCE * max(float(values.max(initial=0)), 0))


def _doi_of_arxiv(paper: str) -> str:
    return f"10.48550/arXiv.{paper.partition(':')[2]}"


def _spdx(licence: str) -> str | None:
    """Find the SPDX identifier that a licence begins with; bioimage.io takes no other text."""
    from bioimageio.spec.generic.v0_3 import LicenseId

    words = licence.replace(";", " ").replace(",", " ").split()
    try:
        return str(LicenseId(words[0])) if words else None
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------- for the reader


def documentation(subject: Subject) -> str:
    """Write the package's page: the model's card, what comes out, and how it was validated."""
    card = read_card(subject.name) if subject.bundled else f"```text\n{model_card(subject.description)}\n```\n"
    outputs = ", ".join(f"`{name}`" for name in subject.outputs)
    options = json.dumps(subject.description.options)
    return f"""{card}
## Outputs

{outputs}: what the network of Abbe gives before its decoder, whose settings are `{options}`. Objects are made of them
by Abbe itself (`abbe segment`), or by thresholds and a watershed in the software that runs this package.

## Validation

The scores above, where there are any, are those of the model in Abbe. To validate it on images of your own, annotate
some and run `abbe evaluate {subject.name} --data FOLDER`.
"""


def cover(sample: Sample, maps: list[np.ndarray]) -> np.ndarray:
    """Draw the test image and, beside it, the first map that comes out, uint8 (Y, X): 2 to 1; classes: only the image.

    Of stacks the middle plane is shown.
    """
    shown = [_picture(sample.raw[0].mean(0))]
    if maps[0].ndim == sample.raw.ndim:
        shown.append(_picture(maps[0][0, -1] if maps[0].shape[1] == 2 else maps[0][0, 0]))
    return np.concatenate(shown, axis=1)


def _picture(values: np.ndarray) -> np.ndarray:
    """Stretch a plane, or the middle one of a stack, to black and white on a square of :data:`SIDE`."""
    plane = values if values.ndim == 2 else values[len(values) // 2]
    low, high = np.percentile(plane, (1, 99.8))
    grey = np.clip((plane - low) / ((high - low) or 1), 0, 1)
    rows, columns = (np.arange(SIDE) * extent // SIDE for extent in plane.shape)
    return (255 * grey[np.ix_(rows, columns)]).astype(np.uint8)
