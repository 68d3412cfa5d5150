"""Every verb as a function of one image or model; ``folders`` has those over many images."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from abbe.adopt import adopt, config_of
from abbe.classification import Classifier, find_object_classes
from abbe.conversion import convert as convert_weights
from abbe.data.image import describe
from abbe.data.masks import read_masks
from abbe.data.read import read
from abbe.data.select import select
from abbe.embedding import Embedder, embed_image
from abbe.errors import AbbeError
from abbe.evaluation import Evaluation, evaluate_model
from abbe.methods.catalog import entry, module_of
from abbe.model import Model, load_model
from abbe.report.measure import measure_series
from abbe.reproduce.run import reproduce
from abbe.restoration_in_time import restorer_for
from abbe.segmentation import Segmentation
from abbe.settings import (
    ClassifySettings,
    EmbedSettings,
    ImageSettings,
    LearnSettings,
    RestoreSettings,
    SegmentSettings,
)
from abbe.train.settings import build_config, nearest
from abbe.translation import Translator

__all__ = [
    "classify",
    "convert",
    "create",
    "embed",
    "evaluate",
    "export",
    "info",
    "load",
    "measure",
    "read",
    "reproduce",
    "restore",
    "segment",
    "train",
    "translate",
]

if TYPE_CHECKING:
    from abbe.export.export import Exported
    from abbe.lesson import Trained


def load(name: str | Path = "nuclei") -> Model:
    """Load a model by the name of a bundled one, a file, or the folder of a training.

    Raises
    ------
    AbbeError
        When there is no such model, or the file cannot be used; the sentence says why.
    """
    return load_model(name)


def create(name: str, *, weights: str | Path | None = None, accept_license: bool = False, **config: Any) -> Any:
    """Build a bare network of the catalog, its forward as in the paper.

    Parameters
    ----------
    name
        As ``abbe models`` lists them.
    weights
        A model file of Abbe, a published file in a layout that is known (``abbe models`` lists them), or the name of
        one that lies in ``~/.cache/abbe/weights`` (``$ABBE_WEIGHTS``); random weights unless given.
    accept_license
        Also take weights whose licence forbids commercial use.
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
        When there is no such network or field, or the weights cannot be found, read, or do not fit the network, or
        have a licence that has to be accepted first.
    """
    if weights is not None:
        return adopt(name, weights, config, accept_license=accept_license).network
    return module_of(entry(name).file).build(config_of(name, config))


def convert(
    weights: str | Path,
    to: str | Path,
    network: str | None = None,
    *,
    classes: str | Path | Sequence[str] | None = None,
    accept_license: bool = False,
    **config: Any,
) -> Path:
    """Store published weights as a model file of Abbe, with licence, classes and normalisation where they are known.

    Parameters
    ----------
    weights
        As for :func:`create`.
    to
        The file to write, ``name.safetensors``.
    network
        Name in the catalog; needed where the name of the file is not that of a published one.
    classes
        Names of the classes in the order of the outputs, or a file of them: a name on each line, a CSV table with the
        column class, or JSON.
    accept_license, **config
        As for :func:`create`.
    """
    return convert_weights(weights, to, network, config, classes, accept_license=accept_license)


def export(model: str | Path | Model, to: str, out: str | Path | None = None, *, overwrite: bool = False) -> Exported:
    """Write a model for other engines: ONNX, OpenVINO, or a package for bioimage.io.

    What was written is run and compared with the plain float32 forward; only then does it appear.

    Parameters
    ----------
    model
        Name, file, or what :func:`load` gave; or the name of a network, which is written with random weights.
    to
        "onnx", "openvino" or "bioimageio".
    out
        File to write; the model's name in the working directory unless given.
    overwrite
        Replace files that are there.

    Raises
    ------
    AbbeError
        When packages are missing (``pip install 'abbe[export]'``), the model cannot be exported, the file is there
        already, or it does not compute what Abbe computes.
    """
    from abbe.export.export import export_model  # brings the simulated samples, which nothing else here needs

    return export_model(model, to, out, overwrite)


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


def embed(image: Any, model: str | Path | Model, objects: Any = None, **settings: Any) -> pd.DataFrame:
    """Give the vector of an image, or of every object in it: what a network knows before it names a class.

    Parameters
    ----------
    image
        A path, an array, or what :func:`read` gave.
    model
        Name or file of a classifier, or of published weights that :func:`convert` has stored; or what :func:`load`
        gave.
    objects
        A label image, (Y, X) or a path: its objects get a vector each, in place of the whole image.
    **settings
        Fields of :class:`~abbe.settings.EmbedSettings`, such as ``layer="stages.2"``.

    Returns
    -------
    pandas.DataFrame
        A row for the image (with ``z="all"`` or ``time="all"`` one for each frame), or for each object, and the columns
        v0, v1, ...; ``to_numpy()`` gives the vectors (N, D), float32. The index is the label of the object, and the
        time point and the plane where there are several.

    Raises
    ------
    AbbeError
        When the image cannot be read or does not fit the model, or the model gives no vectors.
    """
    loaded = model if isinstance(model, Model) else load(model)
    return embed_image(Embedder(loaded, build_config(EmbedSettings, settings, "embed")), image, objects)


def restore(
    image: Any,
    model: str | Path | Model | None = None,
    *,
    train_on: Sequence[Any] = (),
    **settings: Any,
) -> np.ndarray:
    """Restore an image: denoise, deblur, or whatever a model was trained for.

    Parameters
    ----------
    image
        A path, an array, or what :func:`read` gave. All planes, time points and channels are restored unless one is
        chosen.
    model
        Name or file of a model of restoration, or what :func:`load` gave. Unless given, one is learnt from the noisy
        image itself; :func:`abbe.self_training.learn_to_restore` gives such a model for many images.
    train_on
        Other noisy images to learn from, in place of this one.
    **settings
        Fields of :class:`~abbe.settings.RestoreSettings`, such as ``dtype="float32"``, and where no model is given of
        :class:`~abbe.settings.LearnSettings`, such as ``minutes=3``.

    Returns
    -------
    numpy.ndarray
        Of the image's type, its axes in the order TCZYX without those of extent 1.

    Raises
    ------
    AbbeError
        When the image cannot be read or does not fit the model, the model restores nothing, or there is nothing to
        learn.

    Examples
    --------
    >>> abbe.restore(noisy, minutes=3)  # doctest: +SKIP
    """
    asked = {
        field.name: settings.pop(field.name) for field in dataclasses.fields(LearnSettings) if field.name in settings
    }
    known = {field.name for kind in (RestoreSettings, LearnSettings) for field in dataclasses.fields(kind)}
    for name in settings.keys() - known:
        raise AbbeError(f"restore: no setting named {name!r}; {nearest(name, known)}")
    learning = build_config(LearnSettings, asked, "restore")
    chosen = build_config(RestoreSettings, settings, "restore")
    if model is not None:
        if asked or train_on:
            raise AbbeError(
                f"{', '.join(asked) or 'train_on'}: a model was given, which learns no more; leave out either"
            )
        return restorer_for(model if isinstance(model, Model) else load(model)).restore(image, chosen).pixels
    from abbe.self_training import learn_to_restore  # brings the trainer, which nothing else needs

    with tempfile.TemporaryDirectory() as name:
        source = list(train_on) or [image]
        learned = learn_to_restore(source, Path(name), chosen, learning, others=[image], progress=False)
        return restorer_for(learned.model).restore(image, chosen).pixels


def translate(texts: Sequence[str], model: str | Path | Model) -> list[str]:
    """Write what a model has learnt to write behind each text.

    Parameters
    ----------
    texts
        Of the characters that the model knows, and not longer than it can take.
    model
        Name or file of a translation, or what :func:`load` gave.

    Raises
    ------
    AbbeError
        When a text does not fit the model, or the model is for images.

    Examples
    --------
    >>> abbe.api.translate(["123+45"], "runs/sequences")  # doctest: +SKIP
    ['168']
    """
    return Translator(model if isinstance(model, Model) else load(model))(texts)


def train(recipe: str | Path, data: Sequence[str | Path] | str | Path = (), **options: Any) -> Trained:
    """Train the method of a recipe on annotated images; see :func:`abbe.learn.train_recipe` for the options."""
    from abbe.learn import train_recipe  # brings the trainer, which nothing else needs

    folders = [data] if isinstance(data, str | Path) else list(data)
    return train_recipe(recipe, folders, **options)


def evaluate(
    model: str | Path | Model,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    groups: str = "",
    **settings: Any,
) -> Evaluation:
    """Measure a model on annotated images: the scores of the whole set, with intervals over its images.

    Parameters
    ----------
    model
        Name, file, or what :func:`load` gave.
    data
        A folder with images and their labels, or for a model of classes with a folder of images for each; a model of
        sums makes those to test with itself.
    split
        Which of the folder's splits to take where it has some: test unless given.
    groups
        Of classes: which images belong together and are drawn together for the intervals. A CSV file with the columns
        image and group, or what separates the group from the rest of a file's name.
    **settings
        Fields of :class:`~abbe.settings.SegmentSettings`.
    """
    loaded = model if isinstance(model, Model) else load(model)
    chosen = build_config(SegmentSettings, settings, "evaluate")
    return evaluate_model(loaded, None if data is None else Path(data), split, chosen, groups)


def info(source: Any, model: str | Path = "nuclei", **settings: Any) -> dict[str, Any]:
    """Say what an image is, and what a model would do with it: ``axes``, ``dtype``, ``pixel_size``, ..., ``plan``."""
    chosen = build_config(SegmentSettings, settings, "info")
    image = read(source, axes=chosen.axes)
    try:
        plan = str(load(model).plan(image, chosen))
    except AbbeError as error:
        plan = str(error)
    return describe(image) | {"plan": plan}
