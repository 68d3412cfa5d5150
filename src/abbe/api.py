"""Every verb as a function; the command line and the apps call nothing else."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from abbe.adopt import adopt
from abbe.adopt import convert as convert_weights
from abbe.batch import Batch, BatchResult, Found, Outcome, Outputs
from abbe.class_batch import ClassBatch, classify_one, truth_of_images
from abbe.classification import Classifier, find_object_classes, object_sections
from abbe.cluster import Cluster
from abbe.data.image import describe
from abbe.data.inputs import Input, find_images
from abbe.data.masks import find_mask, read_masks
from abbe.data.read import read
from abbe.data.select import select
from abbe.errors import AbbeError
from abbe.evaluation import Evaluation, evaluate_model
from abbe.methods.catalog import entry, module_of, variant
from abbe.model import Model, load_model
from abbe.report.measure import measure_series
from abbe.report.table import ObjectTable
from abbe.segmentation import Segmentation
from abbe.settings import ClassifySettings, ImageSettings, SegmentSettings
from abbe.train.settings import build_config

__all__ = [
    "classify",
    "classify_files",
    "convert",
    "create",
    "evaluate",
    "info",
    "load",
    "measure",
    "measure_files",
    "plan_files",
    "read",
    "segment",
    "segment_files",
    "train",
]

if TYPE_CHECKING:
    from abbe.learn import Trained

Tell = Callable[[str], None]
logger = logging.getLogger(__name__)


def load(name: str | Path = "nuclei") -> Model:
    """Load a model by the name of a bundled one, a file, or the folder of a training.

    Raises
    ------
    AbbeError
        When there is no such model, or the file cannot be used; the sentence says why.
    """
    return load_model(name)


def create(name: str, *, weights: str | Path | None = None, **config: Any) -> Any:
    """Build a bare network of the catalog, its forward as in the paper.

    Parameters
    ----------
    name
        As ``abbe models`` lists them.
    weights
        A model file of Abbe, a published file in a layout that is known (``abbe models`` lists them), or the name of
        one that lies in ``~/.cache/abbe/weights`` (``$ABBE_WEIGHTS``); random weights unless given.
    **config
        Fields of the network's config that differ from the published ones. With ``in_channels`` the first filters of
        published weights are summed for one channel, otherwise repeated and scaled; with ``num_classes`` a last layer
        of other classes stays random, and a warning says so.

    Returns
    -------
    torch.nn.Module
        In training mode, on the CPU.

    Raises
    ------
    AbbeError
        When there is no such network or field, or the weights cannot be found, read, or do not fit the network.
    """
    if weights is not None:
        return adopt(name, weights, config).network
    base = variant(name)
    values = dataclasses.asdict(base) | config
    return module_of(entry(name).file).build(build_config(type(base), values, f"create({name!r})"))


def convert(weights: str | Path, to: str | Path, network: str | None = None, **config: Any) -> Path:
    """Store published weights as a model file of Abbe, with licence and normalisation where they are known.

    Parameters
    ----------
    weights
        As for :func:`create`.
    to
        The file to write, ``name.safetensors``.
    network
        Name in the catalog; needed where the name of the file is not that of a published one.
    **config
        As for :func:`create`.
    """
    return convert_weights(weights, to, network, config)


def segment(image: Any, model: str | Path | Model = "nuclei", **settings: Any) -> Segmentation:
    """Find and measure the objects of one image.

    Parameters
    ----------
    image
        A path, an array (YX, CYX with ``axes="CYX"``, or 8-bit colour YXC), or what :func:`read` gave.
    model
        Name, file, or what :func:`load` gave; give a loaded one when there are many images.
    **settings
        Fields of :class:`~abbe.settings.SegmentSettings`, such as ``channel=0`` or ``min_area=50``.

    Returns
    -------
    Segmentation
        ``labels`` (Y, X), ``objects`` (a table, one row each), ``overlay()``, ``save(folder)``.

    Raises
    ------
    AbbeError
        When the image cannot be read, does not fit the model, or an option does not exist.

    Examples
    --------
    >>> import abbe, skimage.data
    >>> result = abbe.segment(skimage.data.human_mitosis())  # doctest: +SKIP
    >>> result.objects[["label", "area"]].head()  # doctest: +SKIP
    """
    loaded = model if isinstance(model, Model) else load(model)
    return loaded.predict(image, build_config(SegmentSettings, settings, "segment"))


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
    loaded = load(model)
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
    found, loaded, failed = find_images(inputs), load(model), 0
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


def measure(labels: Any, image: Any = None, **settings: Any) -> pd.DataFrame:
    """Measure the objects of a mask that exists already.

    Parameters
    ----------
    labels
        A path, or an array of whole numbers, 0 for background: (Y, X), (Z, Y, X) for objects in three dimensions, or
        with ``z="all"`` or ``time="all"`` a series of either.
    image
        The image they belong to, for intensities and pixel size; a path, an array, or what :func:`read` gave.
    **settings
        Fields of :class:`~abbe.settings.ImageSettings`, which say how to read the image.
    """
    chosen = build_config(ImageSettings, settings, "measure")
    return measure_series(*read_masks(labels, image, chosen))


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


def classify(image: Any, model: str | Path | Model, objects: Any = None, **settings: Any) -> pd.DataFrame:
    """Tell the class of an image, or of every object in it.

    Parameters
    ----------
    image
        A path, an array, or what :func:`read` gave.
    model
        Name or file of a classifier, or what :func:`load` gave.
    objects
        A label image, (Y, X) or a path: its objects are classified in place of the whole.
    **settings
        Fields of :class:`~abbe.settings.ClassifySettings`.

    Returns
    -------
    pandas.DataFrame
        A row for the image (with ``z="all"`` or ``time="all"`` one for each frame), or for each object with its
        measurements: ``class``, ``probability``, and ``p_<name>`` for each class.

    Raises
    ------
    AbbeError
        When the image cannot be read or does not fit the model, or the model tells no classes.
    """
    classifier = Classifier(model if isinstance(model, Model) else load(model))
    chosen = build_config(ClassifySettings, settings, "classify")
    if objects is not None:
        return find_object_classes(classifier, objects, image, chosen)[1]
    return classifier.images(select(image, chosen, 2), chosen)


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
    found, loaded = find_images(inputs), load(model)
    classifier = Classifier(loaded)
    identity = loaded.identity(chosen) | {"objects": str(objects or "")}
    shared = (outputs, identity, f"Classes of {_images(len(found))}", command, loaded.record())
    device = loaded.predictor(chosen).device
    if objects is None:
        known = truth_of_images(truth, classifier.classes)
        batch: Batch = ClassBatch(*shared, device, classes=classifier.classes, truth=known)
        return batch.run(found, lambda path, work: classify_one(classifier, path, chosen), tell)
    given = _masks_of(found, objects)
    batch = Batch(*shared, device, object_sections(classifier, truth))

    def find(path: Path | str, work: Path) -> Found:
        return find_object_classes(classifier, given(path), path, chosen)[0]

    return batch.run(found, find, tell)


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


def train(recipe: str | Path, data: Sequence[str | Path] | str | Path = (), **options: Any) -> Trained:
    """Train the method of a recipe on annotated images; see :func:`abbe.learn.train_recipe` for the options."""
    from abbe.learn import train_recipe  # brings the trainer, which nothing else needs

    folders = [data] if isinstance(data, str | Path) else list(data)
    return train_recipe(recipe, folders, **options)


def evaluate(
    model: str | Path | Model, data: str | Path, *, split: str | None = None, groups: str = "", **settings: Any
) -> Evaluation:
    """Measure a model on annotated images: the scores of the whole set, with intervals over its images.

    Parameters
    ----------
    model
        Name, file, or what :func:`load` gave.
    data
        A folder with images and their labels, or for a model of classes with a folder of images for each.
    split
        Which of the folder's splits to take where it has some: test unless given.
    groups
        Of classes: which images belong together and are drawn together for the intervals. A CSV file with the columns
        image and group, or what separates the group from the rest of a file's name.
    **settings
        Fields of :class:`~abbe.settings.SegmentSettings`.
    """
    loaded = model if isinstance(model, Model) else load(model)
    return evaluate_model(loaded, Path(data), split, build_config(SegmentSettings, settings, "evaluate"), groups)


def info(source: Any, model: str | Path = "nuclei", **settings: Any) -> dict[str, Any]:
    """Say what an image is, and what a model would do with it: ``axes``, ``dtype``, ``pixel_size``, ..., ``plan``."""
    chosen = build_config(SegmentSettings, settings, "info")
    image = read(source, axes=chosen.axes)
    try:
        plan = str(load(model).plan(image, chosen))
    except AbbeError as error:
        plan = str(error)
    return describe(image) | {"plan": plan}


def _images(number: int) -> str:
    return f"{number} image{'s' * (number != 1)}"
