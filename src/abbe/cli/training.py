"""Verbs of training, of what it is worth, and of what papers claim of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from abbe.cli.images import Flat
from abbe.display import Display, print_line
from abbe.errors import AbbeError
from abbe.settings import SegmentSettings


def train(
    recipe: str,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    out: Path | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    devices: int | None = None,
    nodes: int | None = None,
) -> int:
    """Train a model on annotated images; any setting of the recipe can be changed: --train.epochs 20.

    Images and labels are found as images/ beside masks/, a.tif beside a_mask.tif, COCO JSON, or ImageJ ROI zips;
    for classes as a folder of images for each class.

    Parameters
    ----------
    recipe
        Name of a recipe (see `abbe recipes`) or a TOML file.
    overrides
        Settings of the recipe.
    data
        Folders of annotated images; with train/ and val/ inside, those splits are used.
    out
        Run folder, runs/<recipe> unless given: model, curves, log, checkpoints.
    from_scratch
        Begin with random weights, whatever the recipe starts from.
    resume
        Go on with the run in the run folder.
    devices
        Devices of each machine to train on together; they share each batch.
    nodes
        Machines to train on together, each started by torchrun, Slurm or the like.
    """
    from abbe.api import train as run

    shared = {"train.devices": devices, "train.nodes": nodes}
    trained = run(
        recipe,
        data or (),
        overrides=pair_up(overrides) | {key: value for key, value in shared.items() if value is not None},
        out=out,
        from_scratch=from_scratch,
        resume=resume,
        tell=Display().tell,
    )
    if trained.fit.leads:
        print_line(f"model: {trained.model}")
        print_line(f"curves and log: {trained.run}")
        print_line(f"use it: {trained.usage}")
    return 0


def evaluate(
    model: str,
    /,
    *,
    data: Path | None = None,
    split: str | None = None,
    groups: str = "",
    out: Path | None = None,
    settings: Annotated[SegmentSettings | None, Flat] = None,
) -> int:
    """Score a model on annotated images, as users would run it.

    Parameters
    ----------
    model
        Name, model file, or the folder of a training.
    data
        Folder of annotated images, as for `train`; a model of sums makes its own.
    split
        Split to take where the folder has some: test unless given.
    groups
        Of classes: a CSV file of image and group, or what ends the group in a file's name; intervals are over groups.
    out
        Folder for scores.json and images.csv.
    """
    import dataclasses

    from abbe.api import evaluate as run

    result = run(model, data, split=split, groups=groups, **dataclasses.asdict(settings or SegmentSettings()))
    for name, value in result.scores.items():
        low, high = result.intervals.get(name, (None, None))
        print_line(f"{name:18s} {value:.4f}" + (f"  [{low:.4f}, {high:.4f}]" if low is not None else ""))
    print_line("\nworst first:")
    print_line(result.images.head(5).to_string(index=False))
    if out is not None:
        result.save(out)
        print_line(f"\nscores: {out}")
    return 0


def recipes() -> int:
    """List the recipes of `abbe train`."""
    from abbe.train.recipe import list_recipes

    for summary in list_recipes():
        print_line(f"{summary.name:16s} {summary.title}")
        print_line(f"{'':16s} {summary.command}\n{'':16s} cost: {summary.cost}\n{'':16s} result: {summary.result}")
    return 0


def reproduce(claim: str = "", /, *, data: Path | None = None, out: Path | None = None, seed: int = 0) -> int:
    """Try what a paper claims, small enough for minutes on two cores; without a name, list the claims.

    Parameters
    ----------
    claim
        Name of a claim.
    data
        Images or text of your own, for the claims that take some.
    out
        Folder for figure.png, table.csv and claim.json, claims/<name> unless given.
    seed
        Of all random choices.
    """
    from abbe.reproduce.claims import CLAIMS, ClaimSettings, claim_of

    if not claim:
        for one in CLAIMS.values():
            print_line(f"{one.name:12s} {one.title}\n{'':12s} {one.paper}, about {one.minutes:g} min on two cores")
            if one.data:
                print_line(f"{'':12s} --data: {one.data}")
        return 0
    chosen = claim_of(claim)  # a wrong name is told before torch is loaded
    from abbe.reproduce.run import reproduce as run

    tell = Display().tell
    tell(f"{chosen.title} ({chosen.paper}; about {chosen.minutes:g} min on two cores)")
    folder = out or Path("claims") / claim
    found = run(claim, folder, ClaimSettings(data, seed), tell)
    print_line(f"the claim {'holds' if found.holds else 'does not hold'} in this run: {found.sentence}")
    print_line(f"figure: {folder / 'figure.png'}")
    return 0


def pair_up(words: Sequence[str]) -> dict[str, str]:
    """Read ``--key.sub value`` and ``--key.sub=value``; as everywhere, hyphens are as good as underscores."""
    pairs: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or rest):
            raise AbbeError(f"{word}: expected a setting and its value, such as --train.epochs 20")
        pairs[key.replace("-", "_")] = value if equals else rest.pop(0)
    return pairs
