"""Images of classes as samples for training: read, normalised, and scaled to what the network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from abbe.data.channels import match_channels
from abbe.data.classes import Labelled, class_indices
from abbe.data.datasets import Normalize, whole_plane
from abbe.data.read import read
from abbe.data.sample import Sample
from abbe.data.squares import Fit, scale_to

KEPT_BYTES = 2**31
"""Samples are kept in memory while all of them need no more than this."""


class ClassSamples(Dataset[Sample]):
    """Samples with ``extra["class"]``, the number of the class; item i is read when first asked for.

    Parameters
    ----------
    images
        Files and their classes.
    classes
        Names, in the order of their numbers.
    normalize
        (C, Y, X) in the file's type to float32.
    in_channels
        Channels of the network; grey and colour are matched as everywhere.
    size
        Side of the square that the network takes, in pixels.
    fit
        How other sizes are brought to it. With "crop" a sample keeps the whole of its longer side.
    """

    def __init__(
        self,
        images: Sequence[Labelled],
        classes: Sequence[str],
        normalize: Normalize,
        in_channels: int,
        size: int,
        fit: Fit = "crop",
    ) -> None:
        self.images, self.targets = list(images), class_indices(images, classes)
        self.normalize, self.in_channels, self.size, self.fit = normalize, in_channels, size, fit
        few = len(images) * in_channels * size * size * 4 <= KEPT_BYTES
        self._kept: dict[int, Sample] | None = {} if few else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if self._kept is None:
            return self._read(index)
        if index not in self._kept:
            self._kept[index] = self._read(index)
        return self._kept[index]

    def _read(self, index: int) -> Sample:
        one = self.images[index]
        pixels = read_picture(one.image, self.normalize, self.in_channels)
        scaled = scale_to(pixels, self.size, self.fit)
        return Sample(scaled, name=one.name, extra={"class": int(self.targets[index])})


def read_picture(path: Path, normalize: Normalize, in_channels: int) -> np.ndarray:
    """Read a whole image of one plane as (C, Y, X), normalised, with the channels that a network takes."""
    return match_channels(normalize(whole_plane(read(path))), in_channels, path.name)
