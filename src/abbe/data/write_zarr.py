"""Write labels and images as OME-Zarr with pyramids, block by block, in memory that does not grow with the image.

Version 0.5 of the specification (Zarr format 3) unless 0.4 (format 2) is asked for. Labels are subsampled for the
lower levels, since the mean of two numbers would be a third object; images are averaged. Only Y and X are halved.
The metadata that make the folder an image are written last.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from abbe import __version__
from abbe.data.image import Image
from abbe.data.stored_labels import CHUNK, StoredLabels, chunked, laid_out_alike, share_chunks
from abbe.data.write import PixelSize, atomic_folder, label_axes, sizes_by_axis
from abbe.errors import AbbeError
from abbe.ops.boxes import blocks
from abbe.ops.labels import LabelImage, check_labels, largest_label, smallest_unsigned

Version = Literal["0.4", "0.5"]

SHARD = 4
"""Chunks per side of a shard, which is a file; without shards every chunk is one."""
_SMALLEST_LEVEL = 512
_MOST_COLOURS = 4096
"""With more objects the metadata would outgrow the labels; the viewer then chooses the colours."""
_TYPES = {"t": "time", "c": "channel"}
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class ZarrLabels:
    """A label image that is written block by block into a folder, in any order.

    Blocks that are whole multiples of ``unit`` may be written at once from several threads or processes; others
    share chunks with their neighbours and must come one after the other.

    Parameters
    ----------
    folder
        Becomes the root of the OME-Zarr; new, empty, or with what an earlier run wrote of the same image.
    shape
        (Y, X), (Z, Y, X) or (T, Z, Y, X) of the whole image.
    pixel_size
        µm.
    axes
        Letters of the axes; must be given for (T, Y, X).
    dtype
        Unsigned; uint32 holds whatever will come.
    version
        Of the OME-Zarr specification.
    shards
        Put several chunks into one file, for file systems that dislike many; only in 0.5.
    name
        Of the image, in its metadata.
    in_image
        The folder lies in the ``labels`` group of an image.
    """

    def __init__(
        self,
        folder: str | Path,
        shape: Sequence[int],
        pixel_size: PixelSize = None,
        *,
        axes: str | None = None,
        dtype: Any = np.uint32,
        version: Version = "0.5",
        shards: bool = False,
        name: str = "labels",
        in_image: bool = False,
    ):
        named = label_axes(folder, shape, axes)
        self._pyramid = _Pyramid(folder, named.lower(), shape, dtype, version, shards)
        self._name, self._in_image = name, in_image
        self._pixel_size = sizes_by_axis(pixel_size, named)
        self.unit = self._pyramid.unit
        """Extents of the block that no other block shares a file with, along every axis."""
        self.largest = 0
        """The largest label written so far."""

    def write(self, first: Sequence[int], block: np.ndarray) -> None:
        """Write a block, with all axes of the image, whose first pixel has the index ``first``.

        Raises
        ------
        AbbeError
            If the values are no labels, or do not fit in the type.
        ValueError
            If the block is not inside the image.
        OSError
            If the disk is full, or gone.
        """
        base = self._pyramid.base
        ends = [start + extent for start, extent in zip(first, block.shape)]
        inside = len(first) == block.ndim == base.ndim and min(first) >= 0
        if not inside or any(end > whole for end, whole in zip(ends, base.shape)):
            raise ValueError(f"{self._name}: a block of {block.shape} at {tuple(first)} is outside of {base.shape}")
        self.largest = max(self.largest, _checked(block, base.dtype, self._name))
        base[tuple(map(slice, first, ends))] = block.astype(base.dtype, copy=False)

    def take(self, labels: StoredLabels, largest: int) -> bool:
        """Take a whole image that lies on the disk in the same chunks without writing them again, if it does."""
        if labels.shape != self._pyramid.base.shape or not laid_out_alike(labels.array, self._pyramid.base):
            return False
        share_chunks(labels.array, self._pyramid.base)
        self.largest = largest
        return True

    def finish(self, largest: int | None = None) -> None:
        """Make the lower levels, then the metadata; ``largest`` is the last label where others wrote too."""
        scales = self._pyramid.build(_every_other)
        stated = self._pyramid.metadata(self._name, self._pixel_size, scales, "nearest")
        colours = _colours(self.largest if largest is None else largest)
        source = {"source": {"image": "../../"}} if self._in_image else {}
        self._pyramid.state(stated | {"image-label": self._pyramid.versioned(colours | source)})


def write_labels_zarr(
    path: str | Path,
    labels: LabelImage,
    pixel_size: PixelSize = None,
    *,
    axes: str | None = None,
    version: Version = "0.5",
    shards: bool = False,
    overwrite: bool = True,
) -> Path:
    """Write a label image as OME-Zarr of the smallest unsigned type that holds the labels, whole or not at all.

    Parameters
    ----------
    path
        The folder; its name should end in .ome.zarr. Below the ``labels`` folder of an OME-Zarr image the labels join
        that image.
    labels
        (Y, X), (Z, Y, X) or (T, Z, Y, X), non-negative integers or bool. The files of
        :class:`~abbe.data.stored_labels.StoredLabels` become those of the result where its type and chunks are theirs.
    pixel_size, axes, version, shards
        As :class:`ZarrLabels` takes them.
    overwrite
        Replace an older folder.

    Raises
    ------
    AbbeError
        If the values are no labels, or the folder cannot be written.
    """
    largest = _checked(labels, np.dtype(np.uint64), str(path))
    dtype = smallest_unsigned(largest)
    options: dict[str, Any] = {"axes": axes, "dtype": dtype, "version": version, "shards": shards}
    with zarr_labels(path, labels.shape, pixel_size, overwrite=overwrite, **options) as target:
        if isinstance(labels, StoredLabels) and target.take(labels, largest):
            return Path(path)
        for box in blocks(labels.shape, target.unit):
            target.write([part.start for part in box], labels[box])
    return Path(path)


@contextmanager
def zarr_labels(
    path: str | Path, shape: Sequence[int], pixel_size: PixelSize = None, *, overwrite: bool = True, **options: Any
) -> Iterator[ZarrLabels]:
    """Give a :class:`ZarrLabels` to write to, that appears at ``path`` when the context ends, or not at all.

    Raises
    ------
    AbbeError
        As :func:`~abbe.data.write.atomic_folder`.
    """
    path = Path(path)
    group = path.parent if path.parent.name == "labels" else None
    with atomic_folder(path, overwrite) as folder:
        target = ZarrLabels(folder, shape, pixel_size, name=_stem(path), in_image=group is not None, **options)
        yield target
        target.finish()
    if group is not None:
        _register(group, path.name, options.get("version", "0.5"))


def write_image_zarr(
    path: str | Path, image: Image, *, version: Version = "0.5", shards: bool = False, overwrite: bool = True
) -> Path:
    """Write an image as OME-Zarr with a pyramid of means, chunk by chunk, whole or not at all.

    Parameters
    ----------
    path
        The folder; its name should end in .ome.zarr.
    image
        Its axes may be any but unnamed ones; they are stored in the order TCZYX.
    version, shards
        As :class:`ZarrLabels` takes them.
    overwrite
        Replace an older folder.
    """
    if unknown := set(image.axes) - set("TCZYX"):
        raise AbbeError(f"{path}: cannot be written, {image.name} has unnamed axes ({', '.join(unknown)}); say --axes")
    axes = "".join(axis for axis in "TCZYX" if axis in image.axes)
    order = [image.axes.index(axis) for axis in axes]
    back = [axes.index(axis) for axis in image.axes]
    shape = [image.shape[axis] for axis in order]
    with atomic_folder(path, overwrite) as folder:
        pyramid = _Pyramid(folder, axes.lower(), shape, image.dtype, version, shards)
        for box in blocks(shape, pyramid.unit):
            pyramid.base[box] = np.asarray(image.data[tuple(box[axis] for axis in back)]).transpose(order)
        scales = pyramid.build(_mean)
        time = {} if image.time_step is None else {"t": image.time_step}
        stated = pyramid.metadata(_stem(Path(path)), image.pixel_size | time, scales, "mean")
        pyramid.state(stated | _omero(image))
    return Path(path)


class _Pyramid:
    """The arrays of an OME-Zarr image: level "0" is written from outside, the others are made from it."""

    def __init__(self, folder: str | Path, axes: str, shape: Sequence[int], dtype: Any, version: Version, shards: bool):
        import zarr

        if version not in ("0.4", "0.5"):
            raise AbbeError(f"{folder}: OME-Zarr {version} is not written; choose 0.4 or 0.5")
        if shards and version == "0.4":
            raise AbbeError(f"{folder}: OME-Zarr 0.4 has no shards; write 0.5 for them")
        self._axes, self._version, self._shards = axes, version, shards
        self._group = zarr.open_group(Path(folder), mode="a", zarr_format=2 if version == "0.4" else 3)
        plain = np.dtype(np.dtype(dtype).str)  # Zarr tells "long" from "long long"
        self.base = self._base(folder, tuple(shape), plain)
        self.unit = tuple(self.base.shards or self.base.chunks)

    def _base(self, folder: str | Path, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Create level 0, or open the one that an earlier run began."""
        if "0" not in self._group:
            return self._level(0, shape, dtype)
        begun: Any = self._group["0"]
        if getattr(begun, "shape", None) != shape or begun.dtype != dtype:
            raise AbbeError(f"{folder}: holds another image; remove it, or choose another folder")
        return begun

    def _level(self, number: int, shape: Sequence[int], dtype: np.dtype) -> Any:
        """Create the array of one level; chunks are planes, or parts of planes."""
        from numcodecs import Blosc

        options = chunked(shape, dtype, (CHUNK, CHUNK))
        if self._version == "0.4":
            separated = {"name": "v2", "separator": "/"}
            options |= {"compressors": Blosc("zstd", 3, Blosc.SHUFFLE), "chunk_key_encoding": separated}
        else:
            options |= {"dimension_names": tuple(self._axes)}
        if self._shards:
            chunks = options["chunks"]
            wanted = [-(-extent // chunk) for extent, chunk in zip(shape[-2:], chunks[-2:])]
            sides = [chunk * min(SHARD, n_chunks) for chunk, n_chunks in zip(chunks[-2:], wanted)]
            options["shards"] = (*chunks[:-2], *sides)
        return self._group.create_array(str(number), overwrite=True, **options)

    def build(self, halve: Callable[[np.ndarray], np.ndarray]) -> list[int]:
        """Make level after level until one fits on a screen; gives how much coarser than the base each level is."""
        above, factors = self.base, [1]
        while max(above.shape[-2:]) > _SMALLEST_LEVEL:
            shape = [*above.shape[:-2], *(-(-extent // 2) for extent in above.shape[-2:])]
            level = self._level(len(factors), shape, above.dtype)
            for box in blocks(shape, level.shards or level.chunks):
                source = *box[:-2], *(slice(2 * part.start, 2 * part.stop) for part in box[-2:])
                level[box] = halve(np.asarray(above[source]))
            above, factors = level, [*factors, 2 * factors[-1]]
        return factors

    def metadata(self, name: str, steps: dict[str, float], factors: Sequence[int], method: str) -> dict[str, Any]:
        """The multiscales entry; steps are in µm and seconds, an unknown one is a scale in pixels, without a unit."""
        axes: list[dict[str, str]] = []
        for axis in self._axes:
            unit = {"unit": "second" if axis == "t" else "micrometer"} if axis in steps else {}
            axes.append({"name": axis, "type": _TYPES.get(axis, "space"), **unit})
        datasets = [
            {"path": str(level), "coordinateTransformations": self._transforms(steps, factor, method == "mean")}
            for level, factor in enumerate(factors)
        ]
        made = {"description": f"halved by {method}", "method": "abbe", "version": __version__}
        entry = {"name": name, "axes": axes, "datasets": datasets, "type": method, "metadata": made}
        return {"multiscales": [self.versioned(entry)]}

    def _transforms(self, steps: dict[str, float], factor: int, centred: bool) -> list[dict[str, Any]]:
        """Scale of a level, and where its first pixel lies: a mean lies in the middle of its pixels."""
        sizes = [steps.get(axis, 1.0) for axis in self._axes]
        factors = [factor if axis in "yx" else 1 for axis in self._axes]
        transforms: list[dict[str, Any]] = [
            {"type": "scale", "scale": [size * coarser for size, coarser in zip(sizes, factors)]}
        ]
        if centred and factor > 1:
            shift = [size * (coarser - 1) / 2 for size, coarser in zip(sizes, factors)]
            transforms.append({"type": "translation", "translation": shift})
        return transforms

    def versioned(self, part: dict[str, Any]) -> dict[str, Any]:
        """Until 0.4 every part of the metadata states the version, since 0.5 the whole does."""
        return {"version": self._version, **part} if self._version == "0.4" else part

    def state(self, metadata: dict[str, Any]) -> None:
        """Write the metadata of the group."""
        whole = {"ome": {"version": self._version, **metadata}} if self._version == "0.5" else metadata
        self._group.attrs.update(whole)


def _checked(labels: LabelImage, dtype: np.dtype, name: str) -> int:
    """Give the largest label of an array; fails if they are no labels of that type."""
    try:
        check_labels(labels)
    except ValueError as error:
        raise AbbeError(f"{name}: cannot be written, {error}") from error
    largest = largest_label(labels)
    if largest > np.iinfo(dtype).max:
        raise AbbeError(f"{name}: label {largest} does not fit in {dtype}")
    return largest


def _every_other(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::2, ::2]


def _mean(pixels: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 pixels in the type of the image; a last row or column without a partner counts twice."""
    height, width = pixels.shape[-2:]
    pad = [(0, 0)] * (pixels.ndim - 2) + [(0, height % 2), (0, width % 2)]
    wide = np.pad(pixels, pad, mode="edge").astype(np.float64)
    mean = (wide[..., ::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, ::2] + wide[..., 1::2, 1::2]) / 4
    return (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype)


def _colours(largest: int) -> dict[str, Any]:
    """Colours that differ between neighbours in number; none where there would be too many."""
    if not 0 < largest <= _MOST_COLOURS:
        return {}
    colours = [{"label-value": 0, "rgba": [0, 0, 0, 0]}]
    for label in range(1, largest + 1):
        red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1, 0.75, 1.0)
        colours.append({"label-value": label, "rgba": [round(255 * part) for part in (red, green, blue)] + [255]})
    return {"colors": colours}


def _omero(image: Image) -> dict[str, Any]:
    """Names and display colours of the channels, where names are known."""
    if not image.channels:
        return {}
    primary = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    low, high = (0, np.iinfo(image.dtype).max) if image.dtype.kind in "ui" else (0, 1)
    window = {"min": low, "max": int(high), "start": low, "end": int(high)}
    channels = [
        {"label": name, "color": primary.get(name.lower(), "FFFFFF"), "active": True, "window": window}
        for name in image.channels
    ]
    return {"omero": {"channels": channels}}


def _register(group: Path, name: str, version: Version) -> None:
    """Add a label image to the list of its ``labels`` group, which is made if it is not there."""
    import zarr

    labels = zarr.open_group(group, mode="a", zarr_format=2 if version == "0.4" else 3)
    attributes: dict[str, Any] = dict(labels.attrs)
    stated = attributes.get("ome") or {"version": version} if version == "0.5" else attributes
    stated["labels"] = [*(other for other in stated.get("labels") or () if other != name), name]
    labels.attrs.update({"ome": stated} if version == "0.5" else stated)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")
