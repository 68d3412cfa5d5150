"""Verbs that take images. Texts of options come from ``settings``; torch waits until it is needed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from abbe.display import Display, close, print_line, spell
from abbe.settings import (
    ClassifySettings,
    EmbedSettings,
    ImageSettings,
    LearnSettings,
    RestoreSettings,
    SegmentSettings,
)

Flat = Parameter(name="*")
"""The fields of a settings class become options of their own."""


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
    from abbe.batch import Outputs
    from abbe.folders import plan_files, segment_files

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
    from abbe.batch import Outputs
    from abbe.folders import measure_files

    with Display() as display:
        command = ["abbe", *sys.argv[1:]]
        outputs = Outputs(out, overwrite=overwrite)
        result = measure_files(images, labels, outputs, settings, command=command, tell=display.tell)
    return close(result)


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
    from abbe.batch import Outputs
    from abbe.folders import classify_files

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


def embed(
    images: list[str],
    /,
    *,
    model: str,
    out: Path = Path("abbe-results"),
    objects: Path | None = None,
    labels: Path | None = None,
    settings: Annotated[EmbedSettings | None, Flat] = None,
    format: Literal["auto", "parquet", "npy", "csv"] = "auto",
    overwrite: bool = False,
) -> int:
    """Compute a vector for each image, or for every object in them, and show what is alike in report.html.

    Parameters
    ----------
    images
        Files, folders (with all below them), patterns, or addresses of OME-Zarr.
    model
        A model of classes: a file, or the folder of a training; or published weights that `abbe convert` has stored.
    out
        Folder for the results.
    objects
        Folder of label masks (<stem>_labels.tif, <stem>_mask.png or <stem>.tif): a vector for every object of them.
    labels
        CSV file of known classes with the columns image and class, for objects label too: colours of the map.
    format
        Of the vectors; auto is Parquet where pyarrow is installed (the extra "embed"), else NPY with a CSV beside it.
    overwrite
        Do again what an earlier run into the same folder has finished.
    """
    from abbe.batch import Outputs
    from abbe.folders import embed_files

    with Display() as display:
        result = embed_files(
            images,
            Outputs(out, overwrite=overwrite),
            model,
            settings,
            objects=objects,
            truth=labels,
            format=format,
            command=["abbe", *sys.argv[1:]],
            tell=display.tell,
        )
    return close(result)


def restore(
    images: list[str],
    /,
    *,
    model: str | None = None,
    train_on: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path = Path("abbe-results"),
    learning: Annotated[LearnSettings | None, Flat] = None,
    settings: Annotated[RestoreSettings | None, Flat] = None,
    format: Literal["auto", "tiff", "zarr"] = "auto",
    overwrite: bool = False,
) -> int:
    """Restore noisy images: <name>_restored.tif of the same type, axes and pixel size, and report.html.

    Without a model the noise is looked at, and Noise2Void learns from the images themselves for some minutes: nothing
    clean is needed. The model stays in the folder of the results and serves other images like these.

    Parameters
    ----------
    images
        Files, folders (with all below them), patterns, or addresses of OME-Zarr.
    model
        A model that has learnt already: a bundled one, a file, or the folder of a training.
    train_on
        Other noisy images to learn from, in place of those that are restored.
    out
        Folder for the results.
    format
        Of the restored images: OME-TIFF, or OME-Zarr with a pyramid; auto is OME-Zarr where the image is a Zarr.
    overwrite
        Do again, and learn again, what an earlier run into the same folder has finished.
    """
    from abbe.batch import Outputs
    from abbe.folders import restore_files

    with Display() as display:
        result = restore_files(
            images,
            Outputs(out, overwrite=overwrite, format=format),
            model,
            settings,
            learning,
            train_on=train_on or (),
            command=["abbe", *sys.argv[1:]],
            tell=display.tell,
            progress=display.progress,
        )
    return close(result)


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


def demo(*, out: Path = Path("demo"), overwrite: bool = True) -> int:
    """Segment and measure stained tissue and a simulated fluorescence field, and leave a report to open.

    Parameters
    ----------
    out
        Folder for images and results.
    overwrite
        Do it again where an earlier demo lies.
    """
    from abbe.batch import Outputs
    from abbe.demo import write_images
    from abbe.folders import segment_files

    images = write_images(out / "images")
    with Display() as display:
        command = ["abbe", *sys.argv[1:]]
        outputs = Outputs(out, overwrite=overwrite)
        result = segment_files(images, outputs, command=command, tell=display.tell, progress=display.progress)
    return close(result)
