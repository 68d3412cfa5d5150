"""Working at another pixel size than the image's, tile by tile, without a seam.

An output pixel's weights depend on its own coordinate alone, so a region resampled by itself equals the same region of
the whole resampled image; see :mod:`abbe.ops.resampling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from abbe.ops.boxes import Box, corner, slices
from abbe.ops.resampling import Weights, resample, weights
from abbe.tiling.run import Region
from abbe.tiling.stitch import Patch

MARGIN = 16
"""Pixels beyond a tile's core that resampling its maps may ask for, up to a factor of 8 between the two images."""


def scaled_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    """Extents of an image after scaling, at least one pixel."""
    return tuple(max(round(extent * factor), 1) for extent, factor in zip(shape, scale, strict=True))


def margin_for(scale: Sequence[float]) -> tuple[int, ...]:
    """Give the margin for maps of an image that was enlarged by ``scale``, in steps of :data:`MARGIN`."""
    return tuple(MARGIN * max(math.ceil(factor / 8), 1) for factor in scale)


def scaled_region(region: Region, shape: Sequence[int], target: Sequence[int]) -> Region:
    """Read an image of ``shape`` as if it had the extents ``target``."""

    def read(box: Box) -> np.ndarray:
        along = axis_weights(box, target, shape)
        source = tuple((first, first + matrix.shape[1]) for first, matrix in along)
        return resample(region(source), [matrix for _, matrix in along])

    return read


def rescale(patches: Iterable[Patch], shape: Sequence[int], target: Sequence[int]) -> Iterator[Patch]:
    """Turn the patches of an image of ``shape`` into those of an image of ``target``, without margins.

    The new cores partition the new image. What a core needs from beyond the old one must lie in the margin that the
    patch keeps, see :func:`margin_for`.
    """
    for patch in patches:
        core = rescaled_core(patch.core, shape, target)
        if core is not None:
            along = axis_weights(core, target, shape)
            needed = tuple((first, first + matrix.shape[1]) for first, matrix in along)
            part, matrices = slices(needed, corner(patch.kept)), [matrix for _, matrix in along]
            yield Patch(core, core, {name: resample(maps[:, *part], matrices) for name, maps in patch.maps.items()})


def rescaled_core(core: Box, shape: Sequence[int], target: Sequence[int]) -> Box | None:
    """Find the pixels of the target that a core stands for; None for a sliver that falls between two of them."""
    found = tuple(
        (round(start * new / old), round(stop * new / old))
        for (start, stop), new, old in zip(core, target, shape, strict=True)
    )
    return None if any(start == stop for start, stop in found) else found


def axis_weights(box: Box, extent: Sequence[int], source: Sequence[int]) -> list[Weights]:
    """Give the weights for a box of an image of ``extent``, axis by axis."""
    return [weights(*span, new, old) for span, new, old in zip(box, extent, source, strict=True)]
