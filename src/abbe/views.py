"""How images come to a network of whole pictures: as squares, of all of an image or cut around its objects.

Grey values are normalised as the model's description says, channels matched, the picture scaled to the square, and
then, for weights that others published, the mean and deviation applied that their publisher used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from abbe.data.channels import match_channels
from abbe.data.image import Image
from abbe.data.normalize import Colours, Normalization, Statistics, sample_pixels
from abbe.data.squares import Fit, around, inside, mirror_out, shape_for, square
from abbe.errors import AbbeError
from abbe.methods.backbones.classification import Classification
from abbe.model import Model
from abbe.ops.boxes import Box, whole
from abbe.ops.resampling import weights
from abbe.settings import ClassifySettings

AT_ONCE = 2**25
"""Values of an image that are read at once; larger ones are shrunk band by band."""
DARK = 0.125
"""Share of its type's range that the values of an image have to reach to be seen by weights of photographs."""
TOGETHER, PIXELS = 32, 32 * 256**2
"""Most pictures that a network sees together, and most pixels of them."""


@dataclass(frozen=True)
class Views:
    """What is done to an image before the network sees it."""

    normalization: Normalization
    """Of the whole image, or of an object's square, which is treated as a file that holds it would be."""
    channels: int
    """That the network takes."""
    size: int
    """Side in pixels of the square that it takes."""
    fit: Fit = "crop"
    """How pictures of other shapes become squares."""
    object_side: int | None = None
    """Side in pixels of the square cut around an object; its own longer side and the margin unless given."""
    object_margin: float = 0.25
    """Context on each side of an object, as a share of its longer side."""
    mean: tuple[float, ...] = ()
    """Of each channel, subtracted from normalised values; nothing is done where it is empty."""
    std: tuple[float, ...] = ()
    """What each channel is divided by then."""

    @property
    def together(self) -> int:
        """How many pictures the network sees at once: fewer of large ones, so that memory stays bounded."""
        return max(1, min(TOGETHER, PIXELS // self.size**2))

    def picture(self, frame: Image) -> np.ndarray:
        """Bring a whole image CYX to what the network takes, (C, size, size) float32."""
        if frame.n_channels * frame.height * frame.width <= AT_ONCE:
            pixels = self.normalization.normalize(frame.box(whole(frame.extents)))
        else:
            statistics = self.normalization.statistics(frame.box, frame.extents)
            pixels = shrunk(frame, statistics, shape_for(frame.extents, self.size, self.fit))
        return self._square(pixels, frame.name)

    def too_dark(self, frame: Image) -> list[str]:
        """Warn where an image uses so little of its type's range that weights of photographs see it as black."""
        kind = frame.dtype
        if self.normalization.kind != "range" or kind.kind not in "iu" or kind.itemsize != 2:
            return []
        share = int(sample_pixels(frame.box, frame.extents).max()) / np.iinfo(kind).max
        if share >= DARK:
            return []
        told = f"uses {share:.1%} of the range of {kind} and is nearly black to these weights"
        return [f"{told}; try --contrast percentile"]

    def squares(self, frame: Image, boxes: Sequence[Box]) -> Iterator[np.ndarray]:
        """Bring what is around each box of an image CYX to what the network takes, (C, size, size) each."""
        return (self._square(self.normalization.normalize(crop), frame.name) for crop in self.crops(frame, boxes))

    def crops(self, frame: Image, boxes: Sequence[Box]) -> Iterator[np.ndarray]:
        """Cut the square around each box out of an image, (C, Y, X) in its own type, mirrored beyond the border."""
        small = frame.n_channels * frame.height * frame.width <= AT_ONCE
        held = frame.box(whole(frame.extents)) if small else None
        for box in boxes:
            wanted = around(box, self.object_side, self.object_margin)
            part = inside(wanted, frame.extents)
            (top, bottom), (left, right) = part
            pixels = frame.box(part) if held is None else held[:, top:bottom, left:right]
            yield mirror_out(pixels, part, wanted)

    def _square(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Match channels, scale, and apply the publisher's mean and deviation, which scaling commutes with."""
        fitted = square(match_channels(pixels, self.channels, name), self.size, self.fit)
        return Colours(self.mean, self.std).apply(fitted)


def views_of(model: Model, settings: ClassifySettings | None = None) -> Views:
    """Say how images come to a model of whole pictures.

    Parameters
    ----------
    model
        Its description tells normalisation, colours and size.
    settings
        What differs from that.

    Raises
    ------
    AbbeError
        When the model is not one of whole pictures, or nobody tells at which size it looks.
    """
    model.expect_images()
    method, chosen = model.method, settings or ClassifySettings()
    if not isinstance(method, Classification):
        raise AbbeError(
            f"model {model.name!r} does not look at whole pictures; expected a classifier, or a backbone such as "
            "resnet50 that `abbe convert` has stored"
        )
    options, colours = method.options, model.description.colours
    size = options.size if chosen.size is None else chosen.size
    side = options.object_side if chosen.object_side is None else chosen.object_side
    margin = options.object_margin if chosen.object_margin is None else chosen.object_margin
    if chosen.size is not None and size < 1:
        raise AbbeError(f"pictures of {size} px; expected 1 px at least, such as --size 224")
    if size < 1:
        told = "does not say how large its pictures are; give their side with --size, such as 224"
        raise AbbeError(f"model {model.name!r} {told}")
    if (side is not None and side < 1) or margin < 0:
        raise AbbeError(f"squares of side {side} and margin {margin:g} around objects; expected 1 px and 0 at least")
    mean, std = (tuple(colours.get(name, ())) for name in ("mean", "std"))
    if {len(mean), len(std)} - {0, method.in_channels}:
        raise AbbeError(
            f"model {model.name!r} has mean and std of {len(mean)} and {len(std)} channels, but takes "
            f"{method.in_channels}; convert its weights again"
        )
    normalization = Normalization(**model.description.normalization)
    if chosen.contrast != "model":
        normalization = Normalization(chosen.contrast)
    return Views(normalization, method.in_channels, size, options.fit, side, margin, mean, std)


def shrunk(frame: Image, statistics: Statistics, shape: tuple[int, int]) -> np.ndarray:
    """Normalise an image CYX and bring it to ``shape``, (C, Y, X) float32, reading it band by band."""
    (_, down), (_, across) = (weights(0, new, new, old) for new, old in zip(shape, frame.extents, strict=True))
    rows = max(1, AT_ONCE // max(1, frame.n_channels * frame.width))
    result = np.zeros((frame.n_channels, *shape), np.float32)
    for y0 in range(0, frame.height, rows):
        y1 = min(y0 + rows, frame.height)
        for target, channel in zip(result, statistics.apply(frame.box(((y0, y1), (0, frame.width)))), strict=True):
            target += down[:, y0:y1] @ (across @ channel.T).T
    return result


def boxes_of(labels: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Give the numbers of the objects in a label image (Y, X), ascending, and their boxes."""
    if int(labels.max(initial=0)) > labels.size:  # numbers with large gaps would each cost a place in a list
        values, index = np.unique(labels, return_inverse=True)
        inside_numbers, boxes = boxes_of((index.reshape(labels.shape) + (values[0] > 0)).astype(np.int32))
        return values[inside_numbers - (values[0] > 0)], boxes
    found = [(number, box) for number, box in enumerate(ndimage.find_objects(labels), 1) if box is not None]
    boxes = [tuple((along.start, along.stop) for along in box) for _, box in found]
    return np.array([number for number, _ in found], np.int64), boxes
