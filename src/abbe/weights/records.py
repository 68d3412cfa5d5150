"""The models that ship inside the package, and where named models are found."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from abbe.errors import AbbeError


@dataclass(frozen=True)
class Record:
    """A model that can be had by name."""

    summary: str
    """What it does, in a line."""
    licence: str
    """Of the weights."""
    file: str
    """Name inside the package's ``weights/bundled`` folder; the card lies beside it as Markdown."""


RECORDS = {
    "nuclei": Record(
        summary="nuclei in fluorescence, stained tissue and grey cytology, as instances",
        licence="BSD-3-Clause; trained on BBBC038 (CC0)",
        file="nuclei.safetensors",
    ),
    "nuclei_3d": Record(
        summary="nuclei in fluorescence stacks, as solids; trained on simulated stacks",
        licence="BSD-3-Clause; trained on simulated data",
        file="nuclei_3d.safetensors",
    ),
    "redcells": Record(
        summary="twelve shapes of red blood cells in stained smears, as classes",
        licence="BSD-3-Clause; trained on Chula RBC-12 (MIT)",
        file="redcells.safetensors",
    ),
    "cell-type": Record(
        summary="red cells, white cells and platelets in stained smears, as classes",
        licence="BSD-3-Clause; trained on BCCD (MIT)",
        file="cell-type.safetensors",
    ),
    "denoise": Record(
        summary="grey images without their noise, of whatever strength",
        licence="BSD-3-Clause; trained on BBBC038 (CC0), BCCD, Chula RBC-12, Omnipose (MIT), DeepLabCut (LGPL-3)",
        file="denoise.safetensors",
    ),
    "deblur": Record(
        summary="widefield fluorescence, sharper and without noise; trained on simulated scenes",
        licence="BSD-3-Clause; trained on simulated data",
        file="deblur.safetensors",
    ),
}


def find_model(name: str | Path) -> Path:
    """Find the file of a model by its path or by its name.

    Raises
    ------
    AbbeError
        When there is neither such a file nor such a name.
    """
    if str(name) in RECORDS:
        return Path(str(files("abbe.weights") / "bundled" / RECORDS[str(name)].file))
    path = Path(name).expanduser()
    if path.is_dir() and (path / "model.safetensors").exists():
        return path / "model.safetensors"
    if path.exists():
        return path
    near = difflib.get_close_matches(str(name), RECORDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled: {', '.join(RECORDS)}"
    raise AbbeError(f"{name}: neither a file nor a model that Abbe knows; {hint}")


def refuse_bundled(name: str | Path) -> None:
    """Tell whoever gives the name of a bundled model for a file of weights what to do with it."""
    if str(name) in RECORDS:
        raise AbbeError(
            f"{name}: the name of a bundled model, not a file of weights; it is ready for use with --model {name}, or "
            f'in Python with abbe.load("{name}"), whose method.network is the bare network'
        )


def read_card(name: str) -> str:
    """Read the model card, Markdown, of a bundled model."""
    return find_model(name).with_suffix(".md").read_text(encoding="utf-8")
