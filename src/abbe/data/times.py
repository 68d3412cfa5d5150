"""Time as an axis of space: series whose times a network of stacks takes as if they were planes.

What a network learns from the neighbours of a pixel may as well come from the images before and after. So the letters T
and Z change places, and everything that works on stacks works on series: (T, Y, X) is a stack, and (T, Z, Y, X) a stack
for every plane.
"""

from __future__ import annotations

from dataclasses import replace

from abbe.data.axes import UNKNOWN
from abbe.data.image import Image
from abbe.errors import AbbeError

_EXCHANGED = str.maketrans("TZ", "ZT")


def exchanged(axes: str) -> str:
    """Call times planes and planes times, in letters of axes."""
    return axes.translate(_EXCHANGED)


def times_as_planes(image: Image) -> Image:
    """View an image with its times as planes, and its planes as times, without reading."""
    return replace(image, axes=exchanged(image.axes))


def with_times(image: Image) -> Image:
    """Take the one unnamed axis of an image without times as these.

    Raises
    ------
    AbbeError
        When the image is no series.
    """
    if "T" not in image.axes and image.axes.count(UNKNOWN) == 1:
        image = replace(image, axes=image.axes.replace(UNKNOWN, "T"))
    if "T" not in image.axes:
        raise AbbeError(
            f"{image.name}: axes {image.axes} have no times; expected a series such as TYX, whose times are learnt from"
        )
    return image
