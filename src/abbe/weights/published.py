"""Files of weights that others published: what each is, where it comes from, and where it is looked for.

The records stand as literal lists ``PUBLISHED`` beside the key tables, in ``weights/tables/``. Abbe downloads nothing
by itself: a file that is not there is named, with its address and the folder to put it into.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abbe.errors import AbbeError
from abbe.weights.file import file_hash
from abbe.weights.records import refuse_bundled

FOLDER = "~/.cache/abbe/weights"
"""Where published files are looked for unless the environment says otherwise."""
VARIABLE = "ABBE_WEIGHTS"
"""Of the environment; names another folder."""

NON_COMMERCIAL = "-NC"
"""In the short name of a licence: for no commercial use."""


@dataclass(frozen=True)
class Published:
    """A file of weights that somebody published."""

    network: str
    """Name in the catalog."""
    address: str
    """Where the file is."""
    licence: str
    """Of the weights."""
    file: str = ""
    """Name to keep it under; the end of the address unless given."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's config that differ from the catalog's, such as the classes of a larger data set."""
    data: str = "ImageNet-1k"
    """What it was trained on."""
    classes: tuple[str, ...] = ()
    """What its outputs stand for, where they are few and known."""
    size: int = 224
    """Pixels per side of the images of its reported figure."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel of an image in 0 to 1; none for words."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """What each channel is divided by then."""
    tested: str = "ImageNet-1k validation"
    """What it was measured on."""
    top1: float | None = None
    """Per cent of those images whose class it names, as its publisher reports."""
    parameters: int = 0
    """Numbers that were learnt."""
    sha256: str = ""
    """First hexadecimal digits of the file's hash, where they are known."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.file or self.address.rsplit("/", 1)[-1]


def weights_folder() -> Path:
    """Give the folder where published files are looked for."""
    return Path(os.environ.get(VARIABLE) or FOLDER).expanduser()


def find_record(name: str | Path, records: Iterable[Published], network: str | None = None) -> Published | None:
    """Find what is known of a file by its name, whatever its folder; None for a file that nobody told of.

    Parameters
    ----------
    name
        Of the file, or its path.
    records
        All that are known.
    network
        Only its records, where given.
    """
    return next(
        (
            record
            for record in records
            if record.name == Path(name).name and (network is None or record.network == network)
        ),
        None,
    )


def find_weights(name: str | Path, records: Iterable[Published], network: str | None = None) -> Path:
    """Find a file of weights: as a path, or by the name of a published one in the folder of published files.

    Raises
    ------
    AbbeError
        When there is no such file. It tells where the published ones are, and where and under which name to put them.
    """
    path, kept = Path(name).expanduser(), weights_folder() / Path(name).name
    if path.exists():
        return path
    if len(Path(name).parts) == 1 and kept.exists():
        return kept
    refuse_bundled(name)
    record = find_record(name, records)
    if record is not None:
        raise AbbeError(
            f"{name}: no such file; download {record.address} and save it as {kept.parent / record.name} (or in "
            f"${VARIABLE})"
        )
    if network is None:
        raise AbbeError(f"{name}: no such file; `abbe models` lists the published ones")
    published = [record for record in records if record.network == network]
    if not published:
        raise AbbeError(f"{name}: no such file, and no published weights of {network!r} are known")
    told = ", ".join(map(_download, published))
    raise AbbeError(f"{name}: no such file; published for {network!r} and to be put into {kept.parent}: {told}")


def _download(record: Published) -> str:
    """Give the address of a file, and the name to save it under where the address has another."""
    own = record.address.rsplit("/", 1)[-1] == record.name
    return record.address if own else f"{record.address} as {record.name}"


def tell_record(record: Published) -> str:
    """Tell of a file in one line: name, network, parameters, reported figure, normalisation, licence, hash, address."""
    top1 = f"top-1 {record.top1:.4g} % of {record.tested} at {record.size} px" if record.top1 is not None else ""
    pixels = " ".join(f"{mean:g}/{std:g}" for mean, std in zip(record.mean, record.std, strict=True))
    facts = (
        f"{record.network}, {record.parameters / 1e6:.1f} M parameters",
        f"trained on {record.data}",
        top1,
        f"mean/std {pixels}" if pixels else "",
        record.licence,
        f"sha256 {record.sha256}…" if record.sha256 else "",
        record.address,
    )
    return f"{record.name}: {'; '.join(fact for fact in facts if fact)}"


def check_licence(record: Published) -> None:
    """Refuse weights that must not be used commercially.

    Raises
    ------
    AbbeError
        When their licence says so.
    """
    if NON_COMMERCIAL in record.licence:
        raise AbbeError(
            f"{record.name}: its licence, {record.licence}, forbids commercial use; if that suits you, accept it with "
            "`abbe convert --accept-license`, or accept_license=True in Python"
        )


def check_hash(path: Path, record: Published) -> None:
    """Compare a file with the published one.

    Raises
    ------
    AbbeError
        When it is another one.
    """
    found = file_hash(path)
    if not found.startswith(record.sha256):
        raise AbbeError(
            f"{path}: not the published file of this name: its SHA-256 begins with {found[: len(record.sha256)]}, not "
            f"{record.sha256}; it may be cut: download {record.address} again, or rename a file of your own"
        )
