"""Annotation files to label images: masks of any kind, ImageJ regions, COCO annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from abbe.data.coco import rasterize
from abbe.data.read import read
from abbe.data.rois import read_imagej_rois
from abbe.errors import AbbeError

ROI_SUFFIXES = (".zip", ".roi")


@dataclass
class Annotation:
    """What one annotation file says of its image."""

    labels: np.ndarray
    """(Y, X) or (Z, Y, X), int32."""
    ignore: np.ndarray | None = None
    """Like ``labels``, bool; None: everything was annotated."""
    warnings: list[str] = field(default_factory=list)
    """What had to be assumed, in plain words."""


def read_labels(
    path: Path, shape: tuple[int, ...], image_name: str, coco: Sequence[dict[str, Any]] | None = None
) -> Annotation:
    """Read the labels of an image.

    Parameters
    ----------
    path
        A mask file, ImageJ regions (.zip, .roi), or the COCO JSON that ``coco`` was read from.
    shape
        The image's spatial axes.
    image_name
        The image's file name, for messages.
    coco
        The image's own COCO annotations.

    Raises
    ------
    AbbeError
        When the labels have another shape than the image, or are not labels.
    """
    if coco is not None:
        return _draw_coco(path, shape, image_name, coco)
    if path.suffix.lower() in ROI_SUFFIXES:
        return Annotation(read_imagej_rois(path, shape).astype(np.int32, copy=False))
    pixels, rgb = _mask_pixels(path)
    if len(shape) == 3 and shape[0] == 1 and pixels.ndim == 2:
        pixels = pixels[None]  # a stack of one plane, whose mask is a plane
    annotation = interpret_labels(pixels, rgb, path.name)
    if annotation.labels.shape != tuple(shape):
        found, expected = (" × ".join(map(str, extents)) for extents in (annotation.labels.shape, shape))
        raise AbbeError(f"{path}: labels of {found} pixels, but {image_name} has {expected}; expected the same")
    return annotation


def _draw_coco(path: Path, shape: tuple[int, ...], image_name: str, coco: Sequence[dict[str, Any]]) -> Annotation:
    if len(shape) != 2:
        raise AbbeError(f"{path}: COCO annotations are of planes, but {image_name} is a stack of {len(shape)} axes")
    try:
        labels, ignore = rasterize(coco, (shape[0], shape[1]))
    except (AbbeError, KeyError, TypeError, ValueError) as error:
        raise AbbeError(f"{path}: an annotation of {image_name} cannot be drawn: {error}") from error
    return Annotation(labels, ignore if ignore.any() else None)


def _mask_pixels(path: Path) -> tuple[np.ndarray, bool]:
    """A mask file as stored, (Y, X), (Z, Y, X) or in colours (3, Y, X), and whether it is in colours."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise AbbeError(f"{path}: a JPEG, whose compression changes label numbers; expected PNG, TIFF or NPY")
    image = read(path)
    if image.rgb:
        planar = image.planar()
        return planar.region(0, planar.height, 0, planar.width), True
    axes = [axis for axis in image.axes if axis in "YX" or image.sizes[axis] > 1]
    return np.asarray(image.data[...]).reshape([image.sizes[axis] for axis in axes]), False


def interpret_labels(pixels: np.ndarray, rgb: bool, name: str) -> Annotation:
    """Turn what a mask file holds into labels.

    Parameters
    ----------
    pixels
        (Y, X) or (Z, Y, X) whole numbers, also as floats, or bool. A mask of one value, 1, 255 or 65535, is
        split into its connected components. Negative pixels are not annotated.
    rgb
        ``pixels`` are (3, Y, X), one colour for each object.
    name
        The file, for messages.

    Raises
    ------
    AbbeError
        When values are not whole numbers: labels that are not labels.
    """
    if rgb:
        return _interpret_colours(pixels, name)
    pixels = _whole_numbers(pixels, name)
    ignore = None
    if pixels.dtype.kind == "i" and pixels.min(initial=0) < 0:
        ignore = pixels < 0
        pixels = np.where(ignore, 0, pixels)
    largest = int(pixels.max(initial=0))
    if largest in (1, 255, 65535) and not np.any((pixels != 0) & (pixels != largest)):
        labels, warnings = _split_binary(pixels != 0, name)
        return Annotation(labels, ignore, warnings)
    if largest > np.iinfo(np.int32).max:
        values, inverse = np.unique(pixels, return_inverse=True)
        pixels = inverse.reshape(pixels.shape) + (values[0] != 0)
    return Annotation(pixels.astype(np.int32), ignore)


def _whole_numbers(pixels: np.ndarray, name: str) -> np.ndarray:
    whole = pixels.dtype.kind == "f" and np.array_equal(pixels, np.rint(pixels))
    if whole and np.abs(pixels).max(initial=0) < 2**62:
        return pixels.astype(np.int64)
    if pixels.dtype.kind not in "iub":
        found = (
            f"{pixels.dtype} with fractions, NaN or numbers beyond 2^62"
            if pixels.dtype.kind == "f"
            else str(pixels.dtype)
        )
        raise AbbeError(f"{name}: labels that are not labels: {found}; expected whole numbers, 0 for background")
    return pixels


def _split_binary(foreground: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Number the connected components; a warning where there are several."""
    # Neighbours by sides only: a line of background whose pixels touch by corners separates two objects.
    labels, count = ndimage.label(foreground, output=np.int32)
    if count <= 1:
        return labels, []
    return labels, [f"{name}: binary; its {count} connected components are taken as objects, touching ones as one"]


def _interpret_colours(pixels: np.ndarray, name: str) -> Annotation:
    red, green, blue = pixels.astype(np.int32)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return interpret_labels(pixels[0], False, name)
    colours, inverse = np.unique((red << 16) | (green << 8) | blue, return_inverse=True)
    order = inverse.reshape(red.shape)
    background = 0 if colours[0] == 0 else int(np.bincount(order.ravel()).argmax())
    labels = np.where(order == background, 0, order + (order < background)).astype(np.int32)
    return Annotation(labels, None, [f"{name}: in colours; each of its {len(colours) - 1} is taken as one object"])
