"""Verbs about models: what there is, and how it gets in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from abbe.display import print_line
from abbe.errors import AbbeError


def models() -> int:
    """List the models that can be used by name, the networks that can be built, and the weights published for them."""
    from abbe.methods.catalog import ENTRIES, published
    from abbe.weights.published import tell_record, weights_folder
    from abbe.weights.records import RECORDS

    width = max(map(len, [*RECORDS, *ENTRIES]))
    print_line("models (abbe segment, classify or restore IMAGES --model NAME)")
    for name, record in RECORDS.items():
        print_line(f"  {name:{width}s} {record.summary}; {record.licence}")
    print_line("\nnetworks (abbe.create(NAME), recipes)")
    for name, entry in ENTRIES.items():
        print_line(f"  {name:{width}s} {entry.title} ({entry.year}), {entry.paper}")
    print_line(
        f"\npublished weights (abbe.create(NETWORK, weights=FILE), abbe convert FILE), looked for in {weights_folder()}"
    )
    for record in published():
        print_line(f"  {tell_record(record)}")
    return 0


def show(name: str, /) -> int:
    """Show the card of a model, the paper and file of a network, or the text of a recipe.

    Parameters
    ----------
    name
        A model, a network or a recipe; or a model file, or the folder of a training.
    """
    from abbe.cards import card

    print_line(card(name))
    return 0


def convert(
    weights: str,
    /,
    *,
    to: Path,
    network: str | None = None,
    classes: Path | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    accept_license: bool = False,
    overwrite: bool = False,
) -> int:
    """Store published weights as a model of Abbe, in one .safetensors file with licence, classes and normalisation.

    Parameters
    ----------
    weights
        The published file, or the name of one in the folder that `abbe models` tells.
    to
        File to write: name.safetensors.
    network
        Name of its network, as `abbe models` lists them; needed where the file's name does not tell it.
    classes
        File with the names of the classes, in the order of the outputs: a name on each line, CSV with the column class,
        or JSON. Those of CIFAR-10 are known, those of ImageNet-1k where torchvision is installed.
    in_channels
        Channels of the images, where they are not those of the weights.
    num_classes
        Classes of a new last layer, which is random; 0 for none.
    accept_license
        Also take weights whose licence forbids commercial use.
    overwrite
        Replace a file that is there.
    """
    from abbe.api import convert as run
    from abbe.cards import summary

    if to.exists() and not overwrite:
        raise AbbeError(f"{to}: is there already; --overwrite replaces it")
    given = {"in_channels": in_channels, "num_classes": num_classes}
    config = {name: value for name, value in given.items() if value is not None}
    path = run(weights, to, network, classes=classes, accept_license=accept_license, **config)
    print_line(f"model: {path}: {summary(path)}")
    if classes is None and "names are not known" in summary(path):
        print_line("its classes will be called class 0, class 1, ...; --classes FILE gives them names")
    return 0


def export(
    model: str,
    /,
    *,
    to: Literal["onnx", "openvino", "bioimageio"],
    out: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Write a model for other engines, checked against Abbe's own forward before the file is kept.

    Parameters
    ----------
    model
        Name or file of a model, or the folder of a training; or the name of a network, which gets random weights.
    to
        onnx: one .onnx file; openvino: .xml with .bin beside it; bioimageio: a package (.zip) for bioimage.io.
    out
        File to write; the model's name in this folder unless given.
    overwrite
        Replace a file that is there.
    """
    from abbe.api import export as run

    print_line(str(run(model, to, out, overwrite=overwrite)))
    return 0


def doctor() -> int:
    """List versions and devices, and test in seconds that everything works."""
    from abbe.checkup import check_up

    return 0 if check_up(print_line) else 1
