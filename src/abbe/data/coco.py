"""Annotations in COCO's JSON format: polygons and run-length codes to label images.

The format, https://cocodataset.org/#format-data: ``images`` with id and file_name, ``annotations`` with
image_id and ``segmentation``, which is a list of polygons [x0, y0, x1, y1, ...] in pixels from the upper left
corner of the upper left pixel, or run lengths down the columns, as numbers or as text.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from abbe.errors import AbbeError


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Read the annotations of each image by its file name; None when the JSON is something else.

    An image without annotations has an empty list.

    Raises
    ------
    AbbeError
        When the file is not valid JSON, or an annotation names an image that is not listed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AbbeError(f"{path}: not valid JSON ({error}); expected COCO annotations") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    strangers = by_image.keys() - names.keys()
    if strangers:
        raise AbbeError(f"{path}: annotations name the image id {min(strangers, key=str)}, which is not in its images")
    return {name: by_image.get(number, []) for number, name in names.items()}


def rasterize(annotations: Sequence[dict[str, Any]], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw annotations into a label image (Y, X), int32, and the pixels to ignore (Y, X), bool.

    Objects are numbered in their order from 1. Where two overlap the smaller one is in front. Crowds
    (``iscrowd``) are no objects: their pixels are ignored.
    """
    labels, ignore = np.zeros(shape, np.int32), np.zeros(shape, bool)
    masks = [(number, item, _mask(item["segmentation"], shape)) for number, item in enumerate(annotations, 1)]
    for number, item, mask in sorted(masks, key=lambda entry: -entry[2].sum()):
        if item.get("iscrowd"):
            ignore |= mask
        else:
            labels[mask] = number
    return labels, ignore & (labels == 0)


def _mask(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != shape:
            raise AbbeError(f"run lengths of size {tuple(segmentation['size'])} for an image of {shape}")
        counts = segmentation["counts"]
        return decode_runs(unpack_runs(counts) if isinstance(counts, str) else counts, shape)
    mask = np.zeros(shape, bool)
    for outline in segmentation:
        # A pixel belongs to the polygon when its centre, half a pixel from its corner, is inside.
        x, y = np.asarray(outline, dtype=float).reshape(-1, 2).T - 0.5
        mask[polygon(y, x, shape)] = True
    return mask


def decode_runs(counts: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Expand run lengths, background first and down the columns, to a mask (Y, X).

    Raises
    ------
    AbbeError
        When the runs do not cover the image exactly.
    """
    if sum(counts) != shape[0] * shape[1]:
        raise AbbeError(f"run lengths cover {sum(counts)} pixels, but the image has {shape[0]} × {shape[1]}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(shape[::-1]).T


def unpack_runs(text: str) -> list[int]:
    """Read COCO's compressed run lengths.

    Each number is written in digits of five bits, lowest first, as the characters from ``0`` on: the sixth
    bit says that another digit follows, the last digit carries the sign. From the fourth number on, the
    difference to the number two before is written.
    """
    counts: list[int] = []
    value = shift = 0
    for digit in (ord(character) - 48 for character in text):
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
