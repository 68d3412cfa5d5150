"""The command line: one function per verb. Texts of options come from ``settings``; torch waits until it is needed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from abbe import __version__
from abbe.display import Display, close, err, print_line, spell
from abbe.errors import AbbeError
from abbe.settings import ClassifySettings, ImageSettings, SegmentSettings

Flat = Parameter(name="*")
"""The fields of a settings class become options of their own."""

app = App(
    default_parameter=Parameter(negative=()),
    name="abbe",
    help="Deep-learning image analysis for microscopy: counts and measurements from a folder of images.",
    version=__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)


@app.command
def segment(
    images: list[str],
    /,
    *,
    model: str = "nuclei",
    out: Path = Path("abbe-results"),
    settings: Annotated[SegmentSettings | None, Flat] = None,
    rois: bool = False,
    format: Literal["auto", "tiff", "zarr"] = "auto",
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
) -> int:
    """Find, count and measure objects: masks, objects.csv, images.csv, overlays and report.html.

    Parameters
    ----------
    images
        Files, folders (with all below them), patterns, or addresses of OME-Zarr (https://..., s3://...).
    model
        Name of a bundled model, a model file, or the folder of a training.
    out
        Folder for the results; it mirrors the folders of the images.
    rois
        Also write outlines: ImageJ ROI zips, and GeoJSON for QuPath.
    format
        Of the label masks: OME-TIFF, or OME-Zarr with a pyramid; auto is OME-Zarr where the image is a Zarr.
    overwrite
        Do again what an earlier run into the same folder has finished.
    workers
        Processes to work in at once, on this machine.
    cluster
        Address of a Dask scheduler whose workers do the work, such as tcp://host:8786.
    dry_run
        Only say for each image what would be done, in how many tiles and with how much memory.
    """
    from abbe.api import plan_files, segment_files
    from abbe.batch import Outputs

    if dry_run:
        return 1 if plan_files(images, model, settings, tell=print_line) else 0
    with Display() as display, ExitStack() as stack:
        others = None
        if workers is not None or cluster is not None:
            from abbe.cluster import Cluster

            others = stack.enter_context(Cluster(workers, cluster))
            display.tell(f"{others.size} worker{'s' * (others.size != 1)}; watch them at {others.dashboard}")
        result = segment_files(
            images,
            Outputs(out, rois, overwrite, format),
            model,
            settings,
            command=["abbe", *sys.argv[1:]],
            tell=display.tell,
            progress=display.progress,
            cluster=others,
        )
    return close(result)


@app.command
def measure(
    images: list[str],
    /,
    *,
    labels: Path,
    out: Path = Path("abbe-results"),
    settings: Annotated[ImageSettings | None, Flat] = None,
    overwrite: bool = False,
) -> int:
    """Measure the objects of masks that exist already, as `segment` measures those it finds.

    Parameters
    ----------
    images
        Files, folders or patterns.
    labels
        Folder of the masks: <stem>_labels.tif, <stem>_mask.png or <stem>.tif for each image.
    out
        Folder for the results.
    overwrite
        Do again what an earlier run into the same folder has finished.
    """
    from abbe.api import measure_files
    from abbe.batch import Outputs

    with Display() as display:
        command = ["abbe", *sys.argv[1:]]
        outputs = Outputs(out, overwrite=overwrite)
        result = measure_files(images, labels, outputs, settings, command=command, tell=display.tell)
    return close(result)


@app.command
def classify(
    images: list[str],
    /,
    *,
    model: str,
    out: Path = Path("abbe-results"),
    objects: Path | None = None,
    labels: Path | None = None,
    settings: Annotated[ClassifySettings | None, Flat] = None,
    overwrite: bool = False,
) -> int:
    """Tell the classes of images, or of every object in them: a table, a contact sheet and report.html.

    Where the classes are known, from --labels or by the folders that the images lie in, the report compares.

    Parameters
    ----------
    images
        Files, folders (with all below them), patterns, or addresses of OME-Zarr.
    model
        A model of classes: a file, or the folder of a training.
    out
        Folder for the results.
    objects
        Folder of label masks (<stem>_labels.tif, <stem>_mask.png or <stem>.tif): classify every object of them.
    labels
        CSV file of known classes with the columns image and class, for objects label too.
    overwrite
        Do again what an earlier run into the same folder has finished.
    """
    from abbe.api import classify_files
    from abbe.batch import Outputs

    with Display() as display:
        result = classify_files(
            images,
            Outputs(out, overwrite=overwrite),
            model,
            settings,
            objects=objects,
            truth=labels,
            command=["abbe", *sys.argv[1:]],
            tell=display.tell,
        )
    return close(result)


@app.command
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
        print_line(f"use it: abbe {trained.verb} IMAGES --model {trained.run}")
    return 0


@app.command
def evaluate(
    model: str,
    /,
    *,
    data: Path,
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
        Folder of annotated images, as for `train`.
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
    print_line("\nworst images:")
    print_line(result.images.head(5).to_string(index=False))
    if out is not None:
        result.save(out)
        print_line(f"\nscores: {out}")
    return 0


@app.command
def info(file: str, /, *, model: str = "nuclei", settings: Annotated[SegmentSettings | None, Flat] = None) -> int:
    """Say what an image file is (axes, type, pixel size, channels) and what Abbe would do with it.

    Parameters
    ----------
    file
        The image: a file, or a folder or address of an OME-Zarr.
    model
        Model to plan for.
    """
    import dataclasses

    from abbe.api import info as run

    facts = run(file, model, **dataclasses.asdict(settings or SegmentSettings()))
    for name, value in facts.items():
        if value not in ([], {}, "", ()):
            print_line(f"{name:12s} {spell(value)}")
    return 0


@app.command
def models() -> int:
    """List the models that can be used by name, the networks that can be built, and the weights published for them."""
    from abbe.methods.catalog import ENTRIES, published
    from abbe.weights.published import tell_record, weights_folder
    from abbe.weights.records import RECORDS

    print_line("models (abbe segment IMAGES --model NAME)")
    for name, record in RECORDS.items():
        print_line(f"  {name:20s} {record.summary}; {record.licence}")
    print_line("\nnetworks (abbe.create(NAME), recipes)")
    for name, entry in ENTRIES.items():
        print_line(f"  {name:20s} {entry.title} ({entry.year}), {entry.paper}")
    print_line(
        f"\npublished weights (abbe.create(NETWORK, weights=FILE), abbe convert FILE), looked for in {weights_folder()}"
    )
    for record in published():
        print_line(f"  {tell_record(record)}")
    return 0


@app.command
def convert(
    weights: str,
    /,
    *,
    to: Path,
    network: str | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    overwrite: bool = False,
) -> int:
    """Store published weights as a model of Abbe, in one .safetensors file with licence and normalisation.

    Parameters
    ----------
    weights
        The published file, or the name of one in the folder that `abbe models` tells.
    to
        File to write: name.safetensors.
    network
        Name of its network, as `abbe models` lists them; needed where the file's name does not tell it.
    in_channels
        Channels of the images, where they are not those of the weights.
    num_classes
        Classes of a new last layer, which is random; 0 for none.
    overwrite
        Replace a file that is there.
    """
    from abbe.api import convert as run

    if to.exists() and not overwrite:
        raise AbbeError(f"{to}: is there already; --overwrite replaces it")
    given = {"in_channels": in_channels, "num_classes": num_classes}
    config = {name: value for name, value in given.items() if value is not None}
    print_line(f"model: {run(weights, to, network, **config)}")
    return 0


@app.command
def recipes() -> int:
    """List the recipes of `abbe train`."""
    from abbe.train.recipe import list_recipes

    for summary in list_recipes():
        print_line(f"{summary.name:16s} {summary.title}")
        print_line(f"{'':16s} {summary.command}\n{'':16s} cost: {summary.cost}\n{'':16s} result: {summary.result}")
    return 0


@app.command
def show(name: str, /) -> int:
    """Show the card of a model, the paper and file of a network, or the text of a recipe.

    Parameters
    ----------
    name
        A model, a network or a recipe.
    """
    from abbe.cards import card

    print_line(card(name))
    return 0


@app.command
def doctor() -> int:
    """List versions and devices, and test in seconds that everything works."""
    from abbe.checkup import check_up

    return 0 if check_up(print_line) else 1


@app.command
def demo(*, out: Path = Path("demo"), overwrite: bool = True) -> int:
    """Segment and measure stained tissue and a simulated fluorescence field, and leave a report to open.

    Parameters
    ----------
    out
        Folder for images and results.
    overwrite
        Do it again where an earlier demo lies.
    """
    from abbe.api import segment_files
    from abbe.batch import Outputs
    from abbe.demo import DIAMETER, write_images

    images = write_images(out / "images")
    with Display() as display:
        command = ["abbe", *sys.argv[1:]]
        outputs = Outputs(out, overwrite=overwrite)
        sizes = SegmentSettings(diameter=DIAMETER)
        result = segment_files(
            images, outputs, settings=sizes, command=command, tell=display.tell, progress=display.progress
        )
    return close(result)


def pair_up(words: Sequence[str]) -> dict[str, str]:
    """Read ``--key.sub value`` and ``--key.sub=value``."""
    pairs: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or rest):
            raise AbbeError(f"{word}: expected a setting and its value, such as --train.epochs 20")
        pairs[key] = value if equals else rest.pop(0)
    return pairs


def main(words: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 some images failed, 2 bad input, 130 stopped."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # of the handler: other libraries set the levels of their own loggers
    logging.basicConfig(format="abbe: %(message)s", handlers=[handler])
    sys.exit(guarded(lambda: app(words, exit_on_error=False)))


def guarded(run: Callable[[], Any]) -> int:
    """Turn errors into one sentence and an exit code."""
    try:
        return int(run() or 0)
    except AbbeError as error:
        err.print(f"abbe: {error}", highlight=False, markup=False)
        return 2
    except CycloptsError:  # cyclopts has told it
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        err.print("stopped", highlight=False)
        return 130
