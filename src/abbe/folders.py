"""The verbs over many images: from files and folders to a folder of results. ``api`` has them for one image."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from abbe.batch import Batch, BatchResult, Found, Outcome, Outputs
from abbe.class_batch import ClassBatch, classify_together, truth_of_images
from abbe.classification import Classifier, find_object_classes, object_sections
from abbe.cluster import Cluster
from abbe.data.classes import read_rows
from abbe.data.inputs import Input, find_images
from abbe.data.masks import find_mask, read_masks
from abbe.data.read import read
from abbe.data.select import select
from abbe.data.vectors import VectorFormat, choose_format
from abbe.data.write_image import check_type
from abbe.embed_batch import EmbedBatch, embed_one, embed_together
from abbe.embedding import Embedder
from abbe.errors import AbbeError
from abbe.model import Model, load_model
from abbe.report.measure import measure_series
from abbe.report.table import ObjectTable
from abbe.restoration import Restored, denoises, spell_tiles
from abbe.restoration_in_time import restorer_for
from abbe.restore_batch import RestoreBatch
from abbe.self_training import learn_to_restore
from abbe.settings import (
    ClassifySettings,
    EmbedSettings,
    ImageSettings,
    LearnSettings,
    RestoreSettings,
    SegmentSettings,
)

Tell = Callable[[str], None]
logger = logging.getLogger(__name__)


def segment_files(
    inputs: Sequence[str | Path],
    outputs: Outputs,
    model: str | Path = "nuclei",
    settings: SegmentSettings | None = None,
    *,
    command: Sequence[str] = ("abbe.segment_files",),
    tell: Tell = logger.info,
    progress: Callable[[float], None] | None = None,
    cluster: Cluster | None = None,
) -> BatchResult:
    """Segment and measure many images into a folder of masks, tables, overlays and a report.

    Parameters
    ----------
    inputs
        Files, folders, patterns, addresses of OME-Zarr.
    outputs
        Where to write, and what beside the masks.
    model
        Name or file.
    settings
        Options for all images.
    command
        What to call the run in its record.
    tell
        Gets a line for every image.
    progress
        Gets the finished part of the image in hand, 0 to 1.
    cluster
        Other processes to do the work: small images one by one, large ones tile by tile.

    Raises
    ------
    AbbeError
        When the inputs lead to nothing, or the model or the folder cannot be used.
    """
    settings = settings or SegmentSettings()
    found = find_images(inputs)
    loaded = load_model(model)
    loaded.expect_objects()
    device = loaded.predictor(settings).device
    title = f"{loaded.name.capitalize()} in {_images(len(found))}"
    batch = Batch(outputs, loaded.identity(settings), title, command, loaded.record(), device)

    def find(path: Path | str, work: Path) -> Found:
        fill = cluster.fill if cluster else None
        return loaded.predict(path, settings, tell=tell, progress=progress, work=work, fill=fill).found()

    def elsewhere(batch: Batch, items: Sequence[Input]) -> Iterator[Outcome]:
        assert cluster is not None
        large = {item for item in items if _is_large(item.path, loaded, settings)}
        small = [item for item in items if item not in large]
        yield from cluster.map(_segment_one, (batch, loaded, settings), small, _lost)
        yield from (batch.do(item, find) for item in items if item in large)

    return batch.run(found, find, tell, elsewhere if cluster else None)


def plan_files(
    inputs: Sequence[str | Path],
    model: str | Path = "nuclei",
    settings: SegmentSettings | None = None,
    *,
    tell: Tell = logger.info,
) -> int:
    """Say what :func:`segment_files` would do with each image; gives the number of those that it could not do."""
    settings = settings or SegmentSettings()
    found, loaded, failed = find_images(inputs), load_model(model), 0
    for number, item in enumerate(found, 1):
        try:
            tell(f"[{number}/{len(found)}] {item.path}: {loaded.plan(item.path, settings)}")
        except AbbeError as error:
            tell(f"[{number}/{len(found)}] would fail: {error}")
            failed += 1
    return failed


def _is_large(path: Path | str, model: Model, settings: SegmentSettings) -> bool:
    """Tell whether an image has more pixels than one tile; one that cannot be opened has none."""
    try:
        series = select(path, settings, model.dimensions)
        return len(series) * math.prod(series[0].extents) > math.prod(model.tile(settings))
    except AbbeError:
        return False


def _segment_one(batch: Batch, model: Model, settings: SegmentSettings, item: Input) -> Outcome:
    """Do one image on a worker."""
    return batch.do(item, lambda path, work: model.predict(path, settings, work=work).found())


def _lost(item: Input, error: AbbeError) -> Outcome:
    """Tell of an image that killed every worker that took it."""
    return Outcome(f"failed: {error}", failure=(str(item.path), str(error)))


def measure_files(
    inputs: Sequence[str | Path],
    labels: Path,
    outputs: Outputs,
    settings: ImageSettings | None = None,
    *,
    command: Sequence[str] = ("abbe.measure_files",),
    tell: Tell = logger.info,
) -> BatchResult:
    """Measure many images with the masks of a folder: ``<stem>_labels.tif``, ``<stem>_mask.png`` or ``<stem>.tif``."""
    settings = settings or ImageSettings()
    found = find_images(inputs)
    given = _masks_of(found, labels)
    identity = {"labels": str(labels), **dataclasses.asdict(settings)}
    batch = Batch(outputs, identity, f"Objects in {_images(len(found))}", command)

    def find(path: Path | str, work: Path) -> Found:
        masks, series, array = read_masks(given(path), path, settings)
        table = ObjectTable()
        table.add(measure_series(masks, series, array))
        return Found(series or masks, array, table, write_labels=False)

    return batch.run(found, find, tell)


def classify_files(
    inputs: Sequence[str | Path],
    outputs: Outputs,
    model: str | Path,
    settings: ClassifySettings | None = None,
    *,
    objects: Path | None = None,
    truth: Path | None = None,
    command: Sequence[str] = ("abbe.classify_files",),
    tell: Tell = logger.info,
) -> BatchResult:
    """Tell the classes of many images, or of the objects in them, into a folder with tables and a report.

    Parameters
    ----------
    inputs
        Files, folders, patterns, addresses of OME-Zarr.
    outputs
        Where to write.
    model
        Name or file of a classifier.
    settings
        Options for all images.
    objects
        Folder of label images, found as :func:`measure_files` finds them: every object is classified, and its class
        joins its measurements in ``objects.csv``.
    truth
        CSV file with the known classes: the columns image and class, for objects label too. Without it the folder
        that an image lies in tells its class, where it is called like one.
    command
        What to call the run in its record.
    tell
        Gets a line for every image.

    Raises
    ------
    AbbeError
        When the inputs lead to nothing, or model, labels or folder cannot be used.
    """
    chosen = settings or ClassifySettings()
    found, loaded = find_images(inputs), load_model(model)
    classifier = Classifier(loaded)
    identity = loaded.identity(chosen) | {"objects": str(objects or "")}
    shared = (outputs, identity, f"Classes of {_images(len(found))}", command, loaded.record())
    device, notes = classifier.predictor(chosen).device, [classifier.note] if classifier.note else []
    for note in notes:
        tell(note)
    if objects is None:
        known = truth_of_images(truth, classifier.classes)
        batch: Batch = ClassBatch(*shared, device, notes=notes, classes=classifier.classes, truth=known)
        pool = classify_together(classifier, chosen)
        return batch.run(found, pool.alone, tell, pool)
    given = _masks_of(found, objects)
    batch = Batch(*shared, device, object_sections(classifier, truth), notes)

    def find(path: Path | str, work: Path) -> Found:
        return find_object_classes(classifier, given(path), path, chosen)[0]

    return batch.run(found, find, tell)


def embed_files(
    inputs: Sequence[str | Path],
    outputs: Outputs,
    model: str | Path,
    settings: EmbedSettings | None = None,
    *,
    objects: Path | None = None,
    truth: Path | None = None,
    format: VectorFormat = "auto",
    command: Sequence[str] = ("abbe.embed_files",),
    tell: Tell = logger.info,
) -> BatchResult:
    """Compute the vectors of many images, or of the objects in them, into a folder with a file of them and a report.

    Parameters
    ----------
    inputs
        Files, folders, patterns, addresses of OME-Zarr.
    outputs
        Where to write.
    model
        Name or file of a classifier, or of published weights that ``convert`` has stored.
    settings
        Options for all images.
    objects
        Folder of label images, found as :func:`measure_files` finds them: every object gets a vector.
    truth
        CSV file with the known classes, which the map shows: the columns image and class, for objects label too.
        Without it the map shows the folders of the images.
    format
        Of the vectors: Parquet; NPY with the table vectors.csv; or CSV. "auto" is Parquet where pyarrow is installed,
        else NPY.
    command
        What to call the run in its record.
    tell
        Gets a line for every image.

    Raises
    ------
    AbbeError
        When the inputs lead to nothing, or model, labels or folder cannot be used.
    """
    chosen, kind = settings or EmbedSettings(), choose_format(format)
    found, loaded = find_images(inputs), load_model(model)
    embedder = Embedder(loaded, chosen)
    if truth is not None:
        read_rows(truth, ("image", "class") if objects is None else ("image", "label", "class"))
    given = None if objects is None else _masks_of(found, objects)
    batch = EmbedBatch(
        outputs,
        loaded.identity(chosen) | {"objects": str(objects or "")},
        f"Vectors of {'' if objects is None else 'objects in '}{_images(len(found))}",
        command,
        loaded.record(),
        embedder.model.predictor(chosen).device,
        embedder=embedder,
        kind=kind,
        objects=objects is not None,
        truth=truth,
    )
    if given is None:
        pool = embed_together(embedder)
        return batch.run(found, pool.alone, tell, pool)
    return batch.run(found, lambda path, work: embed_one(embedder, path, given(path), work), tell)


def restore_files(
    inputs: Sequence[str | Path],
    outputs: Outputs,
    model: str | Path | None = None,
    settings: RestoreSettings | None = None,
    learning: LearnSettings | None = None,
    *,
    train_on: Sequence[str | Path] = (),
    command: Sequence[str] = ("abbe.restore_files",),
    tell: Tell = logger.info,
    progress: Callable[[float], None] | None = None,
) -> BatchResult:
    """Restore many images into a folder: ``<name>_restored.tif``, pictures of before and after, and a report.

    Parameters
    ----------
    inputs
        Files, folders, patterns, addresses of OME-Zarr.
    outputs
        Where to write.
    model
        Name or file of a model of restoration; unless given, one is learnt from the noisy images themselves.
    settings
        Options for all images.
    learning
        How to learn where there is no model.
    train_on
        Other noisy images to learn from, in place of those that are restored.
    command
        What to call the run in its record.
    tell
        Gets a line for every image.
    progress
        Gets the finished part of the image in hand, 0 to 1.

    Raises
    ------
    AbbeError
        When the inputs lead to nothing, nothing can be learnt from them, or model or folder cannot be used.
    """
    began = datetime.now(UTC)
    chosen, found = settings or RestoreSettings(), find_images(inputs)
    learned = None
    if model is None:
        paths = [item.path for item in found]
        source = [item.path for item in find_images(train_on)] if train_on else paths
        _check_before_learning(paths, outputs, chosen)
        learned = learn_to_restore(
            source, outputs.folder / LEARNED, chosen, learning, others=paths, overwrite=outputs.overwrite, tell=tell
        )
        loaded = learned.model
    else:
        if train_on or learning is not None:
            raise AbbeError(
                "--model has learnt already; leave it out, or --train-on and the options of learning (--minutes, "
                "--method, --target, --psf, --seed)"
            )
        loaded = load_model(model)
    restorer, device = restorer_for(loaded), loaded.predictor(chosen).device
    if tiles := spell_tiles(loaded, chosen):
        tell(tiles)
    title = f"{_images(len(found)).capitalize()} restored"
    batch = RestoreBatch(
        outputs,
        loaded.identity(chosen),
        title,
        command,
        loaded.record(),
        device,
        notes=[tiles] if tiles else [],
        seed=(learning or LearnSettings()).seed if learned else None,
        began=began,
        learned=learned,
        denoises=denoises(loaded),
    )

    def find(path: Path | str, work: Path) -> Restored:
        return restorer.restore(path, chosen, work=work, progress=progress)

    return batch.run(found, find, tell)


def _check_before_learning(paths: Sequence[Path | str], outputs: Outputs, settings: RestoreSettings) -> None:
    """Refuse to spend the time of a training where no image could be written; what cannot be read is told later."""
    refused: AbbeError | None = None
    for path in paths if settings.dtype == "keep" else ():
        with suppress(AbbeError):
            image = read(path, axes=settings.axes)
            try:
                if not outputs.zarr(image):
                    check_type(image.dtype, image.name)
                return
            except AbbeError as error:
                refused = refused or error
    if refused:
        raise refused


LEARNED = "learned"
"""Folder of the results for a model that was learnt from the images."""


def _masks_of(found: Sequence[Input], labels: Path) -> Callable[[Path | str], Path]:
    """Give what finds the mask of an image, and says what it looked for where there is none."""
    places = {item.path: item.relative for item in found}

    def mask_of(path: Path | str) -> Path:
        mask = find_mask(labels, places[path])
        if mask is None:
            stem = places[path].name
            raise AbbeError(f"{path}: no mask in {labels}; expected {stem}_labels.tif or {stem}_mask.png")
        return mask

    return mask_of


def _images(number: int) -> str:
    return f"{number} image{'s' * (number != 1)}"
