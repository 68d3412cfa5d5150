"""How large are the objects? Found by looking at a part of the image at several scales.

A network is sure of what it finds where objects have sizes that it knows from training, and unsure where they are too
large or too small. So the scale at which it is most certain tells the size. One look at the image as it is settles most
images; only where that look is unsure do others follow. Objects are then brought into the range of diameters at which
the network measured best: touching ones are told apart by more pixels, coarse ones seen as wholes by fewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from abbe.contract import KnowsItsSize
from abbe.job import Job
from abbe.ops.boxes import Box, corner, extents, moved
from abbe.ops.labels import typical_diameter
from abbe.tiling.run import Region

SURE = 0.8
"""Certainty from which one look is enough: above 0.85 for objects of known size on validation images, below
0.75 for the same images enlarged until their objects are too large."""
GAIN = 0.1
"""How much more certain another scale has to be."""
SCALES = (0.5, 0.25, 0.125, 2.0)
LARGEST = 3.0
"""Small objects are not enlarged further than this."""
WINDOW = 512
"""Pixels per side of a look, at the scale of the look."""


@dataclass(frozen=True)
class Look:
    """What a look found."""

    certainty: float
    """0 to 1; 0 without objects."""
    diameter: float
    """Of a circle with the objects' area, mean weighted by area, in pixels of the look; NaN without objects."""


def find_scale(look: Callable[[float], Look], known: tuple[float, float]) -> float:
    """Choose the factor that brings the objects' diameters into the known range; 1 where that is not needed."""
    scale, best = 1.0, look(1.0)
    if best.certainty < SURE:
        looks = {other: look(other) for other in SCALES}
        other, surest = max(looks.items(), key=lambda item: item[1].certainty)
        if surest.certainty >= best.certainty + GAIN:
            scale, best = other, surest
    if not best.diameter > 0:  # nothing was found
        return 1.0
    diameter = best.diameter / scale
    return min(float(np.clip(diameter, *known)) / diameter, LARGEST)


def look(job: Job, scale: float) -> Look:
    """Segment a part of a job's image, halfway through its frames, at a scale."""
    region = job.read(job.frames // 2)
    window = busiest_window(region, job.shape, round(WINDOW / scale))
    scales, inside = (scale,) * len(window), offset(region, corner(window))
    part = dataclasses.replace(job, read=lambda _: inside, shape=extents(window), scale=scales, frames=1)
    maps = part.maps()
    decoded = part.method.decode(maps)
    assert isinstance(part.method, KnowsItsSize)
    return Look(part.method.certainty(maps, decoded), typical_diameter(decoded["labels"]))


def busiest_window(region: Region, shape: Sequence[int], side: int) -> Box:
    """Choose among the centre and four places around it the window of most contrast, halfway in a stack."""
    sides = [min(side, extent) for extent in shape]
    room = [extent - side for extent, side in zip(shape, sides, strict=True)]
    places = [(0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]
    halfway = (0.5,) * (len(sides) - 2)
    corners = dict.fromkeys(tuple(int(r * p) for r, p in zip(room, (*halfway, *place))) for place in places)
    boxes = [moved([(0, side) for side in sides], first) for first in corners]
    return boxes[0] if len(boxes) == 1 else max(boxes, key=lambda box: float(region(box).std()))


def offset(region: Region, first: Sequence[int]) -> Region:
    """Read a part of an image as if it began at its own corner."""
    return lambda box: region(moved(box, first))
