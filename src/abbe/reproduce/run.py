"""Try a claim and keep what came of it: the figure, its numbers, and what made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from abbe.data.write import write_text
from abbe.errors import AbbeError
from abbe.report.provenance import jsonable, provenance
from abbe.reproduce.claims import Claim, ClaimSettings, Found, claim_of

DPI = 110
"""Of the figure that is kept."""


def reproduce(
    name: str,
    out: str | Path | None = None,
    settings: ClaimSettings | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Found:
    """Try what a paper claims, at a scale of minutes, and write ``figure.png``, ``table.csv`` and ``claim.json``.

    Parameters
    ----------
    name
        A name of :data:`abbe.reproduce.claims.CLAIMS`.
    out
        Folder, ``claims/<name>`` unless given; what an earlier run left there is replaced.
    settings
        Data and seed.
    tell
        Takes the lines that say how far the run is.

    Returns
    -------
    Found
        Also where the claim does not hold.

    Raises
    ------
    AbbeError
        When there is no such claim, or its data are missing, of no use, or not wanted.
    """
    claim, chosen = claim_of(name), settings or ClaimSettings()
    check_data(claim, chosen.data)
    started = datetime.now(UTC)
    with torch.random.fork_rng():  # layers draw their weights from the global generator; give it back as it was
        torch.manual_seed(chosen.seed)
        found: Found = import_module(claim.module).run(chosen, tell)
    save(found, Path("claims") / name if out is None else Path(out), record(claim, chosen, found, started))
    return found


def check_data(claim: Claim, data: Path | None) -> None:
    """Refuse data that the claim has no use for or that are not there, before anything is computed."""
    if data is not None and not claim.data:
        raise AbbeError(f"--data {data}: the claim {claim.name!r} takes no data; leave it out")
    if data is not None and not (data.is_file() if claim.file else data.is_dir()):
        raise AbbeError(f"--data {data}: no such {'file' if claim.file else 'folder'}; expected {claim.data}")


def record(claim: Claim, settings: ClaimSettings, found: Found, started: datetime) -> dict[str, Any]:
    """Gather what ``claim.json`` says."""
    made = provenance(("abbe", "reproduce", claim.name), seed=settings.seed, settings=settings, started=started)
    return {
        "claim": claim.name,
        "title": claim.title,
        "paper": claim.paper,
        "holds": found.holds,
        "sentence": found.sentence,
        "seed": settings.seed,
        "data": made["settings"]["data"],
        "versions": {"abbe": made["abbe"], **made["software"]},
        "hardware": made["hardware"],
        "seconds": made["seconds"],
    }


def save(found: Found, folder: Path, entries: dict[str, Any]) -> None:
    """Write the three files.

    Raises
    ------
    AbbeError
        When the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found.figure.savefig(folder / "figure.png", dpi=DPI)
        found.table.to_csv(folder / "table.csv", index=False)
        write_text(folder / "claim.json", json.dumps(jsonable(entries), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise AbbeError(
            f"{folder}: the results cannot be written ({error.strerror}); choose a folder with --out"
        ) from error
